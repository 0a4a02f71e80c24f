"""What the repositories of a bucket need: found by one listing, and by reading each manifest once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from lamina.objects import keys
from lamina.objects.documents import TOMBSTONE_SIZE, unpack_manifest
from lamina.objects.failures import StorageFailure
from lamina.objects.manifests import named
from lamina.spec.manifest import parse

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Listed
    from lamina.spec.digest import Digest

_BATCH = 1000
T = TypeVar("T")


@dataclass
class References:
    """The objects of all repositories at about one moment. ``needed``: what manifests name; ``links``: by the digest
    of the blob, each with the time it was written; ``tombstones``: tags whose removal is under way or was broken off;
    ``referrers``: with what they refer to gone or not."""

    needed: set[Digest] = field(default_factory=set)
    links: dict[Digest, list[tuple[str, str, float]]] = field(default_factory=dict)
    tombstones: list[Listed] = field(default_factory=list)
    manifests: set[tuple[str, Digest]] = field(default_factory=set)
    referrers: list[tuple[str, str, Digest, int]] = field(default_factory=list)

    def protects(self, digest: Digest, since: float) -> bool:
        """Whether a manifest names the blob, or it came into a repository after this time."""
        return digest in self.needed or any(modified > since for _, _, modified in self.links.get(digest, ()))


class ReferenceReader:
    """Reads references again and again: a manifest that was read is not read again. ``alive`` is called now and
    then."""

    def __init__(self, bucket: Bucket, pool: Executor, alive: Callable[[], None] = lambda: None) -> None:
        self._bucket, self._pool, self._alive = bucket, pool, alive
        self._named: dict[str, tuple[float, tuple[Digest, ...]]] = {}

    def read(self) -> References:
        """Raises StoreDamaged for a manifest that can't be read: what it needs is not known."""
        found = References()
        manifests: list[Listed] = []
        for number, one in enumerate(self._bucket.list(keys.REPOSITORIES)):
            if number % _BATCH == 0:
                self._alive()
            self._sort(one, found, manifests)
        known: dict[str, tuple[float, tuple[Digest, ...]]] = {}
        for batch in batches(iter(manifests), _BATCH):
            self._alive()
            for one, needs in zip(batch, self._pool.map(self._needs, batch), strict=True):
                if needs is not None:
                    known[one.key] = (one.modified, needs)
                    found.needed.update(needs)
        self._named = known
        return found

    def _sort(self, one: Listed, found: References, manifests: list[Listed]) -> None:
        parts = keys.split(one.key)
        if parts is None:
            return
        repository, kind, rest = parts
        if kind == "_manifests":
            digest = keys.digest_of_manifest(rest)
            if digest is not None:
                manifests.append(one)
                found.manifests.add((repository, digest))
        elif kind == "_blobs":
            link = keys.digest_of_link(rest)
            if link is not None:
                found.links.setdefault(link[0], []).append((one.key, link[1], one.modified))
        elif kind == "_tags":
            if one.size <= TOMBSTONE_SIZE:
                found.tombstones.append(one)
        elif kind == "_referrers":
            referrer = keys.referrer_of(one.key)
            if referrer is not None:
                found.referrers.append((one.key, repository, *referrer))

    def _needs(self, one: Listed) -> tuple[Digest, ...] | None:
        known = self._named.get(one.key)
        if known is not None and known[0] == one.modified:
            return known[1]
        found = self._bucket.get(one.key)
        if found is None:
            check_deleted(self._bucket, one.key)
            return None
        media_type, raw = unpack_manifest(found.data, one.key)
        return tuple(named(parse(raw, media_type, one.key)))


def check_deleted(bucket: Bucket, key: str) -> None:
    """Check that an object that was listed, and is not found, was deleted meanwhile. If it is still listed, what it
    needs is not known. Raises StorageFailure."""
    after = bucket.list(key.rpartition("/")[0], key[:-1])
    if next((one.key == key for one in after if one.key >= key), False):
        raise StorageFailure(
            f"{bucket.location} lists {key}, and does not find it", hint="check the storage's address"
        )


def batches(values: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(values, size)):
        yield batch
