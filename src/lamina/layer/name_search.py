"""Search for names in a layer's index (pure): the patterns of `find`, searched in the heap of names.

From each pattern a literal is derived that every matching name contains. The heap is searched for that literal as one
text, and only rows where it occurs are looked at; no value is made for the others.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.layer.index import LayerIndex

MAX_PATTERN = 4096
# one character of UTF-8, or one byte that is not UTF-8
_CHARACTER = (
    rb"(?>[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|[\x80-\xff])"
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. ``regex`` is searched for in the base name or, with ``whole``, in the path with a leading
    slash.

    ``literal`` is contained in every matching base name (with ``whole``: in some component of the path); b"" if there
    is none. ``exact``: only the base name that equals the literal matches.
    """

    regex: re.Pattern[bytes]
    whole: bool
    literal: bytes = b""
    exact: bool = False

    def fits(self, path: bytes) -> bool:
        """Whether a relative path matches."""
        text = b"/" + path if self.whole else path.rpartition(b"/")[2]
        return self.regex.search(text) is not None


def glob(text: bytes) -> Pattern:
    """Compile a glob of ``*``, ``?``, ``[...]`` and backslashes. With a slash it matches the whole path, and ``*``
    also matches slashes, as in `find -path`. Raises UsageError."""
    _check(text)
    whole = b"/" in text
    if whole and not text.startswith((b"/", b"*")):
        text = b"/" + text
    # where characters are counted, `*` must not end within one
    anything = _CHARACTER + b"*" if b"?" in text or b"[" in text else b".*"
    parts: list[list[bytes]] = [[]]  # what is between the stars
    literals, run, plain, at = [], bytearray(), True, 0
    while at < len(text):
        one = text[at : at + 1]
        at += 1
        if one in b"*?[":
            found = _group(text, at) if one == b"[" else None
            if one != b"[" or found is not None:
                literals.append(bytes(run))
                run, plain = bytearray(), False
                if found is not None:
                    piece, at = found
                    parts[-1].append(piece)
                elif one == b"*":
                    parts.append([])
                else:
                    parts[-1].append(_CHARACTER)
                continue
        elif one == b"\\" and at < len(text):
            one = text[at : at + 1]
            at += 1
        parts[-1].append(re.escape(one))
        run += one
    literals.append(bytes(run))
    out, *rest = (b"".join(part) for part in parts)
    for part in rest[:-1]:
        if part:  # the first place is as good as any: no name can make the search backtrack
            out += b"(?>" + anything + b"?" + part + b")"
    if rest:
        out += anything + rest[-1]
    regex = re.compile(rb"\A" + out + rb"\Z", re.DOTALL)
    return Pattern(regex, whole, _longest(literals), plain and not whole)


def expression(text: bytes) -> Pattern:
    """Compile a regular expression (Python's, on bytes). It is searched for in the base name; with a slash, in the
    whole path. Raises UsageError."""
    _check(text)
    try:
        regex = re.compile(text, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"not a regular expression: {os_text(text)!r:.200}: {error}", hint="leave out -E for a glob like '*.conf'"
        ) from None
    return Pattern(regex, b"/" in text, _longest(_literals(text)))


def rows_that_fit(index: LayerIndex, pattern: Pattern) -> Iterator[int]:
    """Yield the rows whose name matches, in order, with whiteouts."""
    if pattern.whole:
        return _by_path(index, pattern)
    if not pattern.literal:
        search = pattern.regex.search
        return (row for row, name in enumerate(index.each_basename()) if name and search(name))
    if pattern.exact:
        length, at = len(pattern.literal), index.name_at
        return (row for row in rows_holding(index, pattern.literal) if at[row + 1] - at[row] == length)
    return (row for row in rows_holding(index, pattern.literal) if pattern.regex.search(index.basename(row)))


def rows_holding(index: LayerIndex, literal: bytes) -> Iterator[int]:
    """Yield the rows whose base name contains these bytes, in order."""
    heap, at = bytes(index.names), index.name_at
    length, place = len(literal), heap.find(literal)
    while place >= 0:
        row = bisect_right(at, place) - 1  # rows without a name begin at the same place: take the last
        end = at[row + 1]
        if place + length <= end:
            yield row
            place = heap.find(literal, end)
        else:
            place = heap.find(literal, place + 1)  # the match crosses the border of two names


