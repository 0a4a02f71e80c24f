"""The build cache: what a step with a certain key made, as records in the store.

A record is derived data: a step can run again. It counts only if it is complete, and if the layer that it names is
whole in the store. A pin keeps these layers from gc. Records that nobody has used for long, and the oldest ones of a
large cache, are removed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lamina.build.planning.keys import Parts, key_of
from lamina.errors import InvalidContent, UsageError
from lamina.host.files import make_directory, names_of_files, remove, replace_file, reported
from lamina.host.lock import locked, locked_for_now
from lamina.host.temporary import is_temporary
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store import clock
from lamina.store.fault import pieces, point
from lamina.store.roots import BUILD_PIN

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.store.store import Store

PURPOSE = "build cache"
MAX_AGE = 30 * 24 * 3600.0
"""In seconds: a record that nobody used for so long is removed."""
EVERY = 3600.0
"""In seconds: how often old records are looked for."""
MAX_SHARE = 0.2
"""The largest part of the file system that the layers of the cache may take."""
_MAX_RECORD = 4 << 20
_POLL = 0.05
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidContent, UsageError)


@dataclass(frozen=True, slots=True)
class Made:
    """A layer that a step made. ``created``: when, in RFC 3339."""

    descriptor: Descriptor
    diff_id: Digest
    created: str


@dataclass(frozen=True, slots=True)
class Record:
    """``made``: None if the step changed nothing. ``places``: where in a Dockerfile the step stands, the most exact
    place first. ``used``: nanoseconds since 1970, by the clock of the store's file system."""

    key: str
    parts: Parts
    made: Made | None
    places: tuple[str, ...] = ()
    label: str = ""
    used: int = 0

    def to_json(self) -> dict[str, Any]:
        made = self.made
        layer = None
        if made is not None:
            layer = {"descriptor": made.descriptor.to_json(), "diff_id": str(made.diff_id), "created": made.created}
        return {"parts": self.parts, "layer": layer, "places": list(self.places), "label": self.label}

    @classmethod
    def from_json(cls, key: str, value: Any) -> Record:
        """Raises ValueError, TypeError, KeyError or LaminaError for what is not a record of this key."""
        parts = {str(name): str(text) for name, text in value["parts"].items()}
        if key_of(parts) != key:
            raise ValueError("the parts belong to another key")
        layer, made = value["layer"], None
        if layer is not None:
            descriptor = Descriptor.from_json(layer["descriptor"], "a record of the build cache")
            made = Made(descriptor, Digest.parse(layer["diff_id"]), str(layer["created"]))
        return cls(key, parts, made, tuple(map(str, value["places"])), str(value["label"]))


