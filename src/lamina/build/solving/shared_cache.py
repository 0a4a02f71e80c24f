"""A build cache that others can use: ``--cache-to`` writes it, ``--cache-from`` reads it.

It has lamina's own format (decision 0033): an artifact of which the config lists what was made under which key, and
the layers are ordinary layers; or (``inline``) such a list in the config of the image itself. Layers are fetched when
a step needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamina.build.addresses import without_credentials
from lamina.build.solving.cache import Made
from lamina.errors import InvalidDocument, LaminaError, UsageError
from lamina.events import Cancel, OnEvent, ignore
from lamina.source.select import find_manifest, read_document
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import dump, load
from lamina.spec.manifest import Index, Manifest, build_manifest, parse
from lamina.spec.mediatype import is_foreign, is_layer
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.build.options import CachePlace
    from lamina.source.protocols import Blob, Reader, Writer
    from lamina.store.session import StoreSession
    from lamina.transfer.connect import RegistryAccess

CONFIG = "application/vnd.lamina.build-cache.config.v1+json"
"""The media type of the list of records."""
INLINE = "io.lamina.build-cache"
"""The key of the list in an image's config."""
MAX_RECORDS = 50_000
_KEY = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,9})?Z")
_BUILDKIT = "application/vnd.buildkit."
_LATEST = "latest"

Records = Mapping[str, Made | None]
"""What was made under each key; None: nothing had to be made."""


@dataclass(frozen=True, slots=True)
class SharedCache:
    """Records of another place, and the reader of their layers."""

    records: Records
    reader: Reader

    def bring(
        self, made: Made, session: StoreSession, *, on_event: OnEvent = ignore, cancel: Cancel | None = None
    ) -> None:
        """Bring a layer into the store. Raises BlobNotFound, InvalidContent, RemoteFailure, SystemFailure."""
        blob = self.reader.blob(made.descriptor)
        session.put_blob(made.descriptor, blob, diff_id=made.diff_id, on_event=on_event, cancel=cancel)


def listed(records: Records, layers: Iterable[Descriptor]) -> list[dict[str, Any]]:
    """The records as JSON. ``layers``: of the document that lists them; records of other layers are left out."""
    numbers = {layer.digest: number for number, layer in enumerate(layers)}
    found: list[dict[str, Any]] = []
    for key, made in sorted(records.items()):
        if made is None:
            found.append({"key": key})
        elif made.descriptor.digest in numbers:
            layer = {"layer": numbers[made.descriptor.digest], "diff_id": str(made.diff_id), "created": made.created}
            found.append({"key": key, **layer})
    return found


def records_in(value: object, layers: tuple[Descriptor, ...], what: str) -> dict[str, Made | None]:
    """Read what ``listed`` wrote. Raises InvalidDocument."""
    found: dict[str, Made | None] = {}
    if type(value) is not list or len(value) > MAX_RECORDS:
        raise _invalid(what)
    for one in value:
        key = one.get("key") if type(one) is dict else None
        if type(key) is not str or not _KEY.fullmatch(key):
            raise _invalid(what)
        number = one.get("layer")
        if number is None:
            found[key] = None
            continue
        if type(number) is not int or not 0 <= number < len(layers) or not _is_layer(layers[number]):
            raise _invalid(what)
        created = one.get("created", "")
        if type(created) is not str or (created and not _TIME.fullmatch(created)):
            raise _invalid(what)  # it would become a part of the image
        try:
            found[key] = Made(layers[number], Digest.parse(str(one.get("diff_id"))), created)
        except UsageError:
            raise _invalid(what) from None
    return found


def read_cache(place: CachePlace, network: RegistryAccess, platforms: Iterable[Platform]) -> list[SharedCache]:
    """Open the caches at a place: the artifact, or those in the configs of an image's platforms. Raises NotFound,
    InvalidDocument, and what reading raises."""
    reader, name = _reader(place, network)
    top = reader.resolve(name)
    document = parse(reader.manifest(top), top.media_type, name)
    wanted = list(platforms) if isinstance(document, Index) else [Platform.host()]
    return [SharedCache(_read(find_manifest(reader, top, one, name), reader, name), reader) for one in wanted]


