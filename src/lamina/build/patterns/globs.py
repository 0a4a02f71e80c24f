"""Paths and patterns of Go's package path/filepath (pure): ``clean``, ``Glob`` (filepath.Match), and which
parts of a path are patterns. BuildKit uses them for the sources of COPY and ADD, and for ignore files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from lamina.errors import UsageError

_UNKNOWN = "\ufffd"
_SPECIAL = frozenset("*?[\\")


def clean(path: str) -> str:
    """The shortest equal path: no ``.``, no double or ending slash; ``..`` only at the beginning of a relative path.
    An empty path is ``.``."""
    found = posixpath.normpath(path)
    return "/" + found.lstrip("/") if found.startswith("//") else found


def has_wildcards(name: str) -> bool:
    """Whether the name contains an unescaped ``*``, ``?`` or ``[``."""
    at = 0
    while at < len(name):
        if name[at] == "\\":
            at += 1
        elif name[at] in "*?[":
            return True
        at += 1
    return False


def split(path: str) -> tuple[str, str]:
    """Split an absolute path before its first part that is a pattern: (literal directory, pattern relative to it).
    The pattern is "" if no part is one."""
    literal: list[str] = []
    parts = clean(path).strip("/").split("/")
    for number, part in enumerate(parts):
        if has_wildcards(part):
            return "/" + "/".join(literal), "/".join(parts[number:])
        literal.append(part)
    return "/" + "/".join(literal).strip("/"), ""


class Glob:
    """A pattern of filepath.Match: ``*`` and ``?`` match no slash; ``[a-z]``, ``[^a]``; a backslash escapes. It
    matches whole paths. Raises UsageError for a pattern that Go refuses."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._chunks = [(star, tokens) for star, tokens in _chunks(pattern) if tokens is not None or _raise(pattern)]
        simple = all(_is_simple(token) for _, tokens in self._chunks for token in tokens or ())
        self._fits: Callable[[str], object] = self._compiled().fullmatch if simple else self._slow
        self.parts = pattern.count("/") + 1 if simple and "\\/" not in pattern else None
        """How many components a path has that matches; None if it can't be told."""

    def matches(self, path: str) -> bool:
        return bool(self._fits(path))

    def _compiled(self) -> re.Pattern[str]:
        """As Go does it, each chunk but the last takes the first place where it fits: an atomic group. Without it,
        many stars would take exponential time."""
        text = ""
        for number, (star, tokens) in enumerate(self._chunks):
            chunk = "".join(map(_expression, tokens or ()))
            if not star:
                text += chunk
            elif number < len(self._chunks) - 1:
                text += f"(?>[^/]*?{chunk})"
            else:
                text += f"[^/]*{chunk}"
        return re.compile(text, re.DOTALL)

    def _slow(self, path: str) -> bool:
        return _matches(self._chunks, path, self.pattern)


def check(pattern: str) -> None:
    """Raise UsageError for a pattern that filepath.Match refuses for the path ``.``: what it does not come to, it
    does not check."""
    _matches(_chunks(pattern), ".", pattern)


_Set = tuple[bool, tuple[tuple[str, str], ...]]
_Token = str | _Set | None  # a character, a set (negated, ranges), or any character
_Chunk = tuple[bool, list[_Token] | None]


def _matches(chunks: list[_Chunk], path: str, pattern: str) -> bool:
    """Go's algorithm: each chunk takes the first place where it fits. A regular expression says the same, except for
    sets that contain a slash."""
    rest = path
    for number, (star, tokens) in enumerate(chunks):
        if tokens is None:
            raise _bad(pattern)
        last = number == len(chunks) - 1
        if star and not tokens:
            return "/" not in rest
        left = _chunk_matches(tokens, rest)
        if left is not None and (not left or not last):
            rest = left
            continue
        found = None
        for at in range(len(rest)) if star else ():
            if rest[at] == "/":
                break
            left = _chunk_matches(tokens, rest[at + 1 :])
            if left is not None and (not left or not last):
                found = left
                break
        if found is None:
            return False
        rest = found
    return not rest


def _chunks(pattern: str) -> list[_Chunk]:
    """The pattern as chunks, each with whether a star stands before it. A chunk that is malformed is None, and the
    last one."""
    found: list[_Chunk] = []
    at = 0
    while at < len(pattern):
        star = pattern[at] == "*"
        while at < len(pattern) and pattern[at] == "*":
            at += 1
        tokens: list[_Token] = []
        try:
            while at < len(pattern) and pattern[at] != "*":
                at, token = _parsed(pattern, at)
                tokens.append(token)
        except UsageError:
            return [*found, (star, None)]
        found.append((star, tokens))
    return found


def _parsed(pattern: str, at: int) -> tuple[int, _Token]:
    char = pattern[at]
    if char == "[":
        return _parsed_set(pattern, at + 1)
    if char == "\\":
        if at + 1 == len(pattern):
            raise _bad(pattern)
        return at + 2, pattern[at + 1]
    return at + 1, None if char == "?" else char


def _raise(pattern: str) -> bool:
    raise _bad(pattern)


def _parsed_set(pattern: str, at: int) -> tuple[int, _Set]:
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and pattern[at : at + 1] == "]"):
        at, low = _set_char(pattern, at)
        high = low
        if pattern[at] == "-":
            at, high = _set_char(pattern, at + 1)
        ranges.append((low, high))
    return at + 1, (negated, tuple(ranges))


def _set_char(pattern: str, at: int) -> tuple[int, str]:
    if pattern[at : at + 1] in ("", "-", "]"):
        raise _bad(pattern)
    at += pattern[at] == "\\"
    if at + 1 >= len(pattern) or "\udc80" <= pattern[at] <= "\udcff":  # nothing follows, or it is not UTF-8
        raise _bad(pattern)
    return at + 1, pattern[at]


def _chunk_matches(tokens: list[_Token], text: str) -> str | None:
    """What is left of the text after the chunk; None if it does not begin with it."""
    if len(text) < len(tokens):
        return None
    for token, char in zip(tokens, text, strict=False):
        if isinstance(token, str):
            if token != char:
                return None
        elif token is None:
            if char == "/":
                return None
        elif _in_ranges(char, token[1]) == token[0]:
            return None
    return text[len(tokens) :]


def _in_ranges(char: str, ranges: tuple[tuple[str, str], ...]) -> bool:
    char = _UNKNOWN if "\udc80" <= char <= "\udcff" else char
    return any(low <= char <= high for low, high in ranges)


def _is_simple(token: _Token) -> bool:
    """Whether a regular expression says the same: no set may match a slash or text that is not UTF-8."""
    if token is None or isinstance(token, str):
        return True
    negated, ranges = token
    if negated:
        return False
    return all(low <= high and not low <= "/" <= high and high < "\ud800" for low, high in ranges)


def _expression(token: _Token) -> str:
    if token is None:
        return "[^/]"
    if isinstance(token, str):
        return re.escape(token)
    negated, ranges = token
    inner = "".join(f"{_in_set(low)}-{_in_set(high)}" for low, high in ranges)
    return f"[{'^' if negated else ''}{inner}]"


def _in_set(char: str) -> str:
    return "\\" + char if char in "\\]^-[&~|" else char


def _bad(pattern: str) -> UsageError:
    return UsageError(
        f"{pattern!r:.200} is not a pattern", hint="close each [ with ]; write \\[ for the character itself"
    )
