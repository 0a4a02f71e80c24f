"""Read lines of the CRI format, as k8s-file has them (pure).

The lines of our monitors begin with 45 bytes: time, stream, tag. Of a block of such lines these are looked at
together, as columns. A block that holds anything else is decoded line by line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from lamina.run.logs import stamp
from lamina.run.logs.pieces import Piece

_HEAD = b"0000-00-00T00:00:00.000000000+00:00 stdout F "
_SIZE = len(_HEAD)
_TIME = 35
_STREAM = _HEAD.index(b"out")
_TAG = _HEAD.index(b"F")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_SAME_STREAM = re.compile(rb"o+|e+")


def decode(lines: Sequence[bytes]) -> list[Piece | None]:
    """A piece for each line; None for a line that is none."""
    return [_piece(line) for line in lines]


def runs(block: bytes) -> list[tuple[int, Piece]] | None:
    """Pieces of neighboring lines with the same beginning, each with the size of these lines. None: decode each
    line."""
    split = _split(block)
    if split is None:
        return None
    heads, texts = split
    found: list[tuple[int, Piece]] = []
    at = 0
    try:
        for head, same in groupby(heads):
            count = len(list(same))
            text = texts[at] if count == 1 else b"\n".join(texts[at : at + count])
            size = len(text) + count * (_SIZE + 1) - (count - 1)
            if head[_TAG] == 70:  # F
                text += b"\n"
            elif count > 1:
                text = b"".join(texts[at : at + count])
            moment = stamp.parse(head[:_TIME].decode())
            found.append((size, Piece(moment, 1 if head[_STREAM] == 111 else 2, text)))
            at += count
    except (ValueError, OverflowError):
        return None
    return found


def streams(block: bytes) -> list[tuple[int, bytes]] | None:
    """What the program wrote, with the stream of each part. None: decode each line."""
    split = _split(block)
    if split is None:
        return None
    heads, texts = split
    columns = b"".join(heads)
    tags = columns[_TAG::_SIZE]
    found = []
    for same in _SAME_STREAM.finditer(columns[_STREAM::_SIZE]):
        at, end = same.span()
        parts = []
        while (partial := tags.find(b"P", at, end)) >= 0:
            parts.append(b"\n".join(texts[at : partial + 1]))
            at = partial + 1
        if at < end:
            parts += (b"\n".join(texts[at:end]), b"\n")
        found.append((1 if same[0][:1] == b"o" else 2, b"".join(parts)))
    return found


def _split(block: bytes) -> tuple[list[bytes], list[bytes]] | None:
    """The beginnings of all lines, and their texts."""
    lines = block.split(b"\n")
    if lines.pop():
        return None
    heads = [line[:_SIZE] for line in lines]
    form = b"".join(heads).translate(_DIGITS).replace(b" stderr ", b" stdout ").replace(b" P ", b" F ")
    if form != _HEAD * len(lines):
        return None
    return heads, [line[_SIZE:] for line in lines]


def _piece(line: bytes) -> Piece | None:
    try:
        moment, stream, tag, text = line.split(b" ", 3)
        if stream not in (b"stdout", b"stderr") or tag[:1] not in (b"F", b"P"):
            return None
        data = text + b"\n" if tag[:1] == b"F" else text
        return Piece(stamp.parse(moment.decode("ascii")), 2 if stream == b"stderr" else 1, data)
    except (ValueError, OverflowError):
        return None
