"""Selection: from a name through indexes to the manifest of a platform, and its config."""

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

MAX_NESTING = 8  # indexes within indexes: the spec sets no limit. A loop is impossible, a bomb is not.


def choose(reader: Reader, index: Index, platform: Platform, what: str) -> Descriptor:
    """Select the entry of ``index`` for ``platform``. If no stated platform matches exactly, the configs of entries
    without a platform are read. Raises NotFound, RemoteFailure, AccessDenied."""
    entries = [entry for entry in index.manifests if is_selectable(entry)]
    unstated = [entry for entry in entries if entry.platform is None][:MAX_UNSTATED]
    wanted = platform.candidates()[0]
    if len(entries) > 1 and not any(entry.platform and wanted.accepts(entry.platform) for entry in entries):
        known = {entry.digest: _platform_of(reader, entry, what) for entry in unstated}
        stated = {digest: found for digest, found in known.items() if found is not None}
        return select(index, platform, what, known=stated)
    return select(index, platform, what)


def _platform_of(reader: Reader, entry: Descriptor, what: str) -> Platform | None:
    """Return the platform in the config of an entry; None if it is not an image, is absent (an index may be sparse),
    or is damaged."""
    try:
        document = parse(reader.manifest(entry), entry.media_type, what)
        return read_config(reader, document, what).platform if isinstance(document, Manifest) else None
    except (NotFound, InvalidContent, Unsupported):
        return None


def not_as_asked(config: ImageConfig, asked: Platform) -> str:
    """Return a warning if the only platform of an image differs from the requested one, else "". As in docker and
    podman, the image is used all the same: the architecture in a config is often wrong."""
    if asked.runs(config.stated_platform):
        return ""
    return f"the image is for {config.platform}, and {asked} was requested"


MAX_UNSTATED = 64
"""The most entries of one index without a platform whose configs are read."""


def find_manifest(reader: Reader, descriptor: Descriptor, platform: Platform, what: str) -> Manifest:
    """Return the manifest that ``descriptor`` leads to, through as many indexes as needed.

    Raises NotFound if an index has no entry for the platform, BlobNotFound if the chosen manifest is not there.
    """
    for depth in range(MAX_NESTING):
        try:
            raw = reader.manifest(descriptor)
        except BlobNotFound as error:
            if not depth:
                raise
            raise BlobNotFound(
                f"{what}: the image for {platform} was not found in {reader.location}: {error.message}",
                hint=f"run `lamina pull --platform {platform} {what:.200}`",
            ) from None
        document = parse(raw, descriptor.media_type, what)
        if isinstance(document, Manifest):
            return document
        descriptor = choose(reader, document, platform, what)
    raise InvalidDocument(
        f"{what}: indexes are nested more than {MAX_NESTING} deep", hint="report it to the publisher of the image"
    )


def read_config(reader: Reader, manifest: Manifest, what: str) -> ImageConfig:
    """Return the image config of ``manifest``, verified, with one diff_id for each layer. Raises Unsupported for an
    artifact."""
    if not manifest.is_image:
        raise Unsupported(
            f"{what} is an artifact, not an image: {manifest.artifact_type or manifest.config.media_type!r:.100}",
            hint="use `lamina copy` to copy it: it has no files to read",
        )
    raw = read_document(reader, manifest.config, what)
    config = ImageConfig.parse(raw, f"the config of {what}", manifest.config_type)
    config.check_layers(len(manifest.layers), what)
    return config


def read_document(reader: Reader, descriptor: Descriptor, what: str) -> bytes:
    """Read a config or another small blob completely and verify it. Raises LimitExceeded (4 MiB), BlobNotFound,
    InvalidContent."""
    if descriptor.size > MAX_DOCUMENT:
        raise LimitExceeded(
            f"{what}: the config is too large: {descriptor.size} bytes, the limit is 4 MiB",
            hint="report it to the publisher of the image",
        )
    if descriptor.data is not None:
        return descriptor.data
    return b"".join(verified(reader.blob(descriptor)))
