"""Repositories, tags and images in short, from manifests and configs only: no layer is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import LaminaError, NotFound, Unsupported
from lamina.insight.history import aligned
from lamina.serve.explorer.asked import Asked
from lamina.serve.explorer.gallery import Gallery, Place, referrers_of
from lamina.serve.explorer.opened import MAX_PLATFORMS, Choices, Chosen, attestations, children, here
from lamina.serve.names import canonical_repository, familiar
from lamina.spec.descriptor import Descriptor
from lamina.spec.manifest import Manifest, parse
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from typing import Any

    from lamina.source.protocols import Reader
    from lamina.spec.image_config import ImageConfig

PAGE = 50
MAX_PAGE = 500
MAX_REFERRERS = 100
_PREDICATE = "in-toto.io/predicate-type"


def repositories_page(gallery: Gallery, asked: Asked) -> dict[str, Any]:
    """Return a page of repositories. Raises Refused."""
    limit = asked.number("limit", PAGE, MAX_PAGE, 1)
    found, more = gallery.repositories(asked.permit, asked.text("filter", 300).lower(), asked.text("after"), limit)
    rows = []
    for name in found:
        try:
            tags: int | None = len(gallery.tags(asked.permit, name))
        except LaminaError:
            tags = None
        rows.append({"repository": name, "name": pull_name(name), "tags": tags})
    return {"repositories": rows, "next": found[-1] if more else None}


def tags_page(gallery: Gallery, choices: Choices, asked: Asked) -> dict[str, Any]:
    """Return a page of a repository's tags, each with its image in short. Raises Refused, NotFound."""
    repository = asked.needed("repository")
    limit = asked.number("limit", PAGE, MAX_PAGE, 1)
    contained, after = asked.text("filter", 300).lower(), asked.text("after")
    tags = [tag for tag in gallery.tags(asked.permit, repository) if contained in tag.lower()]
    left = [tag for tag in tags if tag > after] if after else tags
    shown = left[:limit]
    canonical = canonical_repository(repository)
    return {
        "repository": familiar(canonical),
        "name": pull_name(canonical),
        "total": len(tags),
        "tags": [_tag(gallery, choices, canonical, tag) for tag in shown],
        "next": shown[-1] if len(left) > limit else None,
    }


def pull_name(repository: str) -> str | None:
    """Return what clients write after the server's name; None if a path can't have the name, for its host has a
    port."""
    reference = Reference.parse(repository)
    return None if ":" in reference.domain else reference.familiar


def _tag(gallery: Gallery, choices: Choices, repository: str, tag: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tag": tag,
        "image": f"{familiar(repository)}:{tag}",
        "digest": None,
        "media_type": None,
        "kind": "unreadable",
        "platform": None,
        "platforms": [],
        "size": None,
        "layers": None,
        "created": None,
        "artifact_type": None,
        "problem": None,
    }
    try:
        place = gallery.in_repository(repository, tag)
        row |= {"digest": str(place.descriptor.digest), "media_type": place.descriptor.media_type}
        chosen = choices.choose(place)
        manifest = chosen.manifest
        row |= {"size": size_of(manifest), "layers": len(manifest.layers)}
        if not manifest.is_image:
            row |= {"kind": "artifact", "artifact_type": artifact_type(manifest)}
            return row
        config = chosen.config
        entries = children(place.reader, place.descriptor, place.image)
        platforms = [str(entry.platform) for entry in entries[:MAX_PLATFORMS] if entry.platform]
        row |= {
            "kind": "image",
            "platform": str(config.platform),
            "platforms": platforms or [str(config.platform)],
            "created": config.created,
        }
    except LaminaError as error:
        row["problem"] = error.message
    return row


def size_of(manifest: Manifest) -> int:
    """Return the bytes of manifest, config and layers."""
    return manifest.descriptor.size + manifest.config.size + sum(layer.size for layer in manifest.layers)


def artifact_type(manifest: Manifest) -> str:
    return manifest.artifact_type or manifest.config.media_type


