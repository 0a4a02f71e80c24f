"""Manifests and indexes (image-spec manifest.md, image-index.md; docker v2 schema 2): typed views over raw bytes.

What a document is must never depend on who reads it (CVE-2021-41190). So its shape, its ``mediaType`` and the type
under which it was announced have to agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from lamina.errors import InvalidDocument, LimitExceeded, NotFound, Unsupported, UsageError
from lamina.light import TYPE_CHECKING, replace
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor, string_map
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT, dump, kind_of, load
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from typing import Any

MAX_LAYERS = 10_000
"""More layers than any kernel or tool can stack; this limits the work that one manifest can cause."""

ATTESTATION = "vnd.docker.reference.type"
"""The annotation with which BuildKit marks an index entry as metadata of another entry."""

_KNOWN = frozenset(
    {"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"}
)
_HINT = "the document breaks its specification; report it to the publisher of the image"


class Document:
    """What manifests and indexes have in common. Immutable: don't change ``json``."""

    def __init__(self, raw: bytes, value: dict[str, Any], media_type: str, what: str) -> None:
        self.raw = raw
        self.json = value
        self.media_type = media_type
        self.annotations = string_map(value.get("annotations"), f"{what}: annotations")
        self.artifact_type = _optional_text(value, "artifactType", what)
        subject = value.get("subject")
        self.subject = None if subject is None else Descriptor.from_json(subject, f"{what}: subject")

    @cached_property
    def descriptor(self) -> Descriptor:
        """The descriptor of the raw bytes (sha256)."""
        return Descriptor.of(self.media_type, self.raw)

    def as_referrer(self) -> Descriptor:
        """Return the descriptor for the list of referrers of its subject (distribution-spec, "Listing Referrers"):
        with the annotations and the artifact type. If the manifest has no artifact type, the config's media type
        takes its place."""
        artifact_type = self.artifact_type
        config = self.json.get("config")
        if artifact_type is None and isinstance(config, dict):
            artifact_type = config.get("mediaType")
        own = self.descriptor
        return replace(own, artifact_type=artifact_type, annotations=dict(self.annotations))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        return (self.raw, self.media_type) == (other.raw, other.media_type)

    def __hash__(self) -> int:
        return hash((self.raw, self.media_type))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.descriptor.digest}>"


class Manifest(Document):
    """One image or one artifact. ``layers`` are listed bottom first; a layer may occur several times."""

    def __init__(self, raw: bytes, value: dict[str, Any], media_type: str, what: str) -> None:
        super().__init__(raw, value, media_type, what)
        docker = mediatype.is_docker(media_type)
        self.config = Descriptor.from_json(value.get("config"), f"{what}: config", untyped=docker)
        self.layers = _descriptors(value, "layers", what, untyped=docker)
        if len(self.layers) > MAX_LAYERS:
            raise LimitExceeded(f"{what} has {len(self.layers)} layers, the limit is {MAX_LAYERS}", hint=_HINT)

    @property
    def listed(self) -> tuple[Descriptor, ...]:
        """All blobs that it needs."""
        return (self.config, *self.layers)

    @property
    def is_image(self) -> bool:
        """Whether the config is an image config and may be parsed; artifacts have other types (manifest.md)."""
        return mediatype.is_image_config(self.config.media_type, in_docker=mediatype.is_docker(self.media_type))

    @property
    def config_type(self) -> str:
        """The config's media type, corrected where an old docker wrote a wrong one."""
        stated = self.config.media_type
        return mediatype.DOCKER_CONFIG if self.is_image and not mediatype.is_image_config(stated) else stated


class Index(Document):
    """A list of manifests, usually one for each platform; entries may be indexes themselves."""

    def __init__(self, raw: bytes, value: dict[str, Any], media_type: str, what: str) -> None:
        super().__init__(raw, value, media_type, what)
        self.manifests = _descriptors(value, "manifests", what)

    @property
    def listed(self) -> tuple[Descriptor, ...]:
        """All documents that it lists."""
        return self.manifests