class Cache:
    """The records of one store."""

    def __init__(self, store: Store, on_warning: Callable[[str], object] = lambda text: None) -> None:
        self._store = store
        self._warn = on_warning
        self._records = os.path.join(store.paths.build, "records")
        self._places = os.path.join(store.paths.build, "places")
        self._locks = os.path.join(store.paths.build, "locks")
        self._lock = os.path.join(store.paths.build, "lock")
        self._new: list[Record] = []
        self._guard = threading.Lock()

    def find(self, key: str) -> Record | None:
        """The record of a key, which is used from now on. A damaged one is removed, with a warning. Raises
        SystemFailure."""
        path = os.path.join(self._records, key)
        record = self._read(key)
        if record is not None:
            with suppress(OSError):
                os.utime(path)
        return record

    def put(self, record: Record) -> None:
        """Write a record. Its layer must be protected by the caller until ``settle``. Raises SystemFailure."""
        data = write_own(record.to_json()).encode()
        with reported(self._records):
            make_directory(self._records)
            path = os.path.join(self._records, record.key)
            within = self._store.paths.ingest
            replace_file(path, pieces([data], "build.record-written"), within=within, lasting=False)
            point("build.record-renamed")
            make_directory(self._places)
            for place in record.places:
                path = os.path.join(self._places, place)
                replace_file(path, [record.key.encode()], within=within, lasting=False)
        with self._guard:
            self._new.append(record)

    def earlier(self, places: Iterable[str]) -> Record | None:
        """The newest record of one of these places, which are tried in their order."""
        for place in places:
            with suppress(OSError):
                with open(os.path.join(self._places, place), encoding="ascii", errors="replace") as file:
                    key = file.read(65)
                record = self._read(key) if len(key) == 64 and key.isalnum() else None
                if record is not None:
                    return record
        return None

    def damaged(self) -> list[str]:
        """The paths of records that can't be read, for fsck; none is removed. Raises SystemFailure."""
        found = []
        with reported(self._records):
            for name in names_of_files(self._records) if os.path.isdir(self._records) else ():
                try:
                    if not is_temporary(name):
                        self._parsed(name)
                except _DAMAGE:
                    found.append(os.path.join(self._records, name))
        return found

    def locked(self, key: str, cancel: Cancel) -> AbstractContextManager[None]:
        """Hold the key, so that no other process works on the same step. Raises Cancelled, SystemFailure."""
        with reported(self._locks):
            make_directory(self._locks)
        return locked_for_now(os.path.join(self._locks, key), lambda: cancel.wait(_POLL))

    def __iter__(self) -> Iterator[Record]:
        """All records, in no order. Raises SystemFailure."""
        with reported(self._records):
            names = names_of_files(self._records)
        for name in names:
            record = None if is_temporary(name) else self._read(name)
            if record is not None:
                yield record

    def settle(self) -> None:
        """At the end of a build: pin the layers of the new records. Now and then the whole cache is looked through
        (``keep``): that reads all records. Raises SystemFailure."""
        with self._guard:
            new, self._new = self._new, []
        if not new:
            return
        with reported(self._lock):
            try:
                age = time.time() - os.stat(self._lock).st_mtime
            except FileNotFoundError:
                age = EVERY
            if not 0 <= age < EVERY:
                self.keep()
                return
            with locked(self._lock):
                pinned = (root.digests for root in self._store.roots.pins(PURPOSE))
                self._pin(new, frozenset().union(*pinned))

    def keep(self, *, max_age: float = MAX_AGE, max_size: int | None = None) -> int:
        """Remove what is too old or too much, and pin the layers of the rest; returns the bytes of blobs that the
        cache no longer needs. ``max_size``: None is a part of the file system. Raises SystemFailure."""
        if not os.path.isdir(self._records):
            return 0
        if max_size is None:
            with reported(self._records):
                state = os.statvfs(self._records)
            max_size = int(state.f_blocks * state.f_frsize * MAX_SHARE)
        with reported(self._records):
            make_directory(self._store.paths.build)
            with locked(self._lock):
                os.utime(self._lock)
                kept, gone = self._chosen(max_age, max_size)
                for record in gone:
                    remove(os.path.join(self._records, record.key))
                if gone:
                    self._drop_places({record.key for record in gone})
                point("build.records-removed")
                self._pin(kept)
        left = {one.made.descriptor.digest for one in kept if one.made}
        freed = {one.made.descriptor for one in gone if one.made and one.made.descriptor.digest not in left}
        return sum(descriptor.size for descriptor in freed)

    def clear(self) -> int:
        """Remove all records and the pin; returns the bytes of blobs that they held. Raises SystemFailure."""
        return self.keep(max_age=0, max_size=0)

    def _chosen(self, max_age: float, max_size: int) -> tuple[list[Record], list[Record]]:
        now = clock.now(self._store.paths)
        kept: list[Record] = []
        gone: list[Record] = []
        size, seen = 0, set()
        for record in sorted(self, key=lambda one: (-one.used, one.key)):
            made = record.made
            if made is not None and made.descriptor.digest not in seen:
                size += made.descriptor.size
            young = max_age > 0 and (record.used > now or clock.is_younger(record.used, max_age, now))
            if not young or size > max_size:
                gone.append(record)
                continue
            kept.append(record)
            if made is not None:
                seen.add(made.descriptor.digest)
        return kept, gone

    def _drop_places(self, keys: set[str]) -> None:
        """Remove the places that name these keys."""
        for name in names_of_files(self._places) if os.path.isdir(self._places) else ():
            path = os.path.join(self._places, name)
            with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
                if file.read(65) in keys:
                    remove(path)

    def _pin(self, kept: Iterable[Record], more: Iterable[Digest] = ()) -> None:
        digests: dict[Digest, None] = dict.fromkeys(more)
        for record in kept:
            if record.made is not None:
                digests |= {record.made.descriptor.digest: None, record.made.diff_id: None}
        if digests:
            self._store.roots.pin(BUILD_PIN, PURPOSE, digests)
        else:
            self._store.roots.unpin(BUILD_PIN)

    def _read(self, key: str) -> Record | None:
        try:
            return self._parsed(key)
        except _DAMAGE:
            self._warn(f"the record {key[:12]} of the build cache is damaged, and was removed")
            with suppress(OSError):
                remove(os.path.join(self._records, key))
            return None

    def _parsed(self, key: str) -> Record | None:
        """Raises one of ``_DAMAGE`` for what is not a record; SystemFailure."""
        path = os.path.join(self._records, key)
        with reported(path):
            try:
                with open(path, "rb") as file:
                    used = os.fstat(file.fileno()).st_mtime_ns
                    data = file.read(_MAX_RECORD + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        return replace(Record.from_json(key, read_own(data)), used=used)