def _by_path(index: LayerIndex, pattern: Pattern) -> Iterator[int]:
    paths, literal, search = index.directory_paths(), pattern.literal, pattern.regex.search
    if literal:
        inside = {number for number, path in enumerate(paths) if literal in path}
        rows: set[int] | range = set(rows_holding(index, literal))
        if inside:
            rows |= {row for row, number in enumerate(index.directory) if number in inside}  # type: ignore[operator]
    else:
        rows = range(len(index))
    directory = index.directory
    for row in sorted(rows):
        above, name = paths[directory[row]], index.basename(row)
        if name and search(b"/%b/%b" % (above, name) if above else b"/" + name):
            yield row


def os_text(text: bytes) -> str:
    """Decode a pattern for a message."""
    return text.decode("utf-8", "backslashreplace")


def _check(text: bytes) -> None:
    if not text or len(text) > MAX_PATTERN or b"\0" in text:
        raise UsageError(
            f"a pattern has 1 to {MAX_PATTERN} bytes and no zero byte, not {len(text)}", hint="use `*` for every name"
        )


def _longest(literals: list[bytes]) -> bytes:
    """Return the longest piece without a slash; one byte is too common to be useful."""
    pieces = [piece for text in literals for piece in text.split(b"/")]
    best = max(pieces, key=len, default=b"")
    return best if len(best) > 1 else b""


def _group(text: bytes, at: int) -> tuple[bytes, int] | None:
    """Translate ``[...]`` from after its bracket; also return where it ends. None if there is no closing bracket:
    then the bracket is literal."""
    start = at
    negated = text[at : at + 1] in (b"!", b"^") and at < len(text)
    at += negated
    end = text.find(b"]", at + 1)
    if end < 0:
        return None
    members = text[start + negated : end].decode("utf-8", "surrogateescape")
    choices, place = [], 0
    while place < len(members):
        low = members[place]
        if members[place + 1 : place + 2] == "-" and place + 2 < len(members):
            high = members[place + 2]
            choices.append((low, high))
            place += 3
        else:
            choices.append((low, low))
            place += 1
    # decoded, so that ranges of non-ASCII letters work; the path is matched as bytes
    said = b"|".join(piece for low, high in choices for piece in _span(low, high)) or rb"(?!)"
    if negated:
        return rb"(?!%b)%b" % (b"(?:" + said + b")", _CHARACTER), end + 1
    return b"(?:" + said + b")", end + 1


def _span(low: str, high: str) -> Iterator[bytes]:
    first, last = ord(low), ord(high)
    if last - first > 4096:
        raise UsageError(f"the range {low!r} to {high!r} is too wide", hint="use a smaller range")
    if last < 128 and first <= last:
        yield b"[" + re.escape(low.encode()) + b"-" + re.escape(high.encode()) + b"]"
        return
    for number in range(first, last + 1):
        yield re.escape(chr(number).encode("utf-8", "surrogateescape"))


_SAFE_CLASSES = b"dDwWsSbBAZ"


def _literals(text: bytes) -> list[bytes]:
    """Return pieces of text that every match must contain; fewer if in doubt."""
    found, run, at, depth = [], bytearray(), 0, 0
    if text.find(b"(?") >= 0:
        return []  # flags and look-arounds are not analysed

    def end() -> None:
        found.append(bytes(run))
        run.clear()

    while at < len(text):
        one = text[at : at + 1]
        at += 1
        if one == b"[":
            end()
            at += text[at : at + 1] == b"^"
            at += text[at : at + 1] == b"]"
            while at < len(text) and text[at : at + 1] != b"]":
                at += 2 if text[at : at + 1] == b"\\" else 1
            at += 1
        elif one == b"(":
            end()
            depth += 1
        elif one == b")":
            run.clear()
            depth -= 1
        elif one == b"|":
            if depth == 0:
                return []
        elif one in b"*?{":
            del run[-1:]
            end()
            if one == b"{":
                at = max(at, text.find(b"}", at) + 1)
        elif one in b"+.^$":
            end()
        elif one == b"\\":
            one = text[at : at + 1]
            at += 1
            if one.isalnum():
                if one not in _SAFE_CLASSES:
                    return []
                end()
            elif depth == 0:
                run += one
        elif depth == 0:
            run += one
    end()
    return found
