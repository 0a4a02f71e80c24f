"""Finds suspected secrets in files and texts, by well-known patterns (pure).

A pattern is only applied if one of its anchors occurs in the data: that is a plain search, many times faster than the
expression. Secrets are never exposed: a ``Suspect`` contains the masked secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lamina.insight.secret_patterns import (
    ANYWHERE,
    ASSIGNED,
    DOTENV,
    HARMLESS_NAME,
    HARMLESS_VALUE,
    IN_FILES,
    IN_WORDS,
    KEY_STORE,
    Pattern,
)

MOST_A_FILE = 20
"""The most findings in one file."""
MASK = "********"
_BINARY = 8192  # bytes that are checked for zeros
_B64 = rb"[A-Za-z0-9+/=]"
_WORD = rb"[A-Za-z0-9_-]"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspected secret. ``line`` counts from 1; it is 0 if only the file name is suspect. ``masked`` shows at most
    the prefix that names the kind."""

    pattern: str
    line: int
    masked: str


_TOKEN = re.compile(rb"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{24,200}={0,2}(?![A-Za-z0-9+/=_-])")
_HEX = re.compile(rb"[0-9a-fA-F-]+$")


def is_binary(data: bytes) -> bool:
    """Whether it is binary, as git decides: a zero byte near the beginning."""
    return b"\0" in data[:_BINARY]


def in_file(path: bytes, data: bytes, *, entropy: bool = False) -> list[Suspect]:
    """Find secrets by a file's name and content. ``entropy``: also long random-looking words, of which many are
    harmless."""
    named = b"/" + path
    found = [Suspect("key-store", 0, "")] if KEY_STORE.search(named) else []
    if not is_binary(data):
        patterns = [*ANYWHERE, *(one for one in IN_FILES if one.where and one.where.search(named))]
        if DOTENV.search(named):
            patterns.append(ASSIGNED)
        found += _search(patterns, data)
        if entropy:
            found += _random_words(data)
    return found[:MOST_A_FILE]


_PLAIN_ANCHORS = tuple(dict.fromkeys(anchor for one in ANYWHERE if not one.fold for anchor in one.anchors))
_FOLDED_ANCHORS = tuple(dict.fromkeys(anchor for one in ANYWHERE if one.fold for anchor in one.anchors))
_NAMES = re.compile(
    b"/(?:%b)" % b"|".join(one.pattern[1:] for one in (*(one.where for one in IN_FILES if one.where), DOTENV))
)
"""All path patterns in one expression; KEY_STORE is faster separately."""


class Sieve:
    """Preselects many small files at once: those that pass are searched with ``in_file``, the others
    contain nothing."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        """``texts`` are the contents of the files. Anchors contain no zero byte, so none spans two files."""
        joined = b"\0".join(texts)
        self._plain = [anchor for anchor in _PLAIN_ANCHORS if anchor in joined]
        folded = joined.lower()
        self._folded = [anchor for anchor in _FOLDED_ANCHORS if anchor in folded]

    def passes(self, path: bytes, data: bytes) -> bool:
        """Whether a file must be searched. ``data`` is one of the texts, or b"" for a file whose content is not
        searched."""
        named = b"/" + path
        if _NAMES.search(named) or KEY_STORE.search(named):
            return True
        for anchor in self._plain:
            if anchor in data:
                return True
        if self._folded:
            folded = data.lower()
            return any(anchor in folded for anchor in self._folded)
        return False


def in_words(text: str, *, entropy: bool = False) -> list[Suspect]:
    """Find secrets in a variable (``NAME=value``), a label, or a build step."""
    data = text.encode("utf-8", "backslashreplace")
    found = list(_search((*ANYWHERE, *IN_WORDS), data))
    if entropy:
        found += _random_words(data)
    return found[:MOST_A_FILE]


def _search(patterns: tuple[Pattern, ...] | list[Pattern], data: bytes) -> Iterator[Suspect]:
    folded: bytes | None = None
    taken: set[int] = set()  # where findings begin: the first pattern counts
    for pattern in patterns:
        text = data
        if pattern.fold:
            text = folded = data.lower() if folded is None else folded
        if not any(anchor in text for anchor in pattern.anchors):
            continue
        count = 0
        for match in pattern.expression.finditer(data):
            if match.start(1) in taken or _is_harmless(pattern, match):
                continue
            taken.add(match.start(1))
            yield Suspect(pattern.name, data.count(b"\n", 0, match.start(1)) + 1, _masked(match[1], pattern.shown))
            count += 1
            if count == MOST_A_FILE:
                break


def _is_harmless(pattern: Pattern, match: re.Match[bytes]) -> bool:
    if pattern.name == "aws-access-key":
        return match[1].endswith(b"EXAMPLE")
    if pattern.name == "password":
        return bool(HARMLESS_VALUE.match(match[1]) or HARMLESS_NAME.search(match[0]))
    return pattern.name.endswith("password") and bool(HARMLESS_VALUE.match(match[1]))


def _masked(secret: bytes, shown: int) -> str:
    text = secret[:shown].decode("ascii", "replace")
    return text if len(secret) <= shown else text + MASK


def _random_words(data: bytes) -> Iterator[Suspect]:
    count = 0
    for match in _TOKEN.finditer(data):
        word = match[0]
        if _HEX.match(word) or _bits(word) < 4.5:
            continue  # in images, hex digits are nearly always digests
        yield Suspect("high-entropy", data.count(b"\n", 0, match.start()) + 1, MASK)
        count += 1
        if count == MOST_A_FILE:
            return


def _bits(word: bytes) -> float:
    """Return the Shannon entropy in bits per character."""
    return -sum(share * math.log2(share) for share in (word.count(character) / len(word) for character in set(word)))
