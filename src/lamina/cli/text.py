"""Text for people: sizes, ages, names from outside made safe to print (pure)."""

from __future__ import annotations

from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def human_size(size: int) -> str:
    """Bytes in powers of ten with three digits, as docker prints them: 0B, 12.3kB, 4.56MB."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    if unit == 0:
        return f"{size}B"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + _UNITS[unit]


def clean(text: str | bytes) -> str:
    """One safe line: control characters (C0, DEL, C1, line and paragraph separators, bidi overrides) and bytes
    that are not UTF-8 are escaped, so that a name from a hostile layer can't drive a terminal."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    elif not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def json_path(path: bytes, key: str = "path") -> dict[str, Any]:
    """A path for JSON: ``/text``, and ``<key>_b64`` beside it where the bytes are not UTF-8."""
    try:
        return {key: "/" + path.decode("utf-8")}
    except UnicodeDecodeError:
        import binascii

        text = path.decode("utf-8", "backslashreplace")
        return {key: "/" + text, key + "_b64": binascii.b2a_base64(b"/" + path, newline=False).decode("ascii")}


def ago(seconds: float) -> str:
    """How long ago, in docker's words."""
    seconds = max(0, int(seconds))
    for limit, unit, word in (
        (60, 1, "second"),
        (3600, 60, "minute"),
        (86400, 3600, "hour"),
        (86400 * 14, 86400, "day"),
        (86400 * 60, 86400 * 7, "week"),
        (86400 * 365 * 2, 86400 * 30, "month"),
    ):
        if seconds < limit:
            count = seconds // unit
            return f"{count} {word}{'' if count == 1 else 's'} ago"
    return f"{seconds // (86400 * 365)} years ago"


def mode_text(kind_letter: str, mode: int) -> str:
    """``-rwxr-xr-x`` as ls writes it."""
    out = [kind_letter]
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = mode >> shift
        out.append("r" if bits & 4 else "-")
        out.append("w" if bits & 2 else "-")
        if mode & special:
            out.append(letter if bits & 1 else letter.upper())
        else:
            out.append("x" if bits & 1 else "-")
    return "".join(out)
