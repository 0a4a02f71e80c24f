"""Plans a pull: what would be moved, before anything is moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.source.select import choose, read_config
from lamina.source.walk import Found, Known, listed, looking, walk
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Index, Manifest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.store.layers import blob_stays
from lamina.transfer.connect import RegistryAccess, blobs_of

if TYPE_CHECKING:
    from lamina.source.protocols import Reader
    from lamina.store.store import Store

FETCH, HERE, KNOWN = "to fetch", "already here", "known by diff_id"
_TYPICAL = 3.0  # bytes of tar for each gzip byte, if nothing better is known


@dataclass(frozen=True, slots=True)
class PlannedBlob:
    """One blob of a plan. ``state`` is "to fetch", "already here", or "known by diff_id" (with ``keep = tar``: the
    store has its tar under another compressed digest, so it is not fetched). ``tar_size`` in bytes, None if it is not
    a layer. ``shared`` are local images that have it."""

    descriptor: Descriptor
    what: str
    state: str
    tar_size: int | None
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PullPlan:
    """The plan of a pull. ``fetch`` and ``here`` are in bytes of blobs. ``disk`` is the growth of the store in bytes;
    it is ``estimated`` if the tar size of a layer is not known in advance."""

    name: str
    descriptor: Descriptor
    blobs: tuple[PlannedBlob, ...]
    fetch: int
    here: int
    disk: int
    estimated: bool


def plan_pull(
    name: str, store: Store, network: RegistryAccess, *, platform: Platform, all_platforms: bool = False
) -> PullPlan:
    """Plan a pull: request only manifests, configs, and the last bytes of each missing layer, which tell its inflated
    size. Nothing is written. Raises as ``pull``."""
    repository = network.repository(name)
    reference = network.full(name)
    top = repository.resolve(str(reference))
    shared = _shared(store)
    blobs: dict[Digest, PlannedBlob] = {}
    disk, estimated = 0, False
    for descriptor, document in _documents(repository, top, platform, all_platforms, str(reference)):
        what = "manifest" if isinstance(document, Manifest) else "index"
        blobs[descriptor.digest] = _small(store, descriptor, what, shared)
        if not isinstance(document, Manifest):
            continue
        diff_ids: tuple[Digest | None, ...] = (None,) * len(document.layers)
        if document.is_image:
            diff_ids = read_config(repository, document, str(reference)).diff_ids
        blobs.setdefault(document.config.digest, _small(store, document.config, "config", shared))
        for layer, diff_id in zip(document.layers, diff_ids, strict=True):
            if layer.digest in blobs:
                continue
            state, tar_size = FETCH, None
            derived = diff_id is not None and store.layers.there(diff_id)
            if store.blobs.has(layer):
                state = HERE
            elif derived and store.keep == "tar" and diff_id is not None and not blob_stays(layer, diff_id):
                state = KNOWN
            if diff_id is not None and state == FETCH and not derived:
                tar_size, exact = _unpacked(repository, layer)
                estimated = estimated or not exact
                disk += 0 if store.keep == "blob" else tar_size
            elif diff_id is not None:
                tar_size = store.layers.index(layer, diff_id).tar_size
            blobs[layer.digest] = PlannedBlob(
                layer, "layer" if diff_id else "blob", state, tar_size, shared.get(layer.digest, ())
            )
    fetch = sum(blob.descriptor.size for blob in blobs.values() if blob.state == FETCH)
    here = sum(blob.descriptor.size for blob in blobs.values() if blob.state != FETCH)
    unkept = [blob for blob in blobs.values() if store.keep == "tar" and blob.what == "layer" and blob.state == FETCH]
    disk += fetch - sum(blob.descriptor.size for blob in unkept)
    return PullPlan(str(reference), top, tuple(blobs.values()), fetch, here, disk, estimated)


def _documents(
    reader: Reader, top: Descriptor, platform: Platform, all_platforms: bool, what: str
) -> list[tuple[Descriptor, Manifest | Index]]:
    def wanted(found: Found) -> Iterable[Descriptor]:
        if all_platforms or not (isinstance(found, Known) and isinstance(found.document, Index)):
            return listed(found)
        return (choose(reader, found.document, platform, what),)

    documents: list[tuple[Descriptor, Manifest | Index]] = []
    for found in walk(looking(reader, what), [top], into=wanted, what=what):
        if not isinstance(found, Known):
            raise found.error
        documents.append((found.descriptor, found.document))
    return documents


def _small(store: Store, descriptor: Descriptor, what: str, shared: dict[Digest, tuple[str, ...]]) -> PlannedBlob:
    state = HERE if store.blobs.has(descriptor) else FETCH
    return PlannedBlob(descriptor, what, state, None, shared.get(descriptor.digest, ()))


def _shared(store: Store) -> dict[Digest, tuple[str, ...]]:
    """Map each blob to the named images of the store that have it."""
    found: dict[Digest, list[str]] = {}
    for name, top in store.names():
        if name:
            for digest in blobs_of(store, top):
                found.setdefault(digest, []).append(Reference.parse(name).familiar)
    return {digest: tuple(sorted(names)) for digest, names in found.items()}


def _unpacked(reader: Reader, layer: Descriptor) -> tuple[int, bool]:
    """Return the tar size of a layer in bytes, and whether it is exact. A gzip file with one member ends with its
    length modulo 2**32: used if plausible, never relied on."""
    compression = mediatype.compression(layer.media_type)
    if compression == "none":
        return layer.size, True
    if compression == "gzip" and 18 < layer.size < 1 << 31:
        try:
            with reader.blob(layer).open(layer.size - 4) as stream:
                size = int.from_bytes(stream.read(4), "little")
        except LaminaError:
            size = 0
        if layer.size // 2 <= size <= layer.size * 200 and size % 512 == 0:
            return size, False
    return int(layer.size * _TYPICAL), False
