"""The Journal Export Format of systemd (pure): entries of a container as pieces of its log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from lamina.run.logs.journald import PRIORITIES
from lamina.run.logs.pieces import Piece

_LONGEST = 1 << 26


def parse_export(file: IO[bytes]) -> Iterator[tuple[str, Piece]]:
    """Yield each entry with its cursor; what is not an entry is left out."""
    fields: dict[bytes, bytes] = {}
    while line := file.readline(_LONGEST):
        line = line.removesuffix(b"\n")
        if not line:
            yield from _piece(fields)
            fields = {}
            continue
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(file.read(8), "little")
            value = file.read(min(size, _LONGEST))
            file.read(1)
        fields[name] = value
    yield from _piece(fields)


def _piece(fields: dict[bytes, bytes]) -> Iterator[tuple[str, Piece]]:
    try:
        time_ns = int(fields[b"__REALTIME_TIMESTAMP"]) * 1000
        cursor = fields[b"__CURSOR"].decode()
        text = fields[b"MESSAGE"]
    except (KeyError, ValueError):
        return
    stream = 2 if fields.get(b"PRIORITY") == b"%d" % PRIORITIES[2] else 1
    yield cursor, Piece(time_ns, stream, text if b"CONTAINER_PARTIAL_MESSAGE" in fields else text + b"\n")
