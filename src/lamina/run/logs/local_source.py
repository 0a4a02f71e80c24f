"""Read a log of the driver ``local``."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from lamina.run.logs.local import END_MASK, RECORD, STREAM_SHIFT, parts_in, paths, sound
from lamina.run.logs.pieces import Choice, Piece, Position, Span

_BOTH = struct.Struct("<QQ")
_BLOCK = 1 << 20  # bytes of an index that are read at once
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class _Block(NamedTuple):
    """Records of a part. ``first``: the number of the first one. ``start``: where its data begins. ``end``: where
    the data of the last one ends."""

    part: int
    first: int
    start: int
    end: int
    records: bytes
    data: int


class LocalSource:
    def __init__(self, directory: str, *, complete: bool = True) -> None:
        self._directory = directory
        self.complete = complete
        self._part = self._next = self._at = 0
        self._data = self._index = -1

    def forward(self, apart: Position | None = None) -> Iterator[tuple[Position, Piece]]:
        for block in self._blocks():
            for position, time_ns, stream, start, end in _pieces(block):
                yield position, Piece(time_ns, stream, os.pread(block.data, end - start, start))
        yield from self._unrecorded()

    def bulk(self, choice: Choice) -> Iterator[Span]:
        for block in self._blocks():
            streams = block.records[7::RECORD]
            if choice.is_all and streams[:1] in (b"\1", b"\2") and streams.count(streams[:1]) == len(streams):
                yield Span(streams[0], block.data, block.start, block.end)
                continue
            yield from _wanted(block, choice)
            if choice.over:
                return
        for position, piece in self._unrecorded():
            skipped = choice.skipped(position, piece.time_ns, piece.stream, len(piece.data))
            if skipped < len(piece.data):
                yield Span(1, self._data, self._at - len(piece.data) + skipped, self._at)

    def backward(self) -> Iterator[tuple[Position, Piece]]:
        for part in reversed(self._parts()):
            with suppress(FileNotFoundError):
                yield from self._backward_in(part)

    def _backward_in(self, part: int) -> Iterator[tuple[Position, Piece]]:
        data, index = _opened(self._directory, part)
        try:
            count, end = sound(os.fstat(data).st_size, index, os.fstat(index).st_size)
            rest = os.fstat(data).st_size - end
            if self.complete and rest:
                yield (part, count), Piece(os.fstat(data).st_mtime_ns, 1, os.pread(data, rest, end))
            while count:
                first = max(0, count - _BLOCK // RECORD)
                before = max(0, first - 1)
                raw = os.pread(index, (count - before) * RECORD, before * RECORD)
                start = 0 if not first else _end(raw, 0)
                records = raw[(first - before) * RECORD :]
                block = _Block(part, first, start, _end(records, len(records) - RECORD), records, data)
                for position, time_ns, stream, start, end in reversed(list(_pieces(block))):
                    yield position, Piece(time_ns, stream, os.pread(data, end - start, start))
                count = first
        finally:
            os.close(data)
            os.close(index)

    def end(self) -> Position:
        for part in reversed(self._parts()):
            with suppress(FileNotFoundError):
                data, index = _opened(self._directory, part)
                try:
                    return part, sound(os.fstat(data).st_size, index, os.fstat(index).st_size)[0]
                finally:
                    os.close(data)
                    os.close(index)
        return 0, 0

    def seek(self, position: Position) -> None:
        part, first = position
        self.close()
        try:
            self._data, self._index = _opened(self._directory, part)
        except FileNotFoundError:
            self._part = part - 1  # go on with the next part that exists
            return
        self._part, self._next = part, first
        self._at = _end(os.pread(self._index, 8, (first - 1) * RECORD), 0) if first else 0

    def watched(self) -> list[str]:
        return [self._directory]

    def close(self) -> None:
        for descriptor in (self._data, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._index = -1

    def _parts(self) -> list[int]:
        try:
            return parts_in(self._directory)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _blocks(self) -> Iterator[_Block]:
        while True:
            later = [part for part in self._parts() if part > self._part]
            if self._data >= 0:
                yield from self._blocks_of_part()
                if not later:
                    return
                self.close()
            for part in later:  # the oldest of them may be removed at any time
                with suppress(FileNotFoundError):
                    self._data, self._index = _opened(self._directory, part)
                    self._part, self._next, self._at = part, 0, 0
                    break
            else:
                return

    def _blocks_of_part(self) -> Iterator[_Block]:
        while True:
            records = os.pread(self._index, _BLOCK, self._next * RECORD)
            records = records[: len(records) - len(records) % RECORD]
            size = os.fstat(self._data).st_size
            while records and not self._at <= _end(records, len(records) - RECORD) <= size:
                records = records[:-RECORD]  # after a crash of the host
            if not records:
                return
            end = _end(records, len(records) - RECORD)
            block = _Block(self._part, self._next, self._at, end, records, self._data)
            self._next += len(records) // RECORD
            self._at = end
            yield block

    def _unrecorded(self) -> Iterator[tuple[Position, Piece]]:
        """Data that has no record because the monitor was killed between the two."""
        if not self.complete or self._data < 0:
            return
        state = os.fstat(self._data)
        rest = state.st_size - self._at
        if rest > 0:
            start, self._at = self._at, state.st_size
            yield (self._part, self._next), Piece(state.st_mtime_ns, 1, os.pread(self._data, rest, start))


def _opened(directory: str, part: int) -> tuple[int, int]:
    data_path, index_path = paths(directory, part)
    data = os.open(data_path, _FLAGS)
    try:
        return data, os.open(index_path, _FLAGS)
    except OSError:
        os.close(data)
        raise


def _end(records: bytes, at: int) -> int:
    return int.from_bytes(records[at : at + 8], "little") & END_MASK


def _pieces(block: _Block) -> Iterator[tuple[Position, int, int, int, int]]:
    """Position, time, stream, start and end of each piece. Records that contradict others are left out."""
    start = block.start
    for number, (word, time_ns) in enumerate(_BOTH.iter_unpack(block.records), block.first):
        end, stream = word & END_MASK, word >> STREAM_SHIFT
        if start < end <= block.end and stream in (1, 2):
            yield (block.part, number), time_ns, stream, start, end
            start = end


def _wanted(block: _Block, choice: Choice) -> Iterator[Span]:
    """Neighbours of one stream as one span."""
    found: Span | None = None
    for position, time_ns, stream, start, end in _pieces(block):
        skipped = choice.skipped(position, time_ns, stream, end - start)
        if choice.over:
            break
        if skipped == end - start:
            continue
        if found is not None and found.stream == stream and found.end == start + skipped:
            found = found._replace(end=end)
            continue
        if found is not None:
            yield found
        found = Span(stream, block.data, start + skipped, end)
    if found is not None:
        yield found
