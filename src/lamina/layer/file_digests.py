"""The sha256 of every regular file of a layer, in a file beside its index: 32 bytes for each file, in archive order,
after a header that binds it to its index. It is derived on first need, in one pass over the tar."""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from typing import Protocol

from lamina.errors import InvalidLayer, StoreDamaged
from lamina.host.files import CHUNK
from lamina.layer.entry import Kind
from lamina.layer.file_content import open_content
from lamina.layer.index import LayerIndex

VERSION = 1
MAX_HOLES = 1 << 30  # bytes of zeros to hash for one sparse file; a header of a few bytes can claim exabytes
WIDTH = 32
_MAGIC = b"LAMDIGES"
_ORDER = 0x01020304
_HEADER = struct.Struct("=8sIIIII4x")  # magic, order, version, files, the index's checksum, crc of the digests
_UNKNOWN = bytes(WIDTH)
_FILE = int(Kind.FILE)


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class LayerDigests:
    """The digests of one layer's regular files, by row."""

    def __init__(self, index: LayerIndex, buffer: bytes, what: str = "content digests") -> None:
        """Raises StoreDamaged if the buffer is not the complete digest file of this index."""
        body = buffer[_HEADER.size :]
        if len(buffer) < _HEADER.size or _HEADER.unpack_from(buffer) != _head(index, body):
            raise StoreDamaged(
                f"{what}: not the digests of this layer", hint="remove the file: it is made again when needed"
            )
        self._index = index
        self.buffer = buffer
        """The content of the digest file."""

    @classmethod
    def make(cls, index: LayerIndex, open_tar: Callable[[int, int], _Stream]) -> LayerDigests:
        """Compute the digests: read all files once, front to back. ``open_tar(start, end)`` opens a range of the
        uncompressed tar. Raises InvalidLayer if the tar is shorter than the index says."""
        body = b"".join(_hashed(index, open_tar))
        return cls(index, _HEADER.pack(*_head(index, body)) + body)

    def of(self, row: int) -> str | None:
        """Return the hex digest of the regular file in ``row``; None for other entries, and for a sparse file with
        too large holes."""
        if self._index.kind[row] != _FILE:
            return None
        found = self._at(bytes(self._index.kind[:row]).count(_FILE))
        return None if found == _UNKNOWN else found.hex()

    def by_row(self) -> dict[int, bytes]:
        """Return the digest (32 bytes) of each regular file, except sparse files with too large holes."""
        places = range(_HEADER.size, len(self.buffer), WIDTH)
        found = {row: self.buffer[at : at + WIDTH] for row, at in zip(_files(self._index), places, strict=True)}
        return {row: digest for row, digest in found.items() if digest != _UNKNOWN}

    def rows(self, encoded: str) -> list[int]:
        """Return the rows of the files whose digest is ``encoded`` (64 hex digits)."""
        wanted, files = bytes.fromhex(encoded), None
        rows = []
        place = self.buffer.find(wanted, _HEADER.size)
        while place >= 0:
            if (place - _HEADER.size) % WIDTH:
                place = self.buffer.find(wanted, place + 1)
                continue
            files = files or _files(self._index)
            rows.append(files[(place - _HEADER.size) // WIDTH])
            place = self.buffer.find(wanted, place + WIDTH)
        return rows

    def _at(self, number: int) -> bytes:
        at = _HEADER.size + number * WIDTH
        return self.buffer[at : at + WIDTH]


def _head(index: LayerIndex, body: bytes) -> tuple[bytes, int, int, int, int, int]:
    files = bytes(index.kind).count(_FILE)
    # a body of the wrong length never matches
    return _MAGIC, _ORDER, VERSION, files if len(body) == files * WIDTH else -1, index.checksum, zlib.crc32(body)


def _files(index: LayerIndex) -> array[int]:
    return array("I", [row for row, kind in enumerate(index.kind) if kind == _FILE])


def _hashed(index: LayerIndex, open_tar: Callable[[int, int], _Stream]) -> Iterator[bytes]:
    end, at = index.tar_size, 0
    stream = open_tar(0, end)
    try:
        for row in _files(index):
            size, offset = index.size[row], index.offset[row]
            segments = index.sparse(row)
            if segments is not None or offset < at:  # a hard link target of AUFS is stored before its first name
                stored = size if segments is None else sum(length for _, length in segments)
                if size - stored > MAX_HOLES:
                    yield _UNKNOWN
                    continue
                hasher = hashlib.sha256()
                with open_content(index, row, open_tar) as content:
                    while data := content.read(CHUNK):
                        hasher.update(data)
                yield hasher.digest()
                continue
            while at < offset:
                at += len(_some(stream, min(CHUNK, offset - at)))
            hasher = hashlib.sha256()
            while at < offset + size:
                data = _some(stream, min(CHUNK, offset + size - at))
                hasher.update(data)
                at += len(data)
            yield hasher.digest()
    finally:
        stream.close()


def _some(stream: _Stream, size: int) -> bytes:
    data = stream.read(size)
    if not data:
        raise InvalidLayer("a layer's tar is shorter than its index states", hint="run `lamina fsck --repair`")
    return data
