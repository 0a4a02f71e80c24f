"""Read lines of docker's json-file (pure).

Lines that were written at once end alike, from their stream and time on. So a block is split where texts meet, and
the texts of one end are decoded together. A block that holds anything else is decoded line by line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from json import loads
from typing import Any

from lamina.run.logs import stamp
from lamina.run.logs.pieces import Piece

_START = b'{"log":"'
_SEPARATOR = re.compile(rb'(","stream":"[^\n]*\n)\{"log":"')
"""The end of a line, and the start of the next. A quote in a text is escaped, so no text contains it."""
_END = re.compile(rb'","stream":"std(?:out|err)"(?:,"attrs":\{[^\n]*\})?,"time":"[-+:.\dTZ]+"\}\n')
_MOST_RUNS = 1 / 4
"""Runs for each line. With more of them, all lines are faster decoded as one list."""
_STDOUT_END = b'","stream":"stdout"'


def decode(lines: Sequence[bytes]) -> list[Piece | None]:
    """A piece for each line; None for a line that is none."""
    try:
        values = loads(b"[" + b",".join(lines) + b"]")
        if len(values) == len(lines):
            return [_piece(value) for value in values]
    except (ValueError, RecursionError):
        pass
    found = []
    for line in lines:
        try:
            found.append(_piece(loads(line)))
        except (ValueError, RecursionError):
            found.append(None)
    return found


def runs(block: bytes) -> list[tuple[int, Piece]] | None:
    """Pieces of neighboring lines with the same end, each with the size of these lines. None: decode each line."""
    split = _split(block)
    if split is None:
        return None
    texts, ends = split
    if len(set(ends)) > len(ends) * _MOST_RUNS:
        return None
    found: list[tuple[int, Piece]] = []
    at = 0
    try:
        for end, same in groupby(ends):
            count = len(list(same))
            text = b"".join(texts[at : at + count])
            piece = _piece(loads(_START + end))
            if piece is None:
                return None
            size = len(text) + count * (len(_START) + len(end))
            found.append((size, piece._replace(data=_decoded(text))))
            at += count
    except (ValueError, RecursionError):
        return None
    return found


def streams(block: bytes) -> list[tuple[int, bytes]] | None:
    """What the program wrote, with the stream of each part. None: decode each line."""
    split = _split(block)
    if split is None:
        return None
    texts, ends = split
    kinds = {end: 1 if end.startswith(_STDOUT_END) else 2 for end in set(ends)}
    found: list[tuple[int, bytes]] = []
    at = 0
    try:
        if len(set(kinds.values())) == 1:
            return [(kinds[ends[0]], _decoded(b"".join(texts)))]
        for stream, same in groupby(map(kinds.__getitem__, ends)):
            count = len(list(same))
            found.append((stream, _decoded(b"".join(texts[at : at + count]))))
            at += count
    except ValueError:
        return None
    return found


def _split(block: bytes) -> tuple[list[bytes], list[bytes]] | None:
    """The texts of all lines in the form of JSON, and the ends of the lines."""
    if not block.startswith(_START):
        return None
    parts = _SEPARATOR.split(block[len(_START) :] + _START)
    if parts.pop() or len(parts) != 2 * block.count(b"\n"):
        return None
    texts, ends = parts[::2], parts[1::2]
    return (texts, ends) if all(map(_END.fullmatch, set(ends))) else None


def _decoded(text: bytes) -> bytes:
    """Raises ValueError."""
    value: str = loads(b'"' + text + b'"')
    return value.encode("utf-8", "replace")


def _details(attributes: Mapping[str, Any]) -> str:
    """As docker shows them: escaped as in a query of a URL."""
    from urllib.parse import quote_plus

    def escaped(word: Any) -> str:
        return quote_plus(str(word), errors="replace")

    return ",".join(f"{escaped(key)}={escaped(attributes[key])}" for key in sorted(attributes))


def _piece(value: Any) -> Piece | None:
    try:
        log, stream, moment = value["log"], value["stream"], value["time"]
        attributes = value.get("attrs")
        details = _details(attributes) if attributes else ""
        data = log.encode("utf-8", "replace")
        return Piece(stamp.parse(moment), 2 if stream == "stderr" else 1, data, details)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return None