def parse(
    raw: bytes, media_type: str | None = None, what: str = "manifest", *, limit: int = MAX_DOCUMENT
) -> Manifest | Index:
    """Parse a manifest or an index from its bytes. ``media_type`` is the type given by a descriptor or a Content-Type
    header; ``limit`` is in bytes.

    Raises InvalidDocument (types or shape that don't agree, bad fields), Unsupported (schema 1, other types).
    """
    value = load(raw, what, known=_KNOWN, limit=limit)
    announced = mediatype.essence(media_type) if media_type else None
    stated = _optional_text(value, "mediaType", what)
    _refuse_schema1(value, announced, stated, what)
    version = value.get("schemaVersion")
    if type(version) is not int or version != 2:
        shown = version if type(version) is int else kind_of(version)
        raise InvalidDocument(f"{what}: schemaVersion must be 2, not {shown}", hint=_HINT)
    if announced and stated and announced != stated:
        raise InvalidDocument(
            f"{what} is inconsistent: its mediaType is {stated!r:.100}, but it was announced as {announced!r:.100}",
            hint="don't use this image; report it to its publisher",
        )
    looks_like_index = value.get("manifests") is not None
    looks_like_manifest = value.get("config") is not None or value.get("layers") is not None
    if looks_like_index and looks_like_manifest:
        raise InvalidDocument(
            f"{what} is inconsistent: it is both an index (manifests) and a manifest (config, layers)",
            hint="don't use this image; report it to its publisher",
        )
    seems_index = looks_like_index or ("manifests" in value and not looks_like_manifest)
    effective = announced or stated or (mediatype.OCI_INDEX if seems_index else mediatype.OCI_MANIFEST)
    if mediatype.is_index(effective):
        if looks_like_manifest:
            raise _shape(what, effective, "config or layers")
        return Index(raw, value, effective, what)
    if mediatype.is_manifest(effective):
        if looks_like_index:
            raise _shape(what, effective, "manifests")
        return Manifest(raw, value, effective, what)
    raise Unsupported(
        f"{what} is of type {effective!r:.100}, which is not an image manifest or index",
        hint="use an OCI manifest or index, or docker's version 2 schema 2",
    )


def select(
    index: Index, platform: Platform, what: str = "the index", *, known: Mapping[Digest, Platform] | None = None
) -> Descriptor:
    """Select the entry for ``platform`` (image-index.md): the first entry that fits the best candidate. Attestations
    are skipped. An entry without a platform counts if it is the only one. ``known`` holds the platforms of entries
    that state none. The result may be an index again.

    Raises NotFound, which lists the available platforms.
    """
    entries = [entry for entry in index.manifests if is_selectable(entry)]
    offered = [entry.platform or (known or {}).get(entry.digest) for entry in entries]
    for candidate in platform.candidates():
        for entry, offer in zip(entries, offered, strict=True):
            if offer is not None and candidate.accepts(offer):
                return entry
    if len(entries) == 1 and offered[0] is None:
        return entries[0]
    there = dict.fromkeys(str(offer or "unknown") for offer in offered)
    listed = [name if name.isprintable() else repr(name) for name in list(there)[:20]]
    raise NotFound(
        f"{what} has no image for {platform}; it has: "
        + (", ".join(listed) or "none")
        + (", ..." if len(there) > 20 else ""),
        hint="choose one of these with --platform",
    )


def is_selectable(entry: Descriptor) -> bool:
    """Whether an index entry can be selected: a manifest or an index that is neither attestation nor artifact."""
    if not (mediatype.is_manifest(entry.media_type) or mediatype.is_index(entry.media_type)):
        return False
    platform = entry.platform
    if platform is None and entry.artifact_type and not mediatype.is_image_config(entry.artifact_type):
        return False  # such entries are in the tag that lists referrers at a registry without the referrers API
    return ATTESTATION not in entry.annotations and not (
        platform is not None and platform.os == "unknown" and platform.architecture == "unknown"
    )


