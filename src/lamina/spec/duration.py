"""Lengths of time as Go writes them (pure): ``30s``, ``1h30m``, ``1.5s``, ``500ms``."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import pattern

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = pattern(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_MOST = 1 << 63


def nanoseconds(text: str) -> int:
    """Raises UsageError."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not (part[1] or part[2]) or len(part[0]) > 40:
            raise _invalid(text)
        unit, fraction = _UNITS[part[3]], part[2] or ""
        total += int(part[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        at = part.end()
    if not rest or total >= _MOST:
        raise _invalid(text)
    return sign * total


def of_option(text: str, flag: str) -> int:
    """The nanoseconds of an option's value, from 0 up. Raises UsageError, which names ``flag``."""
    try:
        found = nanoseconds(text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error.message}", hint=error.hint) from None
    if found < 0:
        raise UsageError(f"{flag} {text!r:.60} is negative", hint="write it like 30s, 1m30s or 6h")
    return found


def _invalid(text: str) -> UsageError:
    return UsageError(f"{text!r:.60} is not a length of time", hint="write it like 30s, 1m30s or 6h")
