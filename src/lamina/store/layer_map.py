"""The layers of each image of the store, read once from manifests and configs, and kept in one derived file.

The content of a digest never changes, so a record stays correct. Missing records are read and added; records that no
name needs are left out at the next write. While index.json and its log are unchanged, byte for byte, they are not
even parsed again. A damaged file is ignored.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError, NotFound, SystemFailure, Unsupported
from lamina.host.files import replace_file, reported
from lamina.source.search import LayerMap
from lamina.source.select import find_manifest, read_config
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.store.fault import pieces, point
from lamina.store.refs import name_of

if TYPE_CHECKING:
    from lamina.store.read import StoreReader

_HEAD = b"lamina members 1 "
_MAX_FILE = 1 << 30
_log = logging.getLogger("lamina.store")


def layer_map(store: StoreReader, platform: Platform, only: Sequence[Descriptor] | None = None) -> LayerMap:
    """The layers of all named and untagged images, or of these entries of index.json, for this platform. Raises
    StoreDamaged (index.json), SystemFailure."""
    kept = _load(store.paths.layer_map)
    before = kept["platforms"].get(str(platform), {})
    if only is None:
        with reported(store.paths.index):
            state = store.refs.state()
        if before.get("index") == state:
            return _layer_map_of(kept["layers"], before["images"])
    records = {digest: numbers for _, digest, numbers in before.get("images", ())}
    reading = _Reading(store, platform, kept["layers"], records)
    images = reading.all(store.refs.entries() if only is None else only)
    if only is None:
        kept["platforms"][str(platform)] = {"index": "" if reading.unread else state, "images": images}
        _write(store, _packed(kept))
    found = _layer_map_of(kept["layers"], images)
    found.unread = reading.unread
    return found


def layer_map_is_right(store: StoreReader) -> bool:
    """Whether the kept file agrees with manifests and configs, or does not exist. Raises StoreDamaged (index.json),
    SystemFailure."""
    if not os.path.exists(store.paths.layer_map):
        return True
    kept = _load(store.paths.layer_map)
    if not kept["platforms"]:
        return False
    entries = store.refs.entries()
    for text, before in kept["platforms"].items():
        layers: list[str] = []
        fresh = {
            digest: [layers[number] for number in numbers]
            for _, digest, numbers in _Reading(store, Platform.parse(text), layers, {}).all(entries)
        }
        for _, digest, numbers in before["images"]:
            if digest in fresh and fresh[digest] != [kept["layers"][number] for number in numbers]:
                return False
    return True


class _Reading:
    def __init__(
        self, store: StoreReader, platform: Platform, layers: list[str], records: dict[str, list[int]]
    ) -> None:
        self._store = store
        self._platform = platform
        self._layers = layers  # grows
        self._records = records
        self._numbers = {text: number for number, text in enumerate(layers)}
        self.unread: list[tuple[str, str]] = []

    def all(self, entries: Sequence[Descriptor]) -> list[tuple[str, str, list[int]]]:
        found = []
        for entry in entries:
            digest = str(entry.digest)
            numbers = self._records.get(digest)
            if numbers is None:
                diff_ids = self._read(entry)
                if diff_ids is None:
                    continue
                numbers = self._records[digest] = [self._number(str(diff_id)) for diff_id in diff_ids]
            found.append((name_of(entry), digest, numbers))
        return found

    def _read(self, entry: Descriptor) -> tuple[Digest, ...] | None:
        what = name_of(entry) or str(entry.digest)
        try:
            manifest = find_manifest(self._store, entry, self._platform, what)
            return read_config(self._store, manifest, what).diff_ids if manifest.is_image else None
        except (NotFound, Unsupported) as error:
            if self._store.blobs.size(entry.digest) is None:
                self.unread.append((what, error.message))
        except SystemFailure:
            raise
        except LaminaError as error:
            self.unread.append((what, error.message))
        return None

    def _number(self, diff_id: str) -> int:
        number = self._numbers.setdefault(diff_id, len(self._layers))
        if number == len(self._layers):
            self._layers.append(diff_id)
        return number


def _layer_map_of(layers: list[str], images: Sequence[Sequence[Any]]) -> LayerMap:
    found = LayerMap([Digest(*text.split(":", 1)) for text in layers])
    for name, digest, numbers in images:
        found.stacks.setdefault(tuple(numbers), []).append((name, digest))
    return found


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            head, _, body = file.read(_MAX_FILE).partition(b"\n")
    except OSError:
        head = body = b""
    if head != b"%s%08x" % (_HEAD, zlib.crc32(body)):
        return {"layers": [], "platforms": {}}
    value: dict[str, Any] = json.loads(body)
    return value


def _packed(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out layers that no image has any more."""
    images = [image for kept in value["platforms"].values() for image in kept["images"]]
    used = {number: new for new, number in enumerate(sorted({number for image in images for number in image[2]}))}
    if len(used) == len(value["layers"]):
        return value
    return {
        "layers": [value["layers"][number] for number in used],
        "platforms": {
            platform: {
                "index": kept["index"],
                "images": [(name, digest, [used[n] for n in numbers]) for name, digest, numbers in kept["images"]],
            }
            for platform, kept in value["platforms"].items()
        },
    }


def _write(store: StoreReader, value: dict[str, Any]) -> None:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = b"%s%08x\n" % (_HEAD, zlib.crc32(body))
    try:
        with reported(store.paths.layer_map):
            data = pieces([head, body], "layer-map.written")
            replace_file(store.paths.layer_map, data, within=store.paths.ingest, lasting=False)
        point("layer-map.renamed")
    except SystemFailure as error:  # the store may be read-only: the search works without the file
        _log.debug("%s", error)
