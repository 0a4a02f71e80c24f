"""The clients that people have, each with its own ways, against one `lamina serve` that runs as users start it: what
they push is what others pull, and in the end the store is whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import buildkit_process
from docker_engine import Docker
from lamina.spec.descriptor import Descriptor
from lamina.spec.platform import Platform
from server_process import serving
from support import busybox, lamina, peer, podman_command, require_root, require_tool, write_index, write_layout

pytestmark = pytest.mark.peer
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
KINDS = ", ".join([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST])
BIG = random.Random(26).randbytes(3_000_000)


def run(*words: object, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, env=env, timeout=120)
    assert done.returncode == 0, (words, done.stderr[-3000:])
    return done.stdout.decode()


def ok(*words: str, root: Path) -> str:
    done = lamina(*words, root=root)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.decode().strip()


def answer(host: str, path: str, method: str = "GET") -> tuple[dict[str, str], bytes]:
    """Headers with lower-case names, and the body."""
    request = urllib.request.Request(f"http://{host}{path}", method=method, headers={"Accept": KINDS})
    with urllib.request.urlopen(request, timeout=30) as told:
        return {key.lower(): value for key, value in told.headers.items()}, told.read()


def manifest(host: str, repository: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(answer(host, f"/v2/{repository}/manifests/{name}")[1])
    return document


def digest(host: str, repository: str, name: str) -> str:
    return answer(host, f"/v2/{repository}/manifests/{name}", "HEAD")[0]["docker-content-digest"]


def tags(host: str, repository: str) -> list[str]:
    found: list[str] = json.loads(answer(host, f"/v2/{repository}/tags/list")[1])["tags"]
    return found


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with "app" and "multi", an index of two platforms."""
    place = tmp_path_factory.mktemp("images") / "layout"
    base = [("bin/", None), ("bin/busybox", busybox(), {"mode": 0o755}), ("big", BIG), ("etc/", None)]
    layers = [[*base, ("etc/conf", b"one\n")], [("etc/conf", b"two\n"), ("srv/", None), ("srv/x", b"x")]]
    ours = write_layout(place, "app", layers)
    arm = write_layout(place, "arm", [*layers, [("arm", b"")]], config={"architecture": "arm64"})
    entries = [
        Descriptor(one.media_type, one.digest, one.size, platform=platform)
        for one, platform in ((ours, Platform.host()), (arm, Platform.parse("linux/arm64")))
    ]
    write_index(place, "multi", entries)
    return place


