"""Which layers the store's images are made of: read from manifests and configs once, kept in one derived file.

What a digest stands for never changes, so a record is right for ever; what is missing is read and added, what no name
has any more is left out when the file is next written. Damaged, it counts as not there.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError, NotFound, SystemFailure, Unsupported
from lamina.files import replace_file, reported
from lamina.source import find_manifest, read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.store.store import Store

_HEAD = "lamina members 1 "
_MAX_FILE = 1 << 30
_log = logging.getLogger("lamina.store")

Records = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Member:
    """An image and the diff_ids of its layers, bottom first. ``name`` is canonical, "" for none; ``descriptor`` is
    what the name stands for (an index, where it is one)."""

    name: str
    descriptor: Descriptor
    diff_ids: tuple[Digest, ...]


@dataclass
class Members:
    """``unread``: images that can't be looked into, as (name or digest, why). Artifacts, and images of which
    nothing was fetched for this platform, are in neither."""

    images: list[Member] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)


def members(store: Store, platform: Platform, entries: Iterable[tuple[str, Descriptor]] | None = None) -> Members:
    """Of each name and each untagged image (or of ``entries``) what the platform's layers are.
    Raises StoreDamaged (index.json), SystemFailure."""
    cache = _Cache(store.paths.members, store.paths.scratch("members"), str(platform))
    found = Members()
    every = entries is None
    for name, descriptor in store.names() if entries is None else entries:
        diff_ids = cache.get(descriptor.digest)
        if diff_ids is None:
            try:
                manifest = find_manifest(store, descriptor, platform, name or str(descriptor.digest))
                if not manifest.is_image:
                    continue
                diff_ids = read_config(store, manifest, name or str(descriptor.digest)).diff_ids
            except (NotFound, Unsupported) as error:
                if store.blobs.size(descriptor.digest) is None:
                    found.unread.append((name or str(descriptor.digest), error.message))
                continue
            except SystemFailure:
                raise
            except LaminaError as error:
                found.unread.append((name or str(descriptor.digest), error.message))
                continue
            cache.add(descriptor.digest, diff_ids)
        found.images.append(Member(name, descriptor, diff_ids))
    cache.keep({str(member.descriptor.digest) for member in found.images} if every else None)
    return found


class _Cache:
    """The file, or what can be used of it."""

    def __init__(self, path: str, scratch: str, platform: str) -> None:
        self._path = path
        self._scratch = scratch
        self._platform = platform
        value = _load(path)
        self._layers: list[Digest] = [Digest(*text.split(":", 1)) for text in value["layers"]]
        self._platforms: dict[str, Records] = value["images"]
        self._numbers: dict[Digest, int] | None = None
        self._shared: dict[tuple[int, ...], tuple[Digest, ...]] = {}
        self._changed = False

    def get(self, digest: Digest) -> tuple[Digest, ...] | None:
        numbers = self._platforms.get(self._platform, {}).get(str(digest))
        if numbers is None:
            return None
        key = tuple(numbers)
        found = self._shared.get(key)  # images of one stack share its tuple
        if found is None:
            found = self._shared[key] = tuple(self._layers[number] for number in numbers)
        return found

    def add(self, digest: Digest, diff_ids: tuple[Digest, ...]) -> None:
        if self._numbers is None:
            self._numbers = {layer: number for number, layer in enumerate(self._layers)}
        for layer in diff_ids:
            if layer not in self._numbers:
                self._numbers[layer] = len(self._layers)
                self._layers.append(layer)
        record = [self._numbers[layer] for layer in diff_ids]
        self._platforms.setdefault(self._platform, {})[str(digest)] = record
        self._changed = True

    def keep(self, wanted: set[str] | None) -> None:
        """Write it where something is new; ``wanted``: all images that there are, if that is known."""
        if not self._changed:
            return
        platforms = self._platforms
        if wanted is not None:
            platforms = {
                platform: {digest: record for digest, record in records.items() if digest in wanted}
                for platform, records in platforms.items()
                if platform == self._platform or not wanted.isdisjoint(records)
            }
        used = sorted({number for records in platforms.values() for record in records.values() for number in record})
        renumbered = {number: new for new, number in enumerate(used)}
        value = {
            "layers": [str(self._layers[number]) for number in used],
            "images": {
                platform: {digest: [renumbered[number] for number in record] for digest, record in records.items()}
                for platform, records in platforms.items()
            },
        }
        body = json.dumps(value, separators=(",", ":")).encode()
        try:
            with reported(self._path):
                head = b"%s%08x\n" % (_HEAD.encode(), zlib.crc32(body))
                replace_file(self._path, [head, body], temporary=self._scratch)
        except SystemFailure as error:  # a store that is only read is looked into all the same
            _log.debug("%s", error)


def _load(path: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"layers": [], "images": {}}
    try:
        with open(path, "rb") as file:
            head, _, body = file.read(_MAX_FILE).partition(b"\n")
    except OSError:
        return nothing
    if head != b"%s%08x" % (_HEAD.encode(), zlib.crc32(body)):
        return nothing
    value: dict[str, Any] = json.loads(body)
    return value
