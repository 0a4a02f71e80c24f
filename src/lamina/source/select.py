"""From a name to an image: through indexes to the manifest of a platform, and its config."""

from __future__ import annotations

from lamina.errors import (
    BlobNotFound,
    InvalidContent,
    InvalidDocument,
    LimitExceeded,
    NotFound,
    Unsupported,
)
from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import ImageConfig
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, Manifest, is_selectable, parse, select

if TYPE_CHECKING:
    from lamina.source.protocols import Reader
    from lamina.spec.platform import Platform
from lamina.source.verify import verified

MAX_NESTING = 8  # indexes within indexes; the spec sets no bound, a loop is impossible, a bomb is not


def choose(reader: Reader, index: Index, platform: Platform, what: str) -> Descriptor:
    """``select``; of entries that state no platform the config is looked at, unless another is just what is wanted.
    Raises NotFound, RemoteFailure, AccessDenied."""
    entries = [entry for entry in index.manifests if is_selectable(entry)]
    unstated = [entry for entry in entries if entry.platform is None][:MAX_UNSTATED]
    wanted = platform.candidates()[0]
    if len(entries) > 1 and not any(entry.platform and wanted.accepts(entry.platform) for entry in entries):
        known = {entry.digest: _platform_of(reader, entry, what) for entry in unstated}
        stated = {digest: found for digest, found in known.items() if found is not None}
        return select(index, platform, what, known=stated)
    return select(index, platform, what)


def _platform_of(reader: Reader, entry: Descriptor, what: str) -> Platform | None:
    """By its config; None for what is no image, not here (an index may be sparse), or damaged."""
    try:
        document = parse(reader.manifest(entry), entry.media_type, what)
        return read_config(reader, document, what).platform if isinstance(document, Manifest) else None
    except (NotFound, InvalidContent, Unsupported):
        return None


def not_as_asked(config: ImageConfig, asked: Platform) -> str:
    """What to warn of where an image of one platform is for another than was asked for; "" where it is right. As
    docker and podman do it is taken all the same: what configs say of their architecture is often wrong."""
    if asked.runs(config.stated_platform):
        return ""
    return f"{config.platform} is the image's one platform, and {asked} was asked for"


MAX_UNSTATED = 64
"""Entries of one index without a platform that are looked at."""


def find_manifest(reader: Reader, descriptor: Descriptor, platform: Platform, what: str) -> Manifest:
    """The manifest that ``descriptor`` stands for, through as many indexes as need be.

    Raises NotFound where an index has nothing for the platform, BlobNotFound where its choice is not there.
    """
    for depth in range(MAX_NESTING):
        try:
            raw = reader.manifest(descriptor)
        except BlobNotFound as error:
            if not depth:
                raise
            raise BlobNotFound(
                f"{what}: the image for {platform} is not at {reader.location}: {error.message}",
                hint=f"fetch it: `lamina pull --platform {platform} {what:.200}`",
            ) from None
        document = parse(raw, descriptor.media_type, what)
        if isinstance(document, Manifest):
            return document
        descriptor = choose(reader, document, platform, what)
    raise InvalidDocument(f"{what}: indexes are nested more than {MAX_NESTING} deep", hint="refused as a bomb")


def read_config(reader: Reader, manifest: Manifest, what: str) -> ImageConfig:
    """The image config of ``manifest``, verified and with one diff_id a layer. Raises Unsupported for an artifact."""
    if not manifest.is_image:
        raise Unsupported(
            f"{what} is an artifact of type {manifest.artifact_type or manifest.config.media_type!r:.100}, no image",
            hint="it can be copied, but has no layers to look into",
        )
    raw = read_document(reader, manifest.config, what)
    config = ImageConfig.parse(raw, f"the config of {what}", manifest.config_type)
    config.check_layers(len(manifest.layers), what)
    return config


def read_document(reader: Reader, descriptor: Descriptor, what: str) -> bytes:
    """A config or another small blob whole, verified. Raises LimitExceeded (4 MiB), BlobNotFound, InvalidContent."""
    if descriptor.size > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: a config of {descriptor.size} bytes", hint="the limit is 4 MiB")
    if descriptor.data is not None:
        return descriptor.data
    return b"".join(verified(reader.blob(descriptor)))