@pytest.fixture(scope="module")
def host(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a registry with t/app:1 and t/multi:1. The store must be whole in the end."""
    top = tmp_path_factory.mktemp("registry")
    with serving(top / "store", "--writable", log=top / "log") as server:
        for name in ("app", "multi"):
            ok("copy", "--all", f"oci:{layout}:{name}", f"docker://{server.name}/t/{name}:1", root=top / "none")
        yield server.name
        assert server.running(), server.log.read_text()
        assert server.stop() == 0
    assert "Traceback" not in (top / "log").read_text()
    ok("fsck", root=top / "store")


def test_docker_pushes_mounts_and_pulls_by_tag_and_digest(docker: Docker, host: str, layout: Path) -> None:
    pulled = docker.ok("pull", f"{host}/t/app:1")
    assert digest(host, "t/app", "1") in pulled
    docker.ok("tag", f"{host}/t/app:1", f"{host}/docker/app:1")
    assert docker.ok("push", f"{host}/docker/app:1").count("Mounted from t/app") == 2
    pushed = digest(host, "docker/app", "1")
    assert manifest(host, "docker/app", "1")["mediaType"] == DOCKER_MANIFEST
    image = docker.ok("inspect", "--format", "{{.Id}}", f"{host}/docker/app:1")
    docker.ok("rmi", f"{host}/docker/app:1", f"{host}/t/app:1")
    docker.ok("pull", f"{host}/docker/app@{pushed}")
    assert docker.ok("inspect", "--format", "{{.Id}}", f"{host}/docker/app@{pushed}") == image
    docker.ok("rmi", f"{host}/docker/app@{pushed}")


def test_docker_makes_a_manifest_list_and_pulls_its_platform(docker: Docker, host: str) -> None:
    for platform in ("amd64", "arm64"):
        docker.ok("pull", "--platform", f"linux/{platform}", f"{host}/t/multi:1")
        docker.ok("tag", f"{host}/t/multi:1", f"{host}/docker/list:{platform}")
        docker.ok("push", f"{host}/docker/list:{platform}")
    parts = [f"{host}/docker/list:{platform}" for platform in ("amd64", "arm64")]
    docker.ok("manifest", "create", "--insecure", f"{host}/docker/list:1", *parts)
    docker.ok("manifest", "push", "--insecure", f"{host}/docker/list:1")
    made = manifest(host, "docker/list", "1")
    assert made["mediaType"] == DOCKER_LIST
    assert {one["platform"]["architecture"] for one in made["manifests"]} == {"amd64", "arm64"}
    docker.ok("rmi", "--force", *parts, f"{host}/t/multi:1")
    docker.ok("pull", "--platform", "linux/arm64", f"{host}/docker/list:1")
    assert docker.ok("inspect", "--format", "{{.Architecture}}", f"{host}/docker/list:1") == "arm64"
    docker.ok("rmi", "--force", f"{host}/docker/list:1")


def test_podman_pushes_zstd_layers_and_a_list(host: str, tmp_path: Path) -> None:
    files = tmp_path / "files.tar"
    (tmp_path / "big").write_bytes(BIG)
    run("tar", "-cf", files, "-C", tmp_path, "big")
    with podman_command() as podman:
        there = f"{host}/podman/zstd:1"
        run(*podman, "import", "-q", files, there)
        run(*podman, "push", "-q", "--tls-verify=false", "--compression-format", "zstd", "--format", "oci", there)
        (layer,) = manifest(host, "podman/zstd", "1")["layers"]
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
        run(*podman, "manifest", "create", "both")
        run(*podman, "manifest", "add", "--tls-verify=false", "both", f"docker://{there}")
        run(*podman, "manifest", "push", "--all", "--tls-verify=false", "both", f"docker://{host}/podman/list:1")
        run(*podman, "rmi", "--force", "--all")
        run(*podman, "pull", "-q", "--tls-verify=false", f"{host}/podman/zstd@{digest(host, 'podman/zstd', '1')}")
        search = (*podman, "search", "--tls-verify=false")
        found = run(*search, f"{host}/podman/", "--format", "{{.Name}}").split()
        assert sorted(found) == [f"{host}/podman/list", f"{host}/podman/zstd"]
        assert run(*search, "--list-tags", f"{host}/podman/zstd").split()[-2:] == [f"{host}/podman/zstd", "1"]
    ok("pull", "-q", f"{host}/podman/zstd:1", root=tmp_path / "back")
    assert lamina("cat", f"{host}/podman/zstd:1", "/big", root=tmp_path / "back").stdout == BIG


def test_skopeo_copies_all_platforms_converts_syncs_and_deletes(host: str, layout: Path, tmp_path: Path) -> None:
    require_tool("skopeo")
    copy = ("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false")
    run(*copy, "--all", "--preserve-digests", f"docker://{host}/t/multi:1", f"docker://{host}/skopeo/multi:1")
    assert digest(host, "skopeo/multi", "1") == digest(host, "t/multi", "1")
    run(*copy, "--format", "v2s2", f"docker://{host}/t/app:1", f"docker://{host}/skopeo/app:docker")
    assert manifest(host, "skopeo/app", "docker")["mediaType"] == DOCKER_MANIFEST
    run(*copy, "--dest-compress-format", "zstd", f"oci:{layout}:app", f"docker://{host}/skopeo/app:again")
    assert tags(host, "skopeo/app") == ["again", "docker"]
    told = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{host}/skopeo/app:docker"))
    assert told["RepoTags"] == ["again", "docker"]
    sync = ("skopeo", "sync", "--src-tls-verify=false", "--all", "--src", "docker", "--dest", "dir")
    run(*sync, f"{host}/skopeo/app", tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"app:again", "app:docker"}
    run("skopeo", "delete", "--tls-verify=false", f"docker://{host}/skopeo/app:docker")
    assert tags(host, "skopeo/app") == ["again"]


def test_buildah_builds_and_pushes_docker_manifests_and_a_list(host: str, tmp_path: Path) -> None:
    require_tool("buildah")
    require_root()
    (tmp_path / "Containerfile").write_text(f"FROM {host}/t/app:1\nCOPY Containerfile /made\n")
    with podman_command() as podman:
        buildah = ["buildah", *podman[1:]]
        run(*buildah, "bud", "-q", "--tls-verify=false", "--format", "docker", "--manifest", "list", tmp_path)
        run(*buildah, "manifest", "push", "--all", "--tls-verify=false", "list", f"docker://{host}/buildah/list:1")
    (one,) = manifest(host, "buildah/list", "1")["manifests"]
    assert one["mediaType"] == DOCKER_MANIFEST
    assert ok("cat", f"docker://{host}/buildah/list@{one['digest']}", "/made", root=tmp_path / "none").startswith(
        "FROM"
    )


def test_crane_appends_indexes_copies_all_tags_and_deletes(host: str, tmp_path: Path) -> None:
    crane = peer("crane")
    layer = tmp_path / "layer.tar"
    (tmp_path / "more").write_text("more")
    run("tar", "-cf", layer, "-C", tmp_path, "more")
    run(crane, "append", "--insecure", "-b", f"{host}/t/app:1", "-f", layer, "-t", f"{host}/crane/app:1")
    run(crane, "validate", "--insecure", "--remote", f"{host}/crane/app:1")
    run(crane, "mutate", "--insecure", f"{host}/crane/app:1", "-l", "a=b", "-t", f"{host}/crane/app:2")
    run(crane, "index", "append", "--insecure", "-m", f"{host}/crane/app:1", "-m", f"{host}/crane/app:2",
        "-t", f"{host}/crane/app:all")  # fmt: skip
    assert len(manifest(host, "crane/app", "all")["manifests"]) == 2
    run(crane, "copy", "--insecure", "--all-tags", f"{host}/crane/app", f"{host}/crane/copy")
    assert run(crane, "ls", "--insecure", f"{host}/crane/copy").split() == ["1", "2", "all"]
    assert {"crane/app", "crane/copy"} <= set(run(crane, "catalog", "--insecure", host).split())
    run(crane, "pull", "--insecure", f"{host}/crane/copy:1", tmp_path / "image.tar")
    run(crane, "push", "--insecure", tmp_path / "image.tar", f"{host}/crane/back:1")
    assert run(crane, "config", "--insecure", f"{host}/crane/back:1") == run(
        crane, "config", "--insecure", f"{host}/crane/app:1"
    )
    run(crane, "tag", "--insecure", f"{host}/crane/copy:1", "moved")
    run(crane, "delete", "--insecure", f"{host}/crane/copy@{digest(host, 'crane/copy', '1')}")
    assert tags(host, "crane/copy") == ["2", "all"]
    assert tags(host, "crane/app") == ["1", "2", "all"]
    blob = manifest(host, "crane/app", "1")["layers"][0]["digest"]
    data = subprocess.run([crane, "blob", "--insecure", f"{host}/crane/app@{blob}"], capture_output=True, check=True)
    assert data.stdout == answer(host, f"/v2/t/app/blobs/{blob}")[1]


def test_regctl_writes_sha512_and_moves_blobs_artifacts_and_referrers(host: str, tmp_path: Path) -> None:
    regctl = peer("regctl")
    home = {"HOME": str(tmp_path), "REGCTL_CONFIG": str(tmp_path / "regctl.json")}

    def ctl(*words: object) -> str:
        return run(regctl, *words, **home).strip()

    ctl("registry", "set", "--tls", "disabled", host)
    ctl("image", "mod", f"{host}/t/app:1", "--digest-algo", "sha512", "--create", f"{host}/regctl/strong:1")
    ctl("image", "copy", f"{host}/regctl/strong:1", f"{host}/regctl/strong-copy:1")
    named = manifest(host, "regctl/strong-copy", "1")
    assert {one["digest"].partition(":")[0] for one in (named["config"], *named["layers"])} == {"sha512"}
    ctl("image", "mod", f"{host}/t/app:1", "--layer-compress", "zstd", "--create", f"{host}/regctl/zstd:1")
    assert ok("cat", f"docker://{host}/regctl/zstd:1", "/etc/conf", root=tmp_path / "none") == "two"
    (tmp_path / "note").write_bytes(b"note")
    put = subprocess.run(
        [regctl, "blob", "put", f"{host}/regctl/blobs"], input=b"note", capture_output=True, check=True,
        env={**os.environ, **home},
    ).stdout.decode().strip()  # fmt: skip
    assert run(regctl, "blob", "get", f"{host}/regctl/blobs", put, **home) == "note"
    ctl("blob", "copy", f"{host}/regctl/blobs", f"{host}/regctl/more", put)
    ctl("blob", "delete", f"{host}/regctl/blobs", put)
    assert run(regctl, "blob", "get", f"{host}/regctl/more", put, **home) == "note"
    ctl("image", "copy", f"{host}/t/multi:1", f"{host}/regctl/multi:1")
    for kind in ("x", "y"):
        words = ("--artifact-type", f"application/{kind}", "--subject", f"{host}/regctl/multi:1", "--by-digest")
        ctl("artifact", "put", *words, "-f", tmp_path / "note", f"{host}/regctl/multi")
    assert ctl("artifact", "list", f"{host}/regctl/multi:1", "--format", "{{len .Descriptors}}") == "2"
    only = ("--filter-artifact-type", "application/x", "--format", "{{len .Descriptors}}")
    assert ctl("artifact", "list", f"{host}/regctl/multi:1", *only) == "1"
    ctl("image", "copy", "--referrers", "--digest-tags", f"{host}/regctl/multi:1", f"{host}/regctl/all:1")
    assert "application/y" in ctl("artifact", "tree", f"{host}/regctl/all:1")
    ctl("tag", "delete", f"{host}/regctl/multi:1")
    assert tags(host, "regctl/multi") == []
    assert digest(host, "regctl/multi", digest(host, "regctl/all", "1")) == digest(host, "regctl/all", "1")


def test_oras_pushes_files_attaches_backs_up_and_restores(host: str, tmp_path: Path) -> None:
    oras = peer("oras")
    home = {"HOME": str(tmp_path)}
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.bin").write_bytes(BIG)

    def do(*words: object, at: Path = tmp_path) -> str:
        done = subprocess.run(
            [oras, *map(str, words)],
            cwd=at,
            capture_output=True,
            check=False,
            env={**os.environ, **home},
            timeout=120,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.decode()

    def listed(repository: str) -> int:
        found = answer(host, f"/v2/{repository}/referrers/{digest(host, repository, '1')}")[1]
        return len(json.loads(found)["manifests"])

    there = f"{host}/oras/files:1"
    do("push", "--plain-http", f"{there},latest", "--artifact-type", "application/x.files", "a.txt", "b.bin")
    assert tags(host, "oras/files") == ["1", "latest"]
    out = tmp_path / "out"
    do("pull", "--plain-http", there, "-o", out)
    assert ((out / "a.txt").read_text(), (out / "b.bin").read_bytes()) == ("a", BIG)
    for number in range(3):
        (tmp_path / "sbom").write_text(str(number))
        do("attach", "--plain-http", "--artifact-type", "application/x.sbom", there, "sbom")
    assert listed("oras/files") == 3
    do("copy", "-r", "--from-plain-http", "--to-plain-http", there, f"{host}/oras/copy:1")
    assert listed("oras/copy") == 3
    do("backup", "--plain-http", "--include-referrers", there, "-o", tmp_path / "backup")
    do("restore", "--plain-http", "--input", tmp_path / "backup", f"{host}/oras/restored:1")
    assert listed("oras/restored") == 3
    assert set(do("repo", "ls", "--plain-http", f"{host}/oras/").split()) == {"files", "copy", "restored"}
    do("manifest", "delete", "--plain-http", "--force", f"{host}/oras/copy@{digest(host, 'oras/copy', '1')}")
    assert "1" not in tags(host, "oras/copy")
    do("blob", "push", "--plain-http", f"{host}/oras/blobs", "a.txt")


def test_buildkit_pushes_platforms_with_provenance_and_keeps_its_cache_here(host: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "busybox").write_bytes(busybox())
    (context / "busybox").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM scratch AS made\nCOPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "sh", "-c", "/bin/busybox date +%N >/made"]\n'
        "FROM scratch\nCOPY --from=made /made /made\n"
    )
    cache = f"type=registry,ref={host}/buildkit/cache:1,registry.insecure=true"

    def build(name: str, *words: str) -> None:
        with buildkit_process() as address:  # a new one each time: it has no cache of its own
            run(
                peer("buildctl"), "--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain",
                "--local", f"context={context}", "--local", f"dockerfile={context}", "--opt", "cmdline=none", *words,
                "--output", f"type=image,name={host}/buildkit/app:{name},push=true,registry.insecure=true",
            )  # fmt: skip

    provenance = ("--opt", "attest:provenance=mode=max")
    build("1", *provenance, "--export-cache", f"{cache},mode=max")
    entries = manifest(host, "buildkit/app", "1")["manifests"]
    image, attestation = entries
    assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    (statement,) = manifest(host, "buildkit/app", attestation["digest"])["layers"]
    told = json.loads(answer(host, f"/v2/buildkit/app/blobs/{statement['digest']}")[1])
    assert told["predicateType"].startswith("https://slsa.dev/provenance/")
    build("2", "--import-cache", cache)
    first, second = (
        ok("cat", f"docker://{host}/buildkit/app:{name}", "/made", root=tmp_path / "none") for name in ("1", "2")
    )
    assert first == second  # the step was not run again
