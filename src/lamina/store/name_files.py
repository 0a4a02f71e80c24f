"""The files with the names of a store, index.json and its log: read once, then only what has changed.

Two calls of stat tell whether something has changed. A server keeps index.json open meanwhile, so that no other file
can get its inode number. Elsewhere a file is read again if it changed just before it was read: a second change within
the same tick of the clock could leave all numbers as they were.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from lamina.errors import LaminaError, StoreDamaged
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.spec import mediatype
from lamina.spec.manifest import Index, parse
from lamina.store.name_log import (
    ANNOTATION,
    DAMAGED,
    HEAD_SIZE,
    Included,
    Tail,
    ident_of,
    mark_of,
    read_records,
    sealed_as,
)
from lamina.store.name_table import NameTable

if TYPE_CHECKING:
    from typing import TypeVar

    from lamina.store.paths import Paths

    T = TypeVar("T")

MAX_INDEX = 256 << 20
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

_TICK = 20_000_000
"""Nanoseconds. The clock of files goes in ticks of at most 10 ms."""
_FUTURE = -2_000_000_000

Stamp = tuple[int, int, int, int, int]


def _stamp(state: os.stat_result) -> Stamp:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _read(descriptor: int, at: int = 0) -> bytes:
    pieces = []
    os.lseek(descriptor, at, os.SEEK_SET)
    while piece := os.read(descriptor, 16 << 20):
        pieces.append(piece)
        if sum(map(len, pieces)) > MAX_INDEX:
            break
    return b"".join(pieces)


class _Seen:
    """index.json as it was read. ``keep``: leave it open."""

    def __init__(self, path: str, *, keep: bool) -> None:
        """Open the file. Raises OSError."""
        self._descriptor = -1
        self._descriptor = os.open(path, _FLAGS)
        self._keep = keep
        self.stamp = _stamp(os.fstat(self._descriptor))
        age = time.time_ns() - self.stamp[4]
        self._is_exact = keep or not _FUTURE < age < _TICK

    def read(self) -> bytes:
        return _read(self._descriptor)

    def done(self) -> None:
        """The file was read."""
        if not self._keep:
            self.close()

    def is_still(self, state: os.stat_result) -> bool:
        """Whether the path certainly has this file still, unchanged."""
        return self._is_exact and _stamp(state) == self.stamp

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


class NameFiles:
    """The table of names, as the files have it now. Thread-safe."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._guard = threading.RLock()
        self._table: NameTable | None = None
        self._index: _Seen | None = None
        self._log: Stamp | None = None
        self._ident = ""
        self._serial = 0
        self._mark = ""
        self.version = 0
        """A number that grows whenever the table changes."""
        self._last = b""  # the line of the last record, or the first line of the log
        self._included = Included()
        self.log_end = 0
        """The position after the last record."""
        self.keep_open = False
        """Whether index.json stays open: then nothing is read twice."""

    def read(self, work: Callable[[NameTable], T]) -> T:
        """What ``work`` finds in the table, which no other thread changes meanwhile. Raises StoreDamaged, OSError."""
        with self._guard:
            return work(self.table())

    def table(self) -> NameTable:
        """The table. Unless the caller holds the store's lock, another thread may change it. Raises StoreDamaged,
        OSError."""
        with self._guard:
            if self._table is None or not self._is_current():
                self._load()
            assert self._table is not None
            return self._table

    def position(self) -> Included | None:
        """The log and its last record; None if there is no log."""
        with self._guard:
            return self._position() if self._log is not None else None

    def _position(self) -> Included:
        return Included(self._ident, self._serial, self._mark)

    @property
    def index_size(self) -> int:
        """The size of index.json in bytes, when it was read."""
        return self._index.stamp[2] if self._index is not None else 0

    @property
    def log_size(self) -> int:
        """The size of the log in bytes, when it was read."""
        return self._log[2] if self._log is not None else 0

    def is_log_empty(self) -> bool:
        """Whether index.json contained the whole log when they were read."""
        return self._log is None or self._included.has_all_of(self._position())

    def log_grew(self) -> bool:
        """Whether the log has more than its first line. Raises OSError."""
        try:
            return os.stat(self._paths.name_log, follow_symlinks=False).st_size > HEAD_SIZE
        except FileNotFoundError:
            return False

    def forget(self) -> None:
        """Read both files again when they are needed next."""
        with self._guard:
            self._table = self._index = self._log = None
            self._ident, self._serial, self._mark, self.log_end, self._last = "", 0, "", 0, b""

    def replaced(self, table: NameTable, size: int, included: Included) -> None:
        """Note that the caller has written index.json, which contains this table and the whole log now."""
        with self._guard:
            self._table = None
            seen = _Seen(self._paths.index, keep=self.keep_open)
            seen.done()
            self.version += 1
            if seen.stamp[2] == size:
                self._table, self._index = table, seen
                self._included = included
                if self._log is not None:
                    self._serial, self._mark = included.serial, included.mark

    def empty_log(self) -> None:
        """Cut the log after its first line: index.json contains all of it. Nothing waits for the disk: a record that
        comes back after a power cut is known to be included. Raises OSError."""
        with self._guard:
            if self._log is None:
                return
            os.truncate(self._paths.name_log, HEAD_SIZE)
            self._last, self._log = self._opened_log(0)
            self.log_end = len(self._last)

    def salvaged(self) -> NameTable:
        """The table with all records of a damaged log that can be read. Raises StoreDamaged (index.json), OSError."""
        seen = _Seen(self._paths.index, keep=False)
        document = self._parsed(seen.read())
        seen.close()
        table = NameTable(list(document.manifests))
        raw, _ = self._opened_log(0)
        ident, known = ident_of(raw), Included.parse(document.annotations.get(ANNOTATION, ""))
        included = known.serial if known.ident == ident else 0
        what = self._paths.name_log
        if ident:
            tail = read_records(
                raw[HEAD_SIZE:], ident, at=HEAD_SIZE, after=0, included=included, what=what, strict=False
            )
            for change in tail.changes:
                table.apply(change)
        return table

    def fingerprint(self) -> str:
        """A text that differs whenever the bytes of a file differ. Raises OSError."""
        import hashlib

        found = hashlib.sha256()
        for path in (self._paths.index, self._paths.name_log):
            try:
                seen = _Seen(path, keep=False)
                found.update(hashlib.sha256(seen.read()).digest())
                seen.close()
            except FileNotFoundError:
                if path == self._paths.index:
                    raise
        return found.hexdigest()

    def _is_current(self) -> bool:
        """Whether the table is what the files have; what was appended to the log is read here."""
        if self._index is None or not self._index.is_still(os.stat(self._paths.index)):
            return False
        try:
            found = _stamp(os.stat(self._paths.name_log))
        except FileNotFoundError:
            return self._log is None
        if self._log is None or found[:2] != self._log[:2] or found[2] < self.log_end:
            return False
        return (found == self._log and found[2] == self.log_end) or self._read_tail()

    def _read_tail(self) -> bool:
        """Read what was appended. Returns False if what was read before is no longer there: its writer has cut it
        off, because it could not be synced."""
        start = self.log_end - len(self._last)
        raw, stamp = self._opened_log(start)
        if stamp is None or not raw.startswith(self._last):
            return False
        rest = raw[len(self._last) :]
        try:
            tail = read_records(rest, self._ident, at=self.log_end, after=self._serial, what=self._paths.name_log)
        except StoreDamaged:
            return False
        assert self._table is not None
        for change in tail.changes:
            self._table.apply(change)
        self.version += len(tail.changes)
        self._log = stamp
        self._note_end(raw, start, tail)
        return True

    def _note_end(self, raw: bytes, start: int, tail: Tail) -> None:
        """Remember the last record. ``raw``: the bytes of the log from ``start`` on."""
        before = raw.rfind(b"\n", 0, tail.end - start - 1)
        self._last, self.log_end = raw[before + 1 : tail.end - start], tail.end
        if tail.serial > self._serial:
            self._serial, self._mark = tail.serial, mark_of(self._last)

    def _load(self) -> None:
        """Read both files. A fold first replaces index.json, and only then empties the log: if index.json is still
        the same after the log was read, they belong together."""
        before, self._table = self._table, None
        while True:
            index = _Seen(self._paths.index, keep=self.keep_open)
            raw = index.read()
            records, log = self._opened_log(0)
            if _stamp(os.stat(self._paths.index)) == index.stamp:
                break
        index.done()
        sealed = sealed_as(raw)
        if before is not None and sealed is not None and sealed == self._position():
            table = before  # another process has folded the log, and nothing else
            self._included = sealed
        else:
            document = self._parsed(raw)
            self._included = Included.parse(document.annotations.get(ANNOTATION, ""))
            table = NameTable(list(document.manifests))
            self.version += 1
        self._serial, self._mark, self.log_end, self._ident, self._last = 0, "", 0, "", b""
        if log is not None:
            self._read_log(table, records)
        self._index, self._log, self._table = index, log, table

    def _read_log(self, table: NameTable, records: bytes) -> None:
        self._ident = ident_of(records)
        if not self._ident:
            raise StoreDamaged(f"{self._paths.name_log} is not a log of names", hint=DAMAGED)
        known = self._included if self._included.ident == self._ident else Included()
        included = known.serial
        tail = read_records(
            records[HEAD_SIZE:],
            self._ident,
            at=HEAD_SIZE,
            after=0,
            included=included,
            what=self._paths.name_log,
        )
        for change in tail.changes:
            table.apply(change)
        self.version += len(tail.changes)
        self._serial, self._mark = known.serial, known.mark
        self._note_end(records, 0, tail)

    def _opened_log(self, at: int) -> tuple[bytes, Stamp | None]:
        """The bytes of the log from ``at`` on, and its stamp before they were read; None if there is no log."""
        try:
            descriptor = os.open(self._paths.name_log, _FLAGS)
        except FileNotFoundError:
            return b"", None
        try:
            with reported(self._paths.name_log):
                stamp = _stamp(os.fstat(descriptor))
                return _read(descriptor, at), stamp
        finally:
            os.close(descriptor)

    def _parsed(self, raw: bytes) -> Index:
        try:
            document = parse(raw, mediatype.OCI_INDEX, self._paths.index, limit=MAX_INDEX)
        except LaminaError as error:
            raise StoreDamaged(
                error.message, hint="restore index.json from a backup, or use a new store; the blobs are still there"
            ) from None
        assert isinstance(document, Index)
        return document


def sync(descriptor: int) -> None:
    """Wait until the file's bytes and its size are on the disk. Raises OSError."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
