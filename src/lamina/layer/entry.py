"""One entry of a layer as a value (pure)."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """The type of an entry. The numbers are stored in index files: never renumber them."""

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
"""The format bits of st_mode for each kind."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as stated in its layer.

    ``path`` is relative to the root, without leading or trailing slash; the root itself is ``b""``. For a WHITEOUT it
    is the hidden path (not the ``.wh.`` name), for an OPAQUE the directory whose lower content is hidden. ``size`` is
    in bytes of content; ``mtime`` in nanoseconds since 1970 (may be negative). ``mode`` has only the twelve
    permission bits. ``link`` is the target of a symlink (literal) or of a hard link (normalised like ``path``).
    ``rdev`` is (major, minor). ``offset`` is where the content starts in the uncompressed tar. ``sparse`` lists the
    data segments (offset in the file, length) of a sparse file, stored one after the other from ``offset``; None for
    an ordinary file.
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
