"""Plans a pull: what would be moved, before anything is moved."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.events import Cancel, OnEvent, ignore
from lamina.source.presence import Presence, here_if
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform
from lamina.spec.reference import Reference
from lamina.store.layers import blob_stays
from lamina.transfer.connect import RegistryAccess, blobs_of
from lamina.transfer.copy import Proposal, copy

if TYPE_CHECKING:
    from lamina.source.protocols import Blob, Reader, Session
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
    """Plan a pull: a copy into the store that admits nothing. Only manifests, configs, and the last bytes of each
    missing layer (which tell its uncompressed size) are requested. Nothing is written. Raises as ``pull``."""
    repository = network.repository(name)
    reference = str(network.full(name))
    plans: list[PullPlan] = []

    def only_plan(proposal: Proposal) -> bool:
        plans.append(_planned(proposal, store))
        return False

    copy(
        repository,
        _ReadOnlyTarget(store),
        [(reference, reference)],
        platform=platform,
        all_platforms=all_platforms,
        admit=only_plan,
    )
    return plans[0]


def _planned(proposal: Proposal, store: Store) -> PullPlan:
    """What a copy of this proposal would bring into the store."""
    shared = _shared(store)
    blobs: dict[Digest, PlannedBlob] = {}
    disk, estimated = 0, False
    for descriptor, _, what in reversed(proposal.documents):
        blobs[descriptor.digest] = _small(store, descriptor, what, shared)
    for blob, what, diff_id in proposal.blobs:
        if what == "config":
            blobs[blob.digest] = _small(store, blob, what, shared)
            continue
        state, tar_size = FETCH, None
        derived = diff_id is not None and store.layers.has_derived_files(diff_id)
        if store.blobs.has(blob):
            state = HERE
        elif derived and store.keep == "tar" and diff_id is not None and not blob_stays(blob, diff_id):
            state = KNOWN
        if diff_id is not None and state == FETCH and not derived:
            tar_size, exact = _uncompressed_size(proposal.source, blob)
            estimated = estimated or not exact
            disk += 0 if store.keep == "blob" else tar_size
        elif diff_id is not None:
            tar_size = store.layers.index(blob, diff_id).tar_size
        blobs[blob.digest] = PlannedBlob(blob, what, state, tar_size, shared.get(blob.digest, ()))
    fetch = sum(blob.descriptor.size for blob in blobs.values() if blob.state == FETCH)
    here = sum(blob.descriptor.size for blob in blobs.values() if blob.state != FETCH)
    not_kept = [one for one in blobs.values() if store.keep == "tar" and one.what == "layer" and one.state == FETCH]
    disk += fetch - sum(blob.descriptor.size for blob in not_kept)
    return PullPlan(proposal.target_name, proposal.top, tuple(blobs.values()), fetch, here, disk, estimated)


class _ReadOnlyTarget:
    """The store as the target of a copy that is only planned: it takes what the store takes, and writes nothing. So a
    plan also works in a store that this user may only read."""

    reader = None

    def __init__(self, store: Store) -> None:
        self._store = store
        self.location = store.location
        self.accepts = store.accepts

    def session(self, purpose: str) -> AbstractContextManager[Session]:
        return nullcontext(self)

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        return here_if(self._store.blobs.has(descriptor))

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        raise AssertionError("a plan writes nothing")

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        raise AssertionError("a plan writes nothing")

    def tag(self, name: str, descriptor: Descriptor) -> None:
        raise AssertionError("a plan writes nothing")


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


def _uncompressed_size(reader: Reader, layer: Descriptor) -> tuple[int, bool]:
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
