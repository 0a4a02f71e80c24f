"""The log driver ``local``: the bytes of the program as they came, and an index of when and from which stream.

A log is a row of parts, ``N.data`` and ``N.index`` with N from 1 up; only the last one grows. With a limit of size a
new part begins when the last one is full, and the oldest ones are removed. ``N.data`` holds what the program wrote,
stdout and stderr in the order in which they came. ``N.index`` holds a record of 16 bytes for each piece, little
endian: the end of the piece in the data (7 bytes), its stream (1 byte: 1 stdout, 2 stderr), and its time in
nanoseconds since 1970 (8 bytes). So whole ranges can be copied without a look into them, and a time or a record is
found by bisection.

The data is written before its record. After a crash the index may be shorter than the data, or longer: ``repair``
makes them agree again, and a reader goes by what both hold.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.light import TYPE_CHECKING
from lamina.run.logs import loss

if TYPE_CHECKING:
    from lamina.run.logs.drivers import Limits

RECORD = 16
STREAM_SHIFT = 56
END_MASK = (1 << STREAM_SHIFT) - 1
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_BLOCK = 1 << 16


def paths(directory: str, part: int) -> tuple[str, str]:
    """The paths of data and index."""
    return os.path.join(directory, f"{part}.data"), os.path.join(directory, f"{part}.index")


def parts_in(directory: str) -> list[int]:
    """The numbers of the parts of a log, the oldest first. Raises OSError."""
    found = []
    for name in os.listdir(directory):
        number, _, kind = name.partition(".")
        if kind == "index" and number.isascii() and number.isdigit():
            found.append(int(number))
    return sorted(found)


def record(end: int, stream: int, now: int) -> bytes:
    return (end | stream << STREAM_SHIFT).to_bytes(8, "little") + now.to_bytes(8, "little")


def sound(data_size: int, index: int, index_size: int) -> tuple[int, int]:
    """How many records of the index (a descriptor) tell of data that exists, and where that ends. Raises OSError."""
    count = index_size // RECORD
    while count:  # a crash of the host may leave zeros at the end of a file
        start = max(0, count * RECORD - _BLOCK)
        block = os.pread(index, count * RECORD - start, start).rstrip(b"\0")
        count = (start + len(block) + RECORD - 1) // RECORD
        if block:
            break
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if _end(index, middle) <= data_size:
            low = middle
        else:
            high = middle - 1
    return low, _end(index, low)


def _end(index: int, count: int) -> int:
    """The end of the first ``count`` records in the data."""
    if not count:
        return 0
    return int.from_bytes(os.pread(index, 8, (count - 1) * RECORD), "little") & END_MASK


class LocalWriter:
    def __init__(self, directory: str, limits: Limits) -> None:
        self._directory, self._limits = directory, limits
        self._data = self._index = -1
        self._part = self._end = self._count = 0
        self._lost, self._why = 0, ""
        self._last = b"\n"
        self._open()

    def write(self, stream: int, data: bytes) -> None:
        if not data:
            return
        if self._end >= self._limits.size:
            self._begin_part()
        if (self._lost and not self._tell_loss()) or not self._put(stream, data):
            self._lost += len(data)

    def end_run(self) -> None:
        if self._lost:
            self._tell_loss()

    def close(self) -> None:
        self.end_run()
        self._close()

    def _put(self, stream: int, data: bytes) -> bool:
        """Append a piece and its record, both or nothing."""
        if self._data < 0 and not self._open():
            return False
        end = self._end + len(data)
        try:
            if (
                os.write(self._data, data) != len(data)
                or os.write(self._index, record(end, stream, time.time_ns())) != RECORD
            ):
                self._why = "the disk is full"
            else:
                self._end = end
                self._count += 1
                self._last = data[-1:]
                return True
        except OSError as error:
            self._why = error.strerror or str(error)
        self._undo()
        return False

    def _undo(self) -> None:
        try:
            os.ftruncate(self._index, self._count * RECORD)
            os.ftruncate(self._data, self._end)
        except OSError:
            self._close()  # the next write opens and repairs it

    def _tell_loss(self) -> bool:
        lost = self._lost
        if self._put(2, loss.note(lost, self._why, inside_line=self._last != b"\n")):
            self._lost = 0
        return not self._lost

    def _open(self) -> bool:
        """Open the last part of the log, and repair it."""
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            part = max(parts_in(self._directory), default=1)
            self._data, self._index = _opened(self._directory, part)
            self._part = part
            self._repair()
        except OSError as error:
            self._why = error.strerror or str(error)
            self._close()
            return False
        return True

    def _repair(self) -> None:
        size = os.fstat(self._data).st_size
        index_size = os.fstat(self._index).st_size
        self._count, self._end = sound(size, self._index, index_size)
        if index_size != self._count * RECORD:
            os.ftruncate(self._index, self._count * RECORD)
        if size > self._end:
            changed = os.fstat(self._data).st_mtime_ns
            if os.write(self._index, record(size, 1, changed)) != RECORD:
                os.ftruncate(self._index, self._count * RECORD)
                raise OSError("the disk is full")
            self._count, self._end = self._count + 1, size
        self._last = os.pread(self._data, 1, self._end - 1) if self._end else b"\n"

    def _begin_part(self) -> None:
        """Begin a new part and remove the oldest. If that fails, this part goes on: it is tried again at the next
        write."""
        part = self._part + 1
        try:
            opened = _opened(self._directory, part)
        except OSError:
            for path in paths(self._directory, part):
                with suppress(OSError):
                    os.unlink(path)
            return
        self._close()
        self._data, self._index = opened
        self._part, self._end, self._count = part, 0, 0
        with suppress(OSError):
            for old in parts_in(self._directory):
                if old <= part - self._limits.files:
                    for path in reversed(paths(self._directory, old)):
                        os.unlink(path)

    def _close(self) -> None:
        for descriptor in (self._data, self._index):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._data = self._index = -1


def _opened(directory: str, part: int) -> tuple[int, int]:
    """Open data and index, the index last: a part exists once its index does. Raises OSError."""
    data_path, index_path = paths(directory, part)
    data = os.open(data_path, _FLAGS, 0o600)
    try:
        return data, os.open(index_path, _FLAGS, 0o600)
    except OSError:
        os.close(data)
        raise
