"""Read a log of lines: json-file and k8s-file, with their rotated files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from lamina.run.logs import cri_lines, json_lines
from lamina.run.logs.pieces import Choice, Piece, Position, wanted_pieces
from lamina.run.logs.text_file import rotated

_BLOCK = 1 << 18
_LONGEST = 1 << 26
_MOST_FILES = 100_000


class Form(NamedTuple):
    """How lines are read. ``decode``: a piece for each line, None for one that can't be read. ``runs`` and
    ``streams`` take a block of whole lines, are faster, and give None for a block that only ``decode`` understands.
    ``runs``: lines of one moment as one piece, each with the size of its lines. ``streams``: no moments."""

    decode: Callable[[Sequence[bytes]], list[Piece | None]]
    runs: Callable[[bytes], list[tuple[int, Piece]] | None]
    streams: Callable[[bytes], list[tuple[int, bytes]] | None]


class TextSource:
    """``on_damage``: called with a number of lines that can't be read."""

    def __init__(self, path: str, form: Form, *, complete: bool = True, on_damage: Callable[[int], object]) -> None:
        self._path, self._on_damage = path, on_damage
        self._form = form
        self.complete = complete
        self._files: list[int] = []  # descriptors, the oldest first; -1: it was read, and is closed
        self._current = self._at = 0
        self._look()

    def forward(self, apart: Position | None = None) -> Iterator[tuple[Position, Piece]]:
        for number, start, block in self._blocks():
            runs = None if apart is not None and (number, start) <= apart else self._form.runs(block)
            if runs is None:
                for offset, piece in self._decoded(block.split(b"\n")[:-1], start, self._on_damage):
                    yield (number, offset), piece
                continue
            for size, piece in runs:
                yield (number, start), piece
                start += size

    def bulk(self, choice: Choice) -> Iterator[Piece]:
        if not choice.is_all:
            yield from wanted_pieces(self, choice)
            return
        for _, start, block in self._blocks():
            streams = self._form.streams(block)
            if streams is not None:
                for stream, data in streams:
                    yield Piece(0, stream, data)
                continue
            found = self._decoded(block.split(b"\n")[:-1], start, self._on_damage)
            for stream, pieces in groupby((piece for _, piece in found), key=itemgetter(1)):
                yield Piece(0, stream, b"".join([piece.data for piece in pieces]))

    def seek(self, position: Position) -> None:
        self._current, self._at = position

    def _blocks(self) -> Iterator[tuple[int, int, bytes]]:
        """Whole lines that were not read yet, with their place: the file, and the first byte."""
        while True:
            self._look()
            if self._current >= len(self._files):
                return
            is_last = self._current == len(self._files) - 1
            yield from self._blocks_in_file()
            if is_last:
                return
            os.close(self._files[self._current])
            self._files[self._current] = -1
            self._current, self._at = self._current + 1, 0

    def _blocks_in_file(self) -> Iterator[tuple[int, int, bytes]]:
        file, size = self._files[self._current], _BLOCK
        if os.fstat(file).st_size < self._at:
            self._at = 0  # another program has emptied it
        while True:
            block = os.pread(file, size, self._at)
            cut = block.rfind(b"\n") + 1
            if not cut:
                if len(block) < size:
                    return  # the end, or a line that is being written
                if size >= _LONGEST:
                    self._on_damage(1)
                    self._at += len(block)
                size = min(size * 2, _LONGEST)
                continue
            start, self._at, size = self._at, self._at + cut, _BLOCK
            yield self._current, start, block[:cut]

    def backward(self) -> Iterator[tuple[Position, Piece]]:
        for number in reversed(range(len(self._files))):
            file = self._files[number]
            end, tail = os.fstat(file).st_size, b""
            while end:
                start = max(0, end - _BLOCK)
                block = os.pread(file, end - start, start) + tail
                cut = 0
                if start:
                    cut = block.find(b"\n") + 1
                    if not cut and len(block) < _LONGEST:
                        tail, end = block, start
                        continue
                tail, end = block[:cut], start
                lines = block[cut:].split(b"\n")[:-1]  # without a line that is being written
                for offset, piece in reversed(list(self._decoded(lines, start + cut, lambda damaged: None))):
                    yield (number, offset), piece

    def end(self) -> Position:
        if not self._files:
            return 0, 0
        return len(self._files) - 1, os.fstat(self._files[-1]).st_size

    def watched(self) -> list[str]:
        return [os.path.dirname(self._path)]

    def close(self) -> None:
        for file in self._files:
            if file >= 0:
                os.close(file)
        self._files = []

    def _decoded(
        self, lines: list[bytes], start: int, on_damage: Callable[[int], object]
    ) -> Iterator[tuple[int, Piece]]:
        damaged = 0
        for line, piece in zip(lines, self._form.decode(lines), strict=True):
            if piece is None:
                damaged += 1
            else:
                yield start, piece
            start += len(line) + 1
        if damaged:
            on_damage(damaged)

    def _look(self) -> None:
        """Open the files that are there and were not yet. From the newest to the oldest: a file that is rotated
        meanwhile is found twice, but none is missed."""
        known = [_identity(os.fstat(self._files[-1]))] if self._files else []
        if known:
            try:
                if _identity(os.stat(self._path)) == known[0]:
                    return
            except FileNotFoundError:
                return  # it is being rotated, or was removed
        found: list[int] = []
        try:
            self._open_others(known, found)
        except BaseException:
            for file in found:
                os.close(file)
            raise
        self._files += reversed(found)

    def _open_others(self, known: list[tuple[int, int]], found: list[int]) -> None:
        """Open the files whose identities are not ``known`` into ``found``."""
        for number in range(_MOST_FILES):
            try:
                file = os.open(rotated(self._path, number), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                if number:
                    break
                continue
            identity = _identity(os.fstat(file))
            if identity in known:
                os.close(file)
                if self._files and identity == known[0]:
                    break
                continue
            known.append(identity)
            found.append(file)


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


JSON = Form(json_lines.decode, json_lines.runs, json_lines.streams)
CRI = Form(cri_lines.decode, cri_lines.runs, cri_lines.streams)
