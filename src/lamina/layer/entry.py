"""One entry of a layer, as a value (pure)."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """What an entry is. The numbers are stored in index files: never renumber."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARDLINK = 3
    CHAR = 4
    BLOCK = 5
    FIFO = 6
    WHITEOUT = 7
    OPAQUE = 8


FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
"""What file systems call the kinds of what stands in them (the format bits of st_mode)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as its layer states it.

    ``path`` is relative to the root, without leading or trailing slash, components joined by ``/``; the root
    itself is ``b""``. For a WHITEOUT it is the path that is hidden (not the ``.wh.`` name); for an OPAQUE the
    directory whose lower content is hidden. ``size`` in bytes of content; ``mtime`` in nanoseconds since 1970
    (may be negative); ``mode`` holds the twelve permission bits only; ``link`` is a symlink's target (literal)
    or a hardlink's (normalised like ``path``); ``rdev`` is (major, minor). ``offset`` is where the content
    starts in the uncompressed tar; ``sparse`` the data segments (offset in the file, length) of a sparse
    member, whose stored bytes lie one after the other from ``offset``; None for an ordinary file.
    """

    path: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict, hash=False)
    rdev: tuple[int, int] = (0, 0)
    offset: int = 0
    sparse: tuple[tuple[int, int], ...] | None = None
