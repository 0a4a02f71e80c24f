"""Attestations: the same documents as BuildKit attaches, for the same readers."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.spec.manifest import Index, parse
from lamina.store.store import Store
from support import Member, lamina, peer, real_registry, store_with, write_layout

STATUS = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"
BASE: list[Member] = [("etc/os-release", b"ID=debian\nVERSION_ID=12\n"), ("var/lib/dpkg/status", STATUS)]
DOCKERFILE = b"FROM base\nARG TOKEN\nLABEL a=b\nCOPY file /file\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", "base", [BASE])
    store_with(tmp_path / "layout", tmp_path / "store", "base")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_bytes(b"content")
    (tmp_path / "context/Dockerfile").write_bytes(DOCKERFILE)
    return tmp_path / "store"


def build(root: Path, *words: str, **environment: str) -> None:
    done = lamina("build", "-q", "-t", "app:1", *words, str(root.parent / "context"), root=root, **environment)
    assert done.returncode == 0, done.stderr


def statements(root: Path) -> tuple[str, dict[str, Any]]:
    """The digest of the image's manifest, and the statements about it by the kind of their predicate."""
    store = Store.open(str(root))
    index = parse(store.manifest(store.resolve("app:1")))
    assert isinstance(index, Index)
    image, about = index.manifests
    assert (str(image.platform), str(about.platform)) == ("linux/amd64", "unknown/unknown")
    assert about.annotations == {
        "vnd.docker.reference.digest": str(image.digest),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = json.loads(store.manifest(about))
    assert manifest["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert manifest["subject"]["digest"] == str(image.digest)
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        algorithm, _, encoded = layer["digest"].partition(":")
        statement = json.loads((root / "blobs" / algorithm / encoded).read_bytes())
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"]
        assert statement["subject"] == [
            {"name": "pkg:docker/app@1?platform=linux%2Famd64", "digest": {"sha256": image.digest.encoded}}
        ]
        found[statement["predicateType"]] = statement["predicate"]
    return str(image.digest), found


def test_provenance_names_the_base_and_no_build_argument(root: Path) -> None:
    build(root, "--provenance", "true", "--build-arg", "TOKEN=very-secret")
    digest, found = statements(root)
    assert list(found) == ["https://slsa.dev/provenance/v1"]
    definition = found["https://slsa.dev/provenance/v1"]["buildDefinition"]
    base = Store.open(str(root)).resolve("base").digest
    assert definition["resolvedDependencies"] == [
        {
            "uri": f"pkg:docker/base@latest?digest={base}&platform=linux%2Famd64",
            "digest": {"sha256": base.encoded},
        }
    ]
    assert "very-secret" not in json.dumps(found)
    details = found["https://slsa.dev/provenance/v1"]["runDetails"]
    assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert lamina("inspect", "app:1", "--format", "{{.Id}}", root=root).returncode == 0
    assert lamina("cat", "app:1", "/file", root=root).stdout == b"content"
    assert digest != str(Store.open(str(root)).resolve("app:1").digest)


def test_the_longer_provenance_has_arguments_steps_and_the_dockerfile(root: Path) -> None:
    build(root, "--attest", "type=provenance,mode=max,builder-id=https://ci.example/1", "--build-arg", "TOKEN=t")
    predicate = statements(root)[1]["https://slsa.dev/provenance/v1"]
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"]["request"]["args"] == {"build-arg:TOKEN": "t"}
    steps = definition["internalParameters"]["buildConfig"]["steps"]
    assert [(one["id"], one["inputs"]) for one in steps] == [("step0", []), ("step1", ["step0"])]
    assert steps[1]["text"] == "COPY file /file"
    assert steps[1]["line"] == 4
    assert predicate["runDetails"]["builder"]["id"] == "https://ci.example/1"
    assert base64.b64decode(predicate["runDetails"]["metadata"]["source"]["data"]) == DOCKERFILE


def test_a_bill_of_materials_is_that_of_the_image(root: Path) -> None:
    build(root, "--sbom", "true")
    predicate = statements(root)[1]["https://spdx.dev/Document"]
    assert predicate["spdxVersion"] == "SPDX-2.3"
    assert "libc6" in {package["name"] for package in predicate["packages"]}


def test_attestations_are_the_same_with_a_fixed_time(root: Path) -> None:
    digests = set()
    for _ in range(2):
        build(root, "--sbom=true", "--provenance", "mode=max", SOURCE_DATE_EPOCH="1700000000")
        digests.add(str(Store.open(str(root)).resolve("app:1").digest))
    assert len(digests) == 1


def test_without_them_the_image_is_a_manifest(root: Path) -> None:
    build(root, "--provenance=false", "--sbom=false", "--attest", "type=sbom,disabled=true")
    assert not isinstance(parse(Store.open(str(root)).manifest(Store.open(str(root)).resolve("app:1"))), Index)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sbom=generator=x/y"], b"'generator' is not supported"),
        (["--provenance=mode=all"], b"no mode 'all'"),
        (["--provenance=version=v0.2"], b"version 'v0.2' is not supported"),
        (["--attest", "type=other"], b"unknown type 'other'"),
        (["--sbom=true", "--format", "docker"], b"docker's format has no attestations"),
    ],
)
def test_what_can_not_be_attached_is_said(root: Path, words: list[str], message: bytes) -> None:
    done = lamina("build", *words, str(root.parent / "context"), root=root)
    assert done.returncode not in (0, 1)
    assert message in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.peer
def test_a_push_takes_them_along_and_crane_reads_them(root: Path, tmp_path: Path) -> None:
    crane = peer("crane")
    with real_registry("docker-registry", tmp_path / "registry") as host:
        words = [
            "build",
            "-q",
            "-t",
            f"{host}/app:1",
            "--provenance=true",
            "--sbom=true",
            "--push",
            str(tmp_path / "context"),
        ]
        done = lamina(*words, root=root)
        assert done.returncode == 0, done.stderr
        index = json.loads(
            subprocess.run([crane, "manifest", f"{host}/app:1"], capture_output=True, check=True).stdout
        )
        about = index["manifests"][1]
        assert about["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        name = f"{host}/app@{about['digest']}"
        manifest = json.loads(subprocess.run([crane, "manifest", name], capture_output=True, check=True).stdout)
        for layer in manifest["layers"]:
            blob = subprocess.run([crane, "blob", f"{host}/app@{layer['digest']}"], capture_output=True, check=True)
            assert json.loads(blob.stdout)["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"]