def write_cache(
    place: CachePlace,
    records: Records,
    session: StoreSession,
    network: RegistryAccess,
    *,
    on_event: OnEvent = ignore,
    cancel: Cancel | None = None,
) -> None:
    """Write the records and their layers to a registry or a layout. Raises what a push raises."""
    from lamina.transfer.copy import copy

    layers = list({made.descriptor.digest: made.descriptor for made in records.values() if made is not None}.values())
    raw = dump({"records": listed(records, layers)})
    config = Descriptor.of(CONFIG, raw)
    manifest = build_manifest(config, layers)
    session.put_blob(config, BytesBlob(config, raw))
    session.put_manifest(manifest.descriptor, manifest.raw)
    source = _Ready(session.reader, manifest.descriptor)
    writer, name = _writer(place, network)
    copy(source, writer, [(name, name)], on_event=on_event, cancel=cancel)


@contextmanager
def may_fail(place: CachePlace, warn: Callable[[str], object], *, always: bool = False) -> Iterator[None]:
    """Turn an error into a warning: a cache that can't be read never fails a build, and one that can't be written
    only without ``ignore-error=true``."""
    try:
        yield
    except LaminaError as error:
        if not always and place.attributes.get("ignore-error") != "true":
            raise
        warn(f"the build cache {shown(place)} is not used: {error.message}")


def shown(place: CachePlace) -> str:
    """The place, for messages."""
    attributes = place.attributes
    return without_credentials(attributes.get("ref") or attributes.get("src") or attributes.get("dest") or place.kind)


class _Ready:
    """A ``Reader`` that knows one document by any name."""

    def __init__(self, reader: Reader, top: Descriptor) -> None:
        self._reader = reader
        self._top = top
        self.location = "the build cache"

    def resolve(self, name: str) -> Descriptor:
        return self._top

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._reader.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        return self._reader.blob(descriptor)


def _read(manifest: Manifest, reader: Reader, what: str) -> Records:
    if manifest.config.media_type == CONFIG:
        value = load(read_document(reader, manifest.config, what), f"the build cache {what}")
        return records_in(value.get("records"), manifest.layers, what)
    if manifest.config.media_type.startswith(_BUILDKIT):
        raise InvalidDocument(
            f"{what} is a build cache of BuildKit, whose keys mean nothing to lamina",
            hint="write another one with --cache-to",
        )
    if not manifest.is_image:
        raise InvalidDocument(f"{what} is neither a build cache nor an image", hint="check the name")
    config = load(read_document(reader, manifest.config, what), f"the config of {what}")
    return records_in(config.get(INLINE, []), manifest.layers, what)


def _reader(place: CachePlace, network: RegistryAccess) -> tuple[Reader, str]:
    if place.kind == "local":
        from lamina.archive.layout import LayoutReader

        attributes = place.attributes
        return LayoutReader(attributes["src"]), attributes.get("digest") or attributes.get("tag", _LATEST)
    if place.kind != "registry":
        raise UsageError(f"no cache can be read from type={place.kind}", hint="use type=registry or type=local")
    name = place.attributes["ref"]
    return network.repository(name), str(network.full(name))


def _writer(place: CachePlace, network: RegistryAccess) -> tuple[Writer, str]:
    if place.kind == "local":
        from lamina.archive.layout import LayoutWriter

        return LayoutWriter(place.attributes["dest"]), place.attributes.get("tag", _LATEST)
    name = place.attributes["ref"]
    return network.repository(name), str(network.full(name))


def _is_layer(descriptor: Descriptor) -> bool:
    """Whether lamina writes such layers: the descriptor becomes a part of the image."""
    media_type = descriptor.media_type
    return is_layer(media_type) and not is_foreign(media_type) and not descriptor.urls


def _invalid(what: str) -> InvalidDocument:
    return InvalidDocument(f"the build cache {what} is not what lamina writes", hint="write it again with --cache-to")