def build_manifest(
    config: Descriptor,
    layers: Iterable[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
    docker: bool = False,
    subject: Descriptor | None = None,
    artifact_type: str | None = None,
) -> Manifest:
    """Build a manifest. The same arguments give the same bytes. Config and layer types are translated between docker
    and OCI. Raises Unsupported or UsageError for what docker's format can't hold."""
    if docker and (annotations or subject or artifact_type):
        raise UsageError(
            "docker's manifest format has no annotations, subject or artifactType", hint="write OCI instead"
        )
    if not docker and not artifact_type and config.media_type == mediatype.OCI_EMPTY:
        raise UsageError("a manifest with an empty config needs an artifactType", hint="see image-spec manifest.md")
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": mediatype.DOCKER_MANIFEST if docker else mediatype.OCI_MANIFEST,
    }
    if artifact_type:
        value["artifactType"] = artifact_type
    value["config"] = translate(config, docker).to_json()
    value["layers"] = [translate(layer, docker).to_json() for layer in layers]
    if subject:
        value["subject"] = subject.to_json()
    if annotations:
        value["annotations"] = dict(annotations)
    return Manifest(dump(value), value, value["mediaType"], "manifest")


def build_index(
    manifests: Iterable[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
    docker: bool = False,
    subject: Descriptor | None = None,
    artifact_type: str | None = None,
) -> Index:
    """Build an index of these entries. The same arguments give the same bytes."""
    if docker and (annotations or subject or artifact_type):
        raise UsageError("docker's manifest list has no annotations, subject or artifactType", hint="write OCI")
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": mediatype.DOCKER_LIST if docker else mediatype.OCI_INDEX,
    }
    if artifact_type:
        value["artifactType"] = artifact_type
    value["manifests"] = [entry.to_json() for entry in manifests]
    if subject:
        value["subject"] = subject.to_json()
    if annotations:
        value["annotations"] = dict(annotations)
    return Index(dump(value), value, value["mediaType"], "index")


def translate(descriptor: Descriptor, docker: bool) -> Descriptor:
    """Translate a descriptor's media type to docker's or to OCI's; types that exist on one side only are kept. Raises
    Unsupported for a zstd layer in docker's format."""
    media_type = descriptor.media_type
    if mediatype.is_image_config(media_type):
        new = mediatype.DOCKER_CONFIG if docker else mediatype.OCI_CONFIG
    elif mediatype.is_layer(media_type) and mediatype.is_docker(media_type) != docker:
        compression = mediatype.compression(media_type) or "none"
        new = mediatype.layer_type(compression, docker, foreign=mediatype.is_foreign(media_type))
    else:
        return descriptor
    if new == media_type:
        return descriptor
    return replace(descriptor, media_type=new)


def _descriptors(value: Mapping[str, Any], key: str, what: str, *, untyped: bool = False) -> tuple[Descriptor, ...]:
    listed = value.get(key)
    if listed is None and key in value:
        return ()  # Go writes an empty list as null
    if type(listed) is not list:
        raise InvalidDocument(f"{what}: {key} must be a list, not {kind_of(listed)}", hint=_HINT)
    from_json = Descriptor.from_json
    return tuple([from_json(item, f"{what}: {key}[{number}]", untyped=untyped) for number, item in enumerate(listed)])


def _refuse_schema1(value: Mapping[str, Any], announced: str | None, stated: str | None, what: str) -> None:
    version = value.get("schemaVersion")
    if (
        (type(version) is int and version == 1)
        or value.get("fsLayers") is not None
        or any(mediatype.is_schema1(media_type) for media_type in (announced, stated) if media_type)
    ):
        raise Unsupported(
            f"{what} is in docker's manifest schema 1, which is not supported (deprecated since 2017)",
            hint="pull and push it again with a docker older than 26, or ask for a newer tag",
        )


def _optional_text(value: Mapping[str, Any], key: str, what: str) -> str | None:
    text = value.get(key)
    if text is not None and type(text) is not str:
        raise InvalidDocument(f"{what}: {key} must be a string, not {kind_of(text)}", hint=_HINT)
    return text or None


def _shape(what: str, media_type: str, found: str) -> InvalidDocument:
    return InvalidDocument(
        f"{what} is inconsistent: its type is {media_type}, but it has {found}",
        hint="don't use this image; report it to its publisher",
    )
