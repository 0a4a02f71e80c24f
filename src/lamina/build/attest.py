"""Attestations of a build: its provenance (SLSA 1.0) and its bill of materials (SPDX), as in-toto statements in a
manifest beside the image's in the index, as BuildKit attaches them (its docs/attestations/attestation-storage.md)."""

from __future__ import annotations

import base64
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lamina.build.addresses import without_credentials
from lamina.build.solving.solve import ordered
from lamina.build.steps import BaseStep, CopyStep, Planned, Remote, Repository, RunStep, Step
from lamina.source.verify import BytesBlob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import build_manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.version import __version__

if TYPE_CHECKING:
    from lamina.build.options import BuildOptions, BuiltImage
    from lamina.source.protocols import Session
    from lamina.source.stack import Stack

HOME = "https://github.com/lamina-oci/lamina"
BUILD_TYPE = f"{HOME}/blob/main/docs/building.md#provenance"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
NOWHERE = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True)
class Definition:
    """What a build was asked for, as its provenance tells it. ``file``: the Dockerfile's name; ``text``: its content,
    b"" without one. ``started``: seconds since 1970."""

    file: str
    text: bytes
    started: float


def write_attestation(
    session: Session,
    planned: Planned,
    image: BuiltImage,
    stack: Stack,
    options: BuildOptions,
    definition: Definition,
) -> Descriptor:
    """Write the attestations of one image; the entry for the index. Raises Unsupported (the packages for SPDX are
    missing), SystemFailure."""
    subjects = _subjects(image, options.tags)
    layers = []
    predicates: list[tuple[str, Any]] = []
    if options.attestations.sbom:
        predicates.append((SPDX, _spdx(stack)))
    if options.attestations.provenance:
        predicates.append((PROVENANCE, provenance(planned, options, definition)))
    for kind, predicate in predicates:
        statement = {"_type": STATEMENT, "predicateType": kind, "subject": subjects, "predicate": predicate}
        raw = json.dumps(statement, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace")
        layer = Descriptor.of(IN_TOTO, raw).with_annotations({PREDICATE_TYPE: kind})
        session.put_blob(layer, BytesBlob(layer, raw))
        layers.append(layer)
    empty = Descriptor.of(mediatype.OCI_EMPTY, b"{}")
    if not session.has(empty):
        session.put_blob(empty, BytesBlob(empty, b"{}"))
    manifest = build_manifest(empty, layers, subject=image.descriptor, artifact_type=ARTIFACT)
    session.put_manifest(manifest.descriptor, manifest.raw)
    about = {
        "vnd.docker.reference.digest": str(image.descriptor.digest),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    return replace(manifest.descriptor, platform=NOWHERE).with_annotations(about)


def provenance(planned: Planned, options: BuildOptions, definition: Definition) -> dict[str, Any]:
    """The predicate. With ``max`` it also has the build arguments, the steps and the Dockerfile."""
    steps = ordered([planned.step]) if planned.step is not None else []
    whole = options.attestations.provenance == "max"
    request: dict[str, Any] = {"frontend": "dockerfile.v0", "args": _arguments(options, whole=whole)}
    request["locals"] = [{"name": name} for name in ("context", "dockerfile")]
    if options.secrets:
        request["secrets"] = [{"id": secret.id} for secret in options.secrets]
    inside: dict[str, Any] = {
        "builderPlatform": str(Platform.host()),
        "targetPlatform": str(planned.platform),
    }
    metadata: dict[str, Any] = {}
    if planned.epoch is None:  # else the attestation would differ each time
        metadata["invocationId"] = os.urandom(16).hex()
        metadata["startedOn"] = _time(definition.started)
        metadata["finishedOn"] = _time(datetime.datetime.now(datetime.UTC).timestamp())
    if whole:
        inside["buildConfig"] = {"steps": list(_steps(steps))}
        if definition.text:
            data = base64.b64encode(definition.text).decode()
            metadata["source"] = {"filename": definition.file, "language": "Dockerfile", "data": data}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": {"path": definition.file}, "request": request},
            "internalParameters": inside,
            "resolvedDependencies": list(_dependencies(steps)),
        },
        "runDetails": {
            "builder": {"id": options.attestations.builder_id or HOME, "version": {"lamina": __version__}},
            "metadata": metadata,
        },
    }


def _subjects(image: BuiltImage, tags: Sequence[str]) -> list[dict[str, Any]]:
    digest = {image.descriptor.digest.algorithm: image.descriptor.digest.encoded}
    names = [_package(tag, image.platform) for tag in tags] or ["_"]
    return [{"name": name, "digest": digest} for name in names]


def _package(name: str, platform: Platform, digest: str = "") -> str:
    """The package URL of an image (purl-spec, type docker)."""
    reference = Reference.parse(name)
    version = f"@{quote(reference.tag, safe='')}" if reference.tag else ""
    more = [f"digest={digest}"] if digest else []
    more.append(f"platform={quote(str(platform), safe='')}")
    return f"pkg:docker/{reference.with_default_tag().familiar.rpartition(':')[0]}{version}?{'&'.join(more)}"


def _arguments(options: BuildOptions, *, whole: bool) -> dict[str, str]:
    found = {f"context:{name}": without_credentials(place) for name, place in options.contexts.items()}
    if options.target:
        found["target"] = options.target
    if whole:
        found |= {f"build-arg:{name}": value for name, value in options.arguments.items() if value is not None}
        found |= {f"label:{name}": value for name, value in options.labels.items()}
    return found


def _steps(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    numbers = {step: f"step{number}" for number, step in enumerate(steps)}
    for step, name in numbers.items():
        found: dict[str, Any] = {"id": name, "text": step.text, "inputs": [numbers[one] for one in step.inputs()]}
        if isinstance(step, RunStep):
            found["args"] = list(step.words)
            found["env"] = [f"{key}={value}" for key, value in step.env]
        if step.at.line:
            found["line"] = step.at.line
        yield found


def _dependencies(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """What came from elsewhere: images, files and repositories, each once."""
    seen = set()
    for step in steps:
        found: list[tuple[str, str]] = []
        if isinstance(step, BaseStep) and step.digest:
            found.append((_image(step), step.digest))
        for source in step.sources if isinstance(step, CopyStep) else ():
            if isinstance(source, Remote):
                found.append((without_credentials(source.url), source.checksum))
            elif isinstance(source, Repository):
                found.append((without_credentials(source.url), f"sha1:{source.checksum}" if source.checksum else ""))
        for uri, digest in found:
            if (uri, digest) not in seen:
                seen.add((uri, digest))
                algorithm, _, encoded = digest.partition(":")
                yield {"uri": uri, "digest": {algorithm: encoded}} if digest else {"uri": uri}


def _image(step: BaseStep) -> str:
    name = step.name.partition("://")[2] or step.name
    if step.name.startswith("oci-layout://"):
        return f"pkg:oci/{quote(name.rpartition('/')[2].partition('@')[0].partition(':')[0])}?digest={step.digest}"
    return _package(name, step.platform, step.digest)


def _spdx(stack: Stack) -> Mapping[str, Any]:
    from lamina.insight.packages import packages
    from lamina.insight.sbom import bill

    found: Mapping[str, Any] = json.loads(bill(stack, packages(stack), "spdx"))
    return found


def _time(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
