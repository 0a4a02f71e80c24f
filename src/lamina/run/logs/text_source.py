"""Read a log of lines: json-file and k8s-file, with their rotated files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from lamina.run.logs import stamp
from lamina.run.logs.pieces import Choice, Piece, Position, wanted_pieces
from lamina.run.logs.text_file import rotated

Decoder = Callable[[Sequence[bytes]], list[Piece | None]]
Stripper = Callable[[bytes], bytes | None]
"""From lines that are all of stdout to what the program wrote; None: the decoder must look at each."""
Form = tuple[Decoder, Stripper]
_CRI_START = re.compile(rb"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d stdout F ")
_BLOCK = 1 << 20
_LONGEST = 1 << 26
_MOST_FILES = 100_000


class TextSource:
    """``on_damage``: called with a number of lines that can't be read."""

    def __init__(self, path: str, form: Form, *, complete: bool = True, on_damage: Callable[[int], object]) -> None:
        self._path, self._on_damage = path, on_damage
        self._decode, self._strip = form
        self.complete = complete
        self._files: list[int] = []  # descriptors, the oldest first
        self._current = self._at = 0
        self._look()

    def forward(self) -> Iterator[tuple[Position, Piece]]:
        for number, start, block in self._blocks():
            for offset, piece in self._decoded(block.split(b"\n")[:-1], start, self._on_damage):
                yield (number, offset), piece

    def bulk(self, choice: Choice) -> Iterator[Piece]:
        if not choice.is_all:
            yield from wanted_pieces(self, choice)
            return
        for _, start, block in self._blocks():
            data = self._strip(block)
            if data is not None:
                yield Piece(0, 1, data)
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
            os.close(file)
        self._files = []

    def _decoded(
        self, lines: list[bytes], start: int, on_damage: Callable[[int], object]
    ) -> Iterator[tuple[int, Piece]]:
        damaged = 0
        for line, piece in zip(lines, self._decode(lines), strict=True):
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
        self._files += reversed(found)


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def decode_json(lines: Sequence[bytes]) -> list[Piece | None]:
    """Lines of docker's json-file (pure). None for a line that is none."""
    from json import loads

    try:
        values = loads(b"[" + b",".join(lines) + b"]")
        if len(values) == len(lines):
            return [_of_json(value) for value in values]
    except (ValueError, RecursionError):
        pass
    found = []
    for line in lines:
        try:
            found.append(_of_json(loads(line)))
        except (ValueError, RecursionError):
            found.append(None)
    return found


def _of_json(value: Any) -> Piece | None:
    try:
        log, stream, moment = value["log"], value["stream"], value["time"]
        attributes = value.get("attrs")
        details = ",".join(f"{key}={item}" for key, item in attributes.items()) if attributes else ""
        data = log.encode("utf-8", "replace")
        return Piece(stamp.parse(moment), 2 if stream == "stderr" else 1, data, details)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return None


def strip_json(block: bytes) -> bytes | None:
    """(pure) A quote in a text is escaped, so the marks that are counted are those of the lines."""
    from json import loads

    lines = block.count(b"\n")
    if block.count(b'"stream":"stdout"') != lines or block.count(b'{"log":"') != lines:
        return None
    try:
        values = loads(b"[" + block[:-1].replace(b"\n", b",") + b"]")
        if len(values) != lines:
            return None
        text: str = "".join([value["log"] for value in values])
        return text.encode("utf-8", "replace")
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def decode_cri(lines: Sequence[bytes]) -> list[Piece | None]:
    """Lines of the CRI format (pure). None for a line that is none."""
    return [_of_cri(line) for line in lines]


def _of_cri(line: bytes) -> Piece | None:
    try:
        moment, stream, tag, text = line.split(b" ", 3)
        if stream not in (b"stdout", b"stderr") or tag[:1] not in (b"F", b"P"):
            return None
        data = text + b"\n" if tag[:1] == b"F" else text
        return Piece(stamp.parse(moment.decode("ascii")), 2 if stream == b"stderr" else 1, data)
    except (ValueError, OverflowError):
        return None


def strip_cri(block: bytes) -> bytes | None:
    """(pure)"""
    data, count = _CRI_START.subn(b"", block)
    return data if count == block.count(b"\n") else None


JSON: Form = (decode_json, strip_json)
CRI: Form = (decode_cri, strip_cri)
