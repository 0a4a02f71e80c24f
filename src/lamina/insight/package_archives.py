"""Reads package information in Java archives (pure): the Maven coordinates in each archive and in nested archives.

Zip's directory and members are parsed here and not by ``zipfile``, which loads the whole directory into memory: that
of a hostile archive may have millions of entries.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from lamina.insight.package_binaries import ReadAt
from lamina.insight.package_texts import NamedPackage, maven_properties

MAX_DIRECTORY = 16 << 20
MAX_TEXT = 64 << 10
MAX_INNER = 128 << 20
"""Limit in bytes of a nested archive, compressed or not."""
DEPTH = 2
_READ_COST = 4096  # the cost of a read in bytes, however little it returns
_END = struct.Struct("<12xII2x")
_ENTRY = struct.Struct("<4s6xH8xIIHHH8xI")
_LOCAL = struct.Struct("<26xHH")
_TEXT = re.compile(rb"META-INF/maven/[^/]+/[^/]+/pom\.properties")
_INNER = re.compile(rb".+\.(?:jar|war|ear)")


def is_archive(name: bytes) -> bool:
    """Whether a file of this name may be a Java archive."""
    return _INNER.fullmatch(name) is not None


class JavaArchives:
    """Reads archives until ``left`` bytes of members were inflated in total: a megabyte of archives may contain a
    gigabyte, a thousand times."""

    def __init__(self, left: int) -> None:
        self.left = left

    def packages(self, read: ReadAt, size: int, depth: int = 0) -> Iterator[NamedPackage]:
        """Yield the packages of an archive of this size; none if it is not an archive, or malformed."""
        directory, moved = _directory(read, size)
        self.left -= len(directory)
        at = 0
        while at + _ENTRY.size <= len(directory) and self.left > 0:
            magic, method, packed, inflated, length, extra, comment, start = _ENTRY.unpack_from(directory, at)
            if magic != b"PK\1\2":
                return
            at += _ENTRY.size
            name = directory[at : at + length]
            at += length + extra + comment
            text = _TEXT.fullmatch(name) is not None
            if not text and (depth == DEPTH or not is_archive(name)):
                continue
            if inflated > (MAX_TEXT if text else MAX_INNER) or packed > MAX_INNER:
                continue
            data = self._member(read, method, packed, inflated, moved + start)
            if text:
                yield from maven_properties(data)
            else:
                yield from self.packages(_reader(data), len(data), depth + 1)

    def _member(self, read: ReadAt, method: int, packed: int, inflated: int, start: int) -> bytes:
        self.left -= max(packed, inflated, _READ_COST)
        head = read(start, _LOCAL.size) if self.left > 0 else b""
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            return b""
        data = read(start + _LOCAL.size + sum(_LOCAL.unpack(head)), packed)
        if method == 0:
            return data[:inflated]
        if method != 8 or not inflated:
            return b""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, inflated)
        except zlib.error:
            return b""


def _reader(data: bytes) -> ReadAt:
    return lambda at, size: data[at : at + size]


def _directory(read: ReadAt, size: int) -> tuple[bytes, int]:
    """Return the archive's directory, and the offset of its members from their stated position, because a script may
    precede them. Empty if it is not an archive, or zip64."""
    before = max(0, size - _END.size - 0xFFFF)
    tail = read(before, size - before)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        return b"", 0
    length, said = _END.unpack_from(tail, at)
    start = before + at - length
    return (read(start, length), start - said) if said <= start and length <= MAX_DIRECTORY else (b"", 0)
