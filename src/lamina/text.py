"""Text for people, on terminals and in notebooks: sizes, counts, and names from outside made safe to show; and for
JSON (pure)."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_LONGEST = 300
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


def counted(count: float, one: str, many: str = "") -> str:
    """``1 entry``, ``2 entries``, ``0.5 seconds``; ``many``: the plural where it is not ``one`` with an s."""
    shown = count if isinstance(count, int) else f"{count:g}"
    return f"{shown} {one if count == 1 else many or one + 's'}"


def some(words: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 5 more``: the first few of many. Never ``and 1 more``: that one is shown."""
    if len(words) <= most + 1:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most} more"


def clean(text: str | bytes) -> str:
    """One safe line: control characters (C0, DEL, C1, line and paragraph separators, bidi overrides) and bytes
    that are not UTF-8 are escaped, so that a name from a hostile layer can't drive a terminal."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    elif not text.isascii():
        try:
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # surrogates that stand for no byte
            text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """The words that a mistyped one is most like, the best first; none that is not like it at all."""
    from difflib import get_close_matches

    word = word[:_LONGEST]
    likely = [one for one in known if len(word) <= 2 * len(one) and len(one) <= _LONGEST]
    return get_close_matches(word, likely, n=most, cutoff=0.5)


def json_path(path: bytes, key: str = "path") -> dict[str, Any]:
    """A path for JSON: ``/text``, and ``<key>_b64`` beside it where the bytes are not UTF-8."""
    return json_text(b"/" + path, key)


def json_text(data: bytes, key: str) -> dict[str, Any]:
    """Bytes that usually are text, as fields of JSON; with ``<key>_b64`` if they are not UTF-8."""
    try:
        return {key: data.decode("utf-8")}
    except UnicodeDecodeError:
        import binascii

        text = data.decode("utf-8", "backslashreplace")
        return {key: text, key + "_b64": binascii.b2a_base64(data, newline=False).decode("ascii")}
