"""Times as logs have them (pure): RFC 3339 in UTC, with nanoseconds."""

from __future__ import annotations

import time

_SECOND = 10**9
_last = (-1, "")
_last_parsed = ("", 0)


def whole(now: int) -> str:
    """``2026-01-31T12:00:00`` of nanoseconds since 1970. The last answer is kept: most calls are in one second."""
    global _last
    second = now // _SECOND
    known, text = _last
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last = (second, text)
    return text


def fixed(now: int) -> str:
    """With nine digits, as `docker logs -t` prints it."""
    return f"{whole(now)}.{now % _SECOND:09d}Z"


def short(now: int) -> str:
    """Without trailing zeros, as docker's json-file holds it (Go's RFC3339Nano)."""
    part = f".{now % _SECOND:09d}".rstrip("0").rstrip(".")
    return f"{whole(now)}{part}Z"


def parse(text: str) -> int:
    """Nanoseconds since 1970 of a time in RFC 3339. The last answer is kept: many lines have the same time. Raises
    ValueError."""
    global _last_parsed
    known, found = _last_parsed
    if known != text:
        try:
            found = _parsed_time(text)
        except ValueError:
            raise ValueError(f"{text!r:.60} is not a time") from None
        _last_parsed = (text, found)
    return found


def _parsed_time(text: str) -> int:
    date, rest = _second(text[:19]), text[19:]
    part = 0
    if rest[:1] == ".":
        size = 1
        while rest[size : size + 1].isdigit():
            size += 1
        part = int(rest[1:size][:9].ljust(9, "0"))
        rest = rest[size:]
    if rest in ("Z", "z", "+00:00"):
        return date * _SECOND + part
    if len(rest) != 6 or rest[0] not in "+-" or rest[3] != ":":
        raise ValueError(rest)
    shift = (int(rest[1:3]) * 60 + int(rest[4:6])) * 60
    return (date + (shift if rest[0] == "-" else -shift)) * _SECOND + part


_seconds: dict[str, int] = {}


def _second(text: str) -> int:
    found = _seconds.get(text)
    if found is None:
        from datetime import UTC, datetime

        if len(text) != 19 or text[10] not in "Tt ":
            raise ValueError(text)
        found = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
        if len(_seconds) > 1000:
            _seconds.clear()
        _seconds[text] = found
    return found
