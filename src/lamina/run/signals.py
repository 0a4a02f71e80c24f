"""Signals by name or number, as docker and images write them (pure)."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import signal

TERM, KILL = 15, 9
_RTMIN, _RTMAX = 34, 64  # as glibc, musl and Go count them on Linux; the C library uses 32 and 33


def parse_signal(word: str) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``15``, ``RTMIN+3`` or ``SIGRTMAX-1``, in any case; "" is TERM. Raises
    UsageError."""
    name = word.strip().upper().removeprefix("SIG")
    number = _real_time(name) if name.startswith("RT") else _number(name)
    if number is None:
        raise UsageError(f"unknown signal {word!r:.60}", hint="give a name like TERM or RTMIN+3, or a number")
    return number


def _number(name: str) -> int | None:
    if not name:
        return TERM
    if name.isascii() and name.isdigit():
        number = int(name) if len(name) < 4 else 0
        return number if 0 < number <= _RTMAX else None
    if not name.isascii() or not name.isalnum():
        return None
    found = getattr(signal, f"SIG{name}", None)
    return int(found) if found is not None else None


def _real_time(name: str) -> int | None:
    first, sign, rest = name[:5], name[5:6], name[6:]
    start = {"RTMIN": _RTMIN, "RTMAX": _RTMAX}.get(first)
    if start is None or (sign and (sign not in "+-" or not (rest.isascii() and rest.isdigit()) or len(rest) > 2)):
        return None
    number = start + int(f"{sign}{rest}") if sign else start
    return number if _RTMIN <= number <= _RTMAX else None
