"""The records of blobs: which blobs the bucket has, and where their bytes are.

A record has a state. ``here``: the blob is there. ``condemned``: gc wants to delete the blob; a server that needs it
pardons it first. ``removing``: the bytes are being deleted, so the blob is not there. A server first makes its
reference (a link), then asks ``rely``; gc first condemns, then looks for references. So one of them sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.objects import keys
from lamina.objects.documents import CONDEMNED, HERE, REMOVING, Record
from lamina.objects.memory import Memory
from lamina.objects.removal import LEASE, REAL, Clock, Deadline, Patience

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Version
    from lamina.spec.digest import Digest

MAX_REMEMBERED = 20_000

_BELIEVED = 60.0
"""Seconds for which a record is remembered. Other servers may have removed the blob, and pushed it anew."""


@dataclass(frozen=True)
class Condemned:
    """A record that gc may delete, and its version: it is deleted only if nobody has changed it since."""

    record: Record
    version: Version
    modified: float


class Records:
    """The records in a bucket."""

    def __init__(self, bucket: Bucket, clock: Clock = REAL) -> None:
        self._bucket, self._clock = bucket, clock
        self._known: Memory[Digest, Record] = Memory(MAX_REMEMBERED, seconds=_BELIEVED, now=clock.now)

    def known(self, digest: Digest) -> Record | None:
        """The record, perhaps as it was some time ago: enough to read the blob, not to rely on it."""
        return self._known.get(digest) or self.fresh(digest)

    def fresh(self, digest: Digest) -> Record | None:
        """The record of a blob that is here; None if it is not, or is being removed."""
        found = self.read(digest)
        if found is None or found[0].state == REMOVING:
            self._known.drop(digest)
            return None
        self._known.put(digest, found[0])
        return found[0]

    def read(self, digest: Digest) -> tuple[Record, Version] | None:
        """The record, also of a blob that is being removed, and its version."""
        key = keys.record(digest)
        found = self._bucket.get(key)
        return None if found is None else (Record.from_bytes(found.data, key), found.version)

    def rely(self, digest: Digest) -> Record | None:
        """The record, with the promise that gc does not delete the blob as long as there is a reference to it, which
        the caller has made before. None if the blob is not here."""
        patience = Patience(self._clock)
        while True:
            found = self.read(digest)
            if found is None or found[0].state == REMOVING:
                self._known.drop(digest)
                return None
            record, version = found
            if record.state == CONDEMNED:
                record = replace(record, state=HERE)
                if self._bucket.swap(keys.record(digest), record.to_bytes(), version) is None:
                    patience.again()
                    continue
            self._known.put(digest, record)
            return record

    def publish(self, digest: Digest, new: Record) -> Record:
        """Make a blob visible. Returns its record: of another upload, if the blob was here already."""
        key = keys.record(digest)
        patience = Patience(self._clock)
        while True:
            if self._bucket.create(key, new.to_bytes()) is not None:
                break
            record = self.rely(digest)
            if record is not None:
                return record
            found = self.read(digest)
            if found is None or found[0].state != REMOVING:
                patience.again()
            elif patience.is_over(found[1]) and self._bucket.swap(key, new.to_bytes(), found[1]) is not None:
                break
        self._known.put(digest, new)
        return new

    def discard(self, ident: str) -> None:
        """Delete the bytes of an upload that no record names."""
        self._bucket.delete_all([one.key for one in self._bucket.list(keys.generation(ident))])

    # for gc

    def __iter__(self) -> Iterator[tuple[Digest, float]]:
        """All records, also those that are being removed, and when they were written."""
        for one in self._bucket.list(keys.BLOBS):
            digest = keys.digest_of_record(one.key)
            if digest is not None:
                yield digest, one.modified

    def condemn(self, digest: Digest) -> Condemned | None:
        """Say that the blob will be deleted unless somebody needs it. None if it is not there, or has changed."""
        key = keys.record(digest)
        found = self._bucket.get(key)
        if found is None:
            return None
        record, version = Record.from_bytes(found.data, key), found.version
        if record.state == HERE:
            record = replace(record, state=CONDEMNED)
            changed = self._bucket.swap(key, record.to_bytes(), version)
            return None if changed is None else Condemned(record, changed, found.modified)
        return Condemned(record, version, found.modified)

    def pardon(self, digest: Digest, one: Condemned) -> None:
        if one.record.state == CONDEMNED:
            self._bucket.swap(keys.record(digest), replace(one.record, state=HERE).to_bytes(), one.version)

    def remove(self, digest: Digest, one: Condemned, links: Callable[[str], None], now: float) -> int | None:
        """Delete a blob if its record is still as it was when it was condemned. An old removal that was broken off is
        completed (``now`` is the storage's time). Returns the size of the blob; None if it was not
        deleted. ``links`` deletes the links of a generation."""
        if one.record.state == REMOVING and now - one.modified < LEASE:
            return None
        key, version = keys.record(digest), one.version
        record = replace(one.record, state=REMOVING)
        while True:
            deadline = Deadline(self._clock)
            tombstone = self._bucket.swap(key, record.to_bytes(), version)
            if tombstone is None:
                return None
            self._known.drop(digest)
            links(record.ident)
            self.discard(record.ident)
            if not deadline.over():
                break
            version = tombstone  # the lease is renewed: by now there is little left to do
        self._bucket.delete(key)
        return record.size
