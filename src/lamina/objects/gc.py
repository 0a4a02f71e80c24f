"""gc of object storage, beside servers that write.

A blob that no manifest names, and that is in no repository since less than the grace time, is condemned first. Only
then are all references read; a blob that has one is pardoned, the others are deleted. A server first writes its
reference (the link of a blob in a repository) and then reads the blob's record. So either gc finds the reference, or
the server finds the blob condemned, and pardons it by comparison; gc deletes only a record that nobody has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lamina.errors import Cancelled, StoreDamaged
from lamina.objects import keys
from lamina.objects.documents import Upload
from lamina.objects.lease import Lease, storage_time
from lamina.objects.manifests import PERIOD
from lamina.objects.records import Condemned, Records
from lamina.objects.references import ReferenceReader, References, batches, check_deleted
from lamina.objects.removal import LEASE, REAL, Clock
from lamina.objects.repositories import GRACE
from lamina.objects.tags import Tags
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket

ABANDONED = 86400.0
"""Seconds after which an upload that nobody goes on with is removed."""

_BATCH = 500


@dataclass
class Collected:
    """What gc has deleted: blobs and their bytes, and uploads."""

    blobs: list[Digest] = field(default_factory=list)
    size: int = 0
    uploads: int = 0


class Collector:
    """gc for one bucket; it can run many times, and remembers what it has read."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        grace: float = GRACE,
        abandoned: float = ABANDONED,
        clock: Clock = REAL,
        stopped: Callable[[], bool] = lambda: False,
        pool: Executor | None = None,
    ) -> None:
        self._bucket = bucket
        self._grace, self._abandoned = grace, abandoned
        self._stopped = stopped
        self._records, self._tags = Records(bucket, clock), Tags(bucket, clock)
        self._pool = pool or ThreadPoolExecutor(16, "lamina-gc")
        self._lease: Lease | None = None
        self._reader = ReferenceReader(bucket, self._pool, self._alive)
        self._idents: dict[Digest, tuple[float, str]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def plan(self) -> Collected:
        """What ``run`` would delete now, but for uploads. Nothing is changed but an object that tells the time."""
        now = storage_time(self._bucket)
        done = Collected()
        for digest in self._unneeded(now):
            found = self._records.read(digest)
            if found is not None:
                done.blobs.append(digest)
                done.size += found[0].size
        return done

    def run(self, *, unless_since: float = 0.0) -> Collected:
        """Raises Conflict if gc is running elsewhere, or has ended less than ``unless_since`` seconds ago;
        StoreDamaged if a manifest can't be read; Cancelled if it was stopped."""
        now = storage_time(self._bucket)
        done = Collected()
        with ExitStack() as stack:
            self._lease = stack.enter_context(Lease(self._bucket, now, unless_since=unless_since))
            self._blobs(now, done)
            self._uploads(now, done)
            self._leftovers(now)
        return done

    def _alive(self) -> None:
        if self._stopped():
            raise Cancelled("gc was stopped")
        if self._lease is not None:
            self._lease.renew()

    def _blobs(self, now: float, done: Collected) -> None:
        condemned: dict[Digest, Condemned] = {}
        for batch in batches(iter(self._unneeded(now)), _BATCH):
            self._alive()
            for digest, one in zip(batch, self._pool.map(self._records.condemn, batch), strict=True):
                if one is not None:
                    condemned[digest] = one
        if condemned:
            # only now: a reference that is not found from here on belongs to somebody who finds the blob condemned
            self._judge(condemned, self._reader.read(), now, done)

    def _unneeded(self, now: float) -> list[Digest]:
        """Old blobs that nothing refers to."""
        old = [digest for digest, modified in self._records if modified <= now - self._grace]
        if not old:
            return []
        references = self._reader.read()
        return [digest for digest in old if not references.protects(digest, now - self._grace)]

    def _judge(self, condemned: dict[Digest, Condemned], references: References, now: float, done: Collected) -> None:
        for digest, one in condemned.items():
            self._alive()
            if references.protects(digest, now - self._grace):
                self._records.pardon(digest, one)
                continue
            links = references.links.get(digest, ())
            size = self._records.remove(
                digest,
                one,
                lambda ident, links=links: self._bucket.delete_all(  # type: ignore[misc]
                    [key for key, generation, _ in links if generation == ident]
                ),
                now,
            )
            if size is not None:
                done.blobs.append(digest)
                done.size += size

    def _uploads(self, now: float, done: Collected) -> None:
        for one in self._bucket.list(keys.UPLOADS):
            self._alive()
            if one.modified < now - self._abandoned:
                done.uploads += self._sweep_upload(one.key)

    def _sweep_upload(self, key: str) -> bool:
        ident = key.rpartition("/")[2]
        found = self._bucket.get(key)
        if found is None:
            return False
        try:
            state = Upload.from_bytes(found.data, key)
        except StoreDamaged:
            state = None  # its bytes are leftovers, if no blob has them
        if self._bucket.swap(key, replace(state or Upload(""), removing=True).to_bytes(), found.version) is None:
            return False  # somebody goes on with it
        if state is not None and not (state.finishing and self._owns(Digest.parse(state.finishing), ident)):
            self._records.discard(ident)
        self._bucket.delete(key)
        return True

    def _owns(self, digest: Digest, ident: str) -> bool:
        """Whether the bytes of this upload are those of the blob."""
        found = self._records.read(digest)
        return found is not None and found[0].ident == ident

    def _leftovers(self, now: float) -> None:
        """Delete what interrupted work has left. Each list is read before what shows that its objects are in use."""
        references = self._reader.read()
        newest: dict[str, float] = {}
        for one in self._bucket.list(keys.DATA):
            ident = keys.generation_of_part(one.key)
            newest[ident] = max(newest.get(ident, 0.0), one.modified)
        uploads = {one.key.rpartition("/")[2] for one in self._bucket.list(keys.UPLOADS)}
        owners = self._owners()
        used = {ident for _, ident in owners.values()}
        for ident, modified in newest.items():
            self._alive()
            if modified < now - self._abandoned and ident not in uploads and ident not in used:
                self._records.discard(ident)
        stale = [
            key
            for digest, links in references.links.items()
            for key, ident, modified in links
            if modified < now - self._abandoned and (digest not in owners or owners[digest][1] != ident)
        ]
        stale += [
            one.key
            for one in self._bucket.list(keys.GC)
            if one.key.startswith(keys.CLOCK) and one.modified < now - self._abandoned
        ]
        period = int(now) // PERIOD
        stale += [
            key
            for key, repository, digest, written in references.referrers
            if written < period - 2 and (repository, digest) not in references.manifests
        ]
        for batch in batches(iter(stale), _BATCH):
            self._bucket.delete_all(batch)
        for one in references.tombstones:
            self._tags.sweep(one.key, now - LEASE)

    def _owners(self) -> dict[Digest, tuple[float, str]]:
        """The upload that brought each blob. A record that was read is read again only if it was written since."""
        found: dict[Digest, tuple[float, str]] = {}
        unread: list[tuple[Digest, float]] = []
        for digest, modified in self._records:
            known = self._idents.get(digest)
            if known is not None and known[0] == modified:
                found[digest] = known
            else:
                unread.append((digest, modified))
        for batch in batches(iter(unread), _BATCH):
            self._alive()
            records = self._pool.map(self._records.read, [digest for digest, _ in batch])
            for (digest, modified), record in zip(batch, records, strict=True):
                if record is not None:
                    found[digest] = (modified, record[0].ident)
                else:
                    check_deleted(self._bucket, keys.record(digest))
        self._idents = found
        return found
