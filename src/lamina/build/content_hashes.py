"""The digests of the files of a directory that was a context before, so that unchanged files need not be read again.

A file counts as unchanged if device, inode, size, mtime and ctime are the same. A file that was written in the last
moments before it was hashed could change again within the same tick of the clock, so its digest is not kept. The
records are derived data: without them, or with damaged ones, all files are read.
"""

from __future__ import annotations

import os
import struct
import time
import zlib

from lamina.host.files import make_directory, replace_file

_MAGIC = b"LAMCTXH1"
_HEADER = struct.Struct("=8sQI")  # magic, records, crc
_KEY = struct.Struct("=QQQqq")
_WIDTH = _KEY.size + 33  # the key, the sha256, whether it has extended attributes
_TICK, _COARSE_TICK = 100_000_000, 2_100_000_000  # nanoseconds
_SECOND = 1_000_000_000


class ContentHashes:
    """The digests known for one directory. ``path``: the file that keeps them, "" for none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[bytes, bytes] = _load(path) if path else {}
        self._used: dict[bytes, bytes] = {}
        self._new = False

    def get(self, state: os.stat_result) -> tuple[bytes, bool] | None:
        """(sha256, whether the file has extended attributes) if the file has not changed."""
        key = _key(state)
        found = self._known.get(key)
        if found is None:
            return None
        self._used[key] = found
        return found[:32], found[32] != 0

    def note(self, state: os.stat_result, digest: bytes, has_xattrs: bool) -> None:
        """Keep the digest of a file that was just read. ``state``: from before it was read."""
        changed = max(state.st_mtime_ns, state.st_ctime_ns)
        coarse = not state.st_mtime_ns % _SECOND and not state.st_ctime_ns % _SECOND
        if time.time_ns() - changed > (_COARSE_TICK if coarse else _TICK):
            key = _key(state)
            self._known[key] = self._used[key] = digest + bytes([has_xattrs])
            self._new = True

    def save(self) -> None:
        """Write the records that were used. Raises OSError."""
        if not self._path or not (self._new or len(self._used) * 2 < len(self._known)):
            return
        body = b"".join([key + value for key, value in self._used.items()])
        make_directory(os.path.dirname(self._path))
        head = _HEADER.pack(_MAGIC, len(self._used), zlib.crc32(body))
        replace_file(self._path, [head, body], lasting=False)


def _key(state: os.stat_result) -> bytes:
    return _KEY.pack(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _load(path: str) -> dict[bytes, bytes]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    if len(data) < _HEADER.size:
        return {}
    magic, records, crc = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or len(body) != records * _WIDTH or zlib.crc32(body) != crc:
        return {}
    size = _KEY.size
    return {body[at : at + size]: body[at + size : at + _WIDTH] for at in range(0, len(body), _WIDTH)}
