"""Parsing of Range and Content-Range as registries use them (pure).

RFC 9110 section 14; distribution-spec, "Pushing a blob in chunks".
"""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*")
_CHUNK = re.compile(r"(?:bytes[ =])?\s*(\d{1,19})-(\d{1,19})(?:/\S*)?")


class Unsatisfiable(ValueError):
    """The range is outside of the content (status 416)."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end (exclusive) of a Range header; None if there is none or it may be ignored (several ranges,
    other units). Raises Unsatisfiable."""
    if not header:
        return None
    found = _RANGE.fullmatch(header)
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        length = int(found[2])
        if length == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - length), size
    start = int(found[1])
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(size, int(found[2]) + 1) if found[2] else size


def parse_chunk(header: str | None) -> tuple[int, int] | None:
    """Return the first and last byte of an upload's Content-Range; None if it is not stated. Raises ValueError."""
    if not header:
        return None
    found = _CHUNK.fullmatch(header.strip())
    if found is None or int(found[2]) < int(found[1]):
        raise ValueError(header)
    return int(found[1]), int(found[2])
