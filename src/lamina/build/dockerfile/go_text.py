"""Texts as Go's ``fmt`` and ``time`` write them (pure): BuildKit's histories have them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_ESCAPES |= {'"': '\\"', "\\": "\\\\"}


def quoted(text: str) -> str:
    """``%q`` of a string."""
    return '"' + "".join(map(_quoted, text)) + '"'


def quoted_list(texts: Iterable[str]) -> str:
    """``%q`` of a slice of strings."""
    return f"[{' '.join(map(quoted, texts))}]"


def plain_list(texts: Iterable[str]) -> str:
    """``%v`` of a slice of strings."""
    return f"[{' '.join(texts)}]"


def _quoted(letter: str) -> str:
    known = _ESCAPES.get(letter)
    if known is not None:
        return known
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if letter == " " or unicodedata.category(letter)[0] in "LMNPS":
        return letter
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_duration(nanoseconds: int) -> str:
    """A duration as Go prints it, like ``1m30s``."""
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("\u00b5s", 1000), ("ms", 10**6)):
        if left < size * 1000:
            return f"{sign}{_decimal(left, size)}{unit}"
    seconds, minutes, hours = left % (60 * 10**9), left // (60 * 10**9) % 60, left // (3600 * 10**9)
    text = f"{_decimal(seconds, 10**9)}s"
    if left >= 60 * 10**9:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    digits = str(rest).zfill(len(str(size)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
