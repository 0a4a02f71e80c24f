"""Moments of docker's command line (pure): ``--since 10m``, ``--until 2026-01-31T12:00:00Z``, ``--since 1764380000``;
and how docker prints one. Times are nanoseconds since 1970.
"""

from __future__ import annotations

import time

from lamina.errors import UsageError
from lamina.light import pattern
from lamina.spec.duration import nanoseconds

_SECOND = 10**9
_UNIX = pattern(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_DATE = pattern(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?)?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_HINT = "write a length of time like 10m, a date like 2026-01-31T12:00:00, or seconds since 1970"


def parse_moment(text: str, now: int) -> int:
    """A length of time counts back from ``now``; a date without a zone is local. Raises UsageError."""
    unix = _UNIX.fullmatch(text)
    if unix:
        return int(unix[1]) * _SECOND + _fraction(unix[2])
    date = _DATE.fullmatch(text)
    if date:
        return _of_date(text, date.groups())
    try:
        return now - nanoseconds(text)
    except UsageError:
        raise _invalid(text) from None


def _of_date(text: str, parts: tuple[str | None, ...]) -> int:
    from datetime import UTC, datetime, timedelta, timezone

    year, month, day, hour, minute, second = (int(part or 0) for part in parts[:6])
    zone = parts[7]
    try:
        found = datetime(year, month, day, hour, minute, second)
        if zone == "Z":
            found = found.replace(tzinfo=UTC)
        elif zone:
            size = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            found = found.replace(tzinfo=timezone(-size if zone[0] == "-" else size))
        return int(found.timestamp()) * _SECOND + _fraction(parts[6])
    except (ValueError, OverflowError, OSError):
        raise _invalid(text) from None


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _invalid(text: str) -> UsageError:
    return UsageError(f"{text!r:.60} is not a time", hint=_HINT)


def rfc3339(moment: int, *, local: bool = False) -> str:
    """With all nine digits of the fraction: ``2026-01-31T12:00:00.000000000Z``. ``local``: in the zone of this
    host."""
    seconds, fraction = divmod(moment, _SECOND)
    parts = time.localtime(seconds) if local else time.gmtime(seconds)
    away = parts.tm_gmtoff // 60 if local else 0
    zone = f"{'-' if away < 0 else '+'}{abs(away) // 60:02}:{abs(away) % 60:02}" if away else "Z"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', parts)}.{fraction:09}{zone}"