def image_summary(chosen: Chosen) -> dict[str, Any]:
    """Return an image with its config, history and referrers. Raises Unsupported (an artifact), NotFound,
    InvalidContent."""
    place, manifest, config = chosen.place, chosen.manifest, chosen.config
    own, named = manifest.descriptor.digest, place.descriptor.digest
    count = len(config.diff_ids)
    high = count if place.high is None else min(place.high, count)
    referrers = _referrers(place, manifest)
    return {
        "image": place.image,
        "repository": familiar(place.repository) if place.repository else None,
        "name": pull_name(place.repository) if place.repository else None,
        "tag": place.tag or None,
        "digest": str(own),
        "index_digest": str(named) if named != own else None,
        "media_type": manifest.media_type,
        "id": str(manifest.config.digest),
        "platform": str(config.platform),
        "platforms": _platforms(place, manifest, config),
        "created": config.created,
        "author": config.author,
        "size": size_of(manifest),
        "config": _config(config),
        "annotations": dict(manifest.annotations),
        "history": [
            {
                "layer": step.layer,
                "created": step.history.created,
                "created_by": step.history.created_by,
                "comment": step.history.comment,
                "empty": step.layer is None,
                "recorded": step.recorded,
            }
            for step in aligned(config.history, len(config.diff_ids), low=place.low, high=high)
        ],
        "layers": [
            {
                "number": number,
                "digest": str(layer.digest),
                "diff_id": str(config.diff_ids[number - 1]),
                "size": layer.size,
                "media_type": layer.media_type,
                "step": (step.created_by or step.comment or None) if step else None,
            }
            for number, (layer, step) in enumerate(zip(manifest.layers, config.steps(), strict=True), 1)
            if place.low <= number <= high
        ],
        "referrers": referrers,
        "signed": any(one["kind"] == "signature" for one in referrers),
        "sbom": any(one["kind"] == "sbom" for one in referrers),
        "range": None if place.whole else [place.low, high],
    }


def _config(config: ImageConfig) -> dict[str, Any]:
    run = config.json.get("config") or {}
    return {
        "user": config.user,
        "entrypoint": list(config.entrypoint),
        "cmd": list(config.cmd),
        "env": list(config.env),
        "working_dir": config.working_dir,
        "exposed_ports": list(config.exposed_ports),
        "volumes": list(config.volumes),
        "labels": dict(config.labels),
        "stop_signal": config.stop_signal,
        "healthcheck": run.get("Healthcheck"),
        "shell": run.get("Shell") or [],
    }


def _platforms(place: Place, manifest: Manifest, config: ImageConfig) -> list[dict[str, Any]]:
    entries = children(place.reader, place.descriptor, place.image)
    if not entries:
        own = manifest.descriptor
        return [{"platform": str(config.platform), "digest": str(own.digest), "size": own.size, "here": True}]
    return [
        {
            "platform": str(entry.platform) if entry.platform else None,
            "digest": str(entry.digest),
            "size": entry.size,
            "here": here(place.reader, entry),
        }
        for entry in entries[:MAX_PLATFORMS]
    ]


def _referrers(place: Place, manifest: Manifest) -> list[dict[str, Any]]:
    subjects = list(dict.fromkeys((manifest.descriptor.digest, place.descriptor.digest)))
    found = []
    try:
        for one in referrers_of(place.reader, subjects)[:MAX_REFERRERS]:
            kind = _kind_of(one.artifact_type or "")
            found.append(_referrer(one, kind))
        for one in attestations(place.reader, place.descriptor, manifest.descriptor.digest, place.image):
            found += _attested(place.reader, one, place.image)
        for subject in subjects:
            signature = _cosign(place, subject.algorithm, subject.encoded)
            if signature is not None:
                found.append(_referrer(signature, "signature"))
    except (NotFound, Unsupported):
        pass  # they are shown where they are there
    return found[:MAX_REFERRERS]


def _attested(reader: Reader, descriptor: Descriptor, what: str) -> list[dict[str, Any]]:
    """BuildKit's attestations: one manifest, with a layer for each statement."""
    try:
        document = parse(reader.manifest(descriptor), descriptor.media_type, what)
    except LaminaError:
        return []
    if not isinstance(document, Manifest):
        return []
    types = [str((layer.annotations or {}).get(_PREDICATE, "")) for layer in document.layers]
    return [
        {**_referrer(descriptor, "sbom" if _kind_of(one) == "sbom" else "attestation"), "artifact_type": one or None}
        for one in types[:10]
    ]


def _referrer(descriptor: Descriptor, kind: str) -> dict[str, Any]:
    return {
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
        "artifact_type": descriptor.artifact_type or None,
        "size": descriptor.size,
        "annotations": dict(descriptor.annotations or {}),
        "kind": kind,
    }


def _kind_of(artifact_type: str) -> str:
    text = artifact_type.lower()
    if "spdx" in text or "cyclonedx" in text or "sbom" in text or "syft" in text:
        return "sbom"
    if "cosign" in text or "notary" in text or "signature" in text or "sigstore.bundle" in text:
        return "signature"
    return "attestation" if "in-toto" in text or "slsa" in text else "other"


def _cosign(place: Place, algorithm: str, encoded: str) -> Descriptor | None:
    """The signature under cosign's tag, in the same repository."""
    if not place.repository:
        return None
    try:
        return place.reader.resolve(f"{algorithm}-{encoded}.sig")
    except LaminaError:
        return None
