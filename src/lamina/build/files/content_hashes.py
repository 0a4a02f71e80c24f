"""The digests of the files of a directory that was a context before, so that unchanged files need not be read again.

A file counts as unchanged if device, inode, size, mtime and ctime are the same. A file that was written in the last
moments before it was hashed could change again within the same tick of the clock, so its digest is not kept. The
records are derived data: without them, or with damaged ones, all files are read.

Records are grouped by directory, because a context is read directory by directory: only one group is unpacked at a
time.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterable

from lamina.host.files import make_directory, replace_file

_MAGIC = b"LAMCTXH2"
_HEADER = struct.Struct("=8sQI")  # magic, size of the body, crc
_GROUP = struct.Struct("=QQI")  # device and inode of a directory, number of its records
STATE = struct.Struct("=QQQqq")
"""What identifies a file's content: device, inode, size, mtime and ctime."""
_WIDTH = STATE.size + 33  # the state, the sha256, whether it has extended attributes
_TICK, _COARSE_TICK = 100_000_000, 2_100_000_000  # nanoseconds
_SECOND = 1_000_000_000
_MOST = 64 << 20  # bytes of records that are kept of directories that a build does not see

Records = dict[bytes, bytes]
"""State to digest and flag."""


class ContentHashes:
    """The digests known for one directory and all below. ``path``: the file that keeps them, "" for none; ``within``:
    the directory for temporary files."""

    def __init__(self, path: str, *, within: str = "") -> None:
        self._path = path
        self._within = within
        self._body = _load(path) if path else b""
        self._groups = _groups(self._body)

    def group(self, device: int, inode: int) -> Records:
        """What is known of the files in one directory."""
        place = self._groups.get((device, inode))
        if place is None:
            return {}
        start, count = place
        body, size = self._body, STATE.size
        ends = range(start, start + count * _WIDTH, _WIDTH)
        return {body[at : at + size]: body[at + size : at + _WIDTH] for at in ends}

    def save(self, groups: Iterable[tuple[int, int, list[bytes]]]) -> None:
        """Write what is known now: (device, inode, records) of each directory that was seen; what is known of others
        stays. Raises OSError."""
        if not self._path:
            return
        pieces = []
        others = self._groups if len(self._body) < _MOST else {}
        for device, inode, records in groups:
            others.pop((device, inode), None)
            pieces.append(_GROUP.pack(device, inode, len(records)))
            pieces += records
        for (device, inode), (start, count) in others.items():
            pieces.append(_GROUP.pack(device, inode, count))
            pieces.append(self._body[start : start + count * _WIDTH])
        body = b"".join(pieces)
        make_directory(os.path.dirname(self._path))
        head = _HEADER.pack(_MAGIC, len(body), zlib.crc32(body))
        replace_file(self._path, [head, body], within=self._within, lasting=False)


def flagged(digest: bytes, has_xattrs: bool) -> bytes:
    """The value of a record."""
    return b"%b%c" % (digest, has_xattrs)


def is_settled(mtime: int, ctime: int) -> bool:
    """Whether a change from now on would change the times too (nanoseconds)."""
    coarse = not mtime % _SECOND and not ctime % _SECOND
    return time.time_ns() - max(mtime, ctime) > (_COARSE_TICK if coarse else _TICK)


def _load(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            body = file.read()
    except OSError:
        return b""
    if len(head) < _HEADER.size:
        return b""
    magic, size, crc = _HEADER.unpack(head)
    return body if magic == _MAGIC and len(body) == size and zlib.crc32(body) == crc else b""


def _groups(body: bytes) -> dict[tuple[int, int], tuple[int, int]]:
    found, at = {}, 0
    while at + _GROUP.size <= len(body):
        device, inode, count = _GROUP.unpack_from(body, at)
        at += _GROUP.size
        found[device, inode] = (at, count)
        at += count * _WIDTH
    return found
