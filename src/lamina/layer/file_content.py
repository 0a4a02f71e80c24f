"""The content of one regular file, read from its layer's tar."""

from __future__ import annotations

from io import BytesIO

from lamina.errors import InvalidLayer
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, Self

    from lamina.layer.index import LayerIndex

    class _Stream(Protocol):
        def read(self, size: int = -1, /) -> bytes: ...

        def close(self) -> None: ...

    OpenTar = Callable[[int, int], _Stream]

SMALL = 256 << 10  # bytes; a file up to this size is read completely
_AHEAD = 1 << 20
_GAP = 64 << 10  # bytes between two files that still count as read in sequence


def open_content(index: LayerIndex, row: int, open_tar: OpenTar) -> Content:
    """Open the regular file in ``row``. ``open_tar(start, end)`` opens a range of the uncompressed tar."""
    return Content(index.size[row], index.offset[row], index.sparse(row), open_tar)


class ReadAhead:
    """Reads small files of a tar in a few large pieces, as long as they are asked for in the order of the archive."""

    def __init__(self, tar_size: int, open_tar: OpenTar) -> None:
        self._tar_size = tar_size
        self._open_tar = open_tar
        self._start = 0
        self._data = b""
        self._piece = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at ``offset``; fewer than ``size`` if the tar is shorter."""
        at = offset - self._start
        if at < 0 or at + size > len(self._data):
            follows = 0 <= at <= len(self._data) + _GAP and self._piece
            self._piece = min(_AHEAD, max(size, 2 * self._piece)) if follows else size
            end = min(offset + max(size, self._piece), self._tar_size)
            stream = self._open_tar(offset, end)
            try:
                self._start, self._data, at = offset, stream.read(end - offset), 0
            finally:
                stream.close()
        return self._data[at : at + size]


class FileContents:
    """Opens many files of one layer; small ones are read ahead."""

    def __init__(self, index: LayerIndex, open_tar: OpenTar) -> None:
        self._index = index
        self._open_tar = open_tar
        self._ahead = ReadAhead(index.tar_size, open_tar)

    def open(self, row: int) -> BytesIO | Content:
        """Open the regular file in ``row``."""
        index = self._index
        size = index.size[row]
        if 0 < size <= SMALL and index.sparse(row) is None:
            data = self._ahead.read(index.offset[row], size)
            if len(data) == size:
                return BytesIO(data)
        return open_content(index, row, self._open_tar)


class Content:
    """A readable, seekable file of ``size`` bytes, stored from ``offset`` of the tar. ``segments`` as in
    ``Entry.sparse``; holes are read as zeros."""

    def __init__(
        self, size: int, offset: int, segments: tuple[tuple[int, int], ...] | None, open_tar: OpenTar
    ) -> None:
        if segments is None:
            segments = ((0, size),) if size else ()
        self.size = size
        self._open_tar = open_tar
        self._at = 0
        self._segments: list[tuple[int, int, int]] = []  # start in the file, end, offset in the tar
        for start, length in segments:
            self._segments.append((start, start + length, offset))
            offset += length
        self._ends = [end for _, end, _ in self._segments]
        self._stream: _Stream | None = None
        self._stream_at = self._stream_end = -1

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes. Raises InvalidLayer if the tar is shorter than its index says."""
        left = self.size - self._at
        size = left if size < 0 else min(size, left)
        pieces = []
        while size > 0:
            piece = self._piece(size)
            pieces.append(piece)
            self._at += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        at = self._at
        number = self._segment_behind(at)
        if number == len(self._segments):
            return bytes(min(size, 1 << 20))
        start, end, offset = self._segments[number]
        if at < start:
            return bytes(min(size, start - at, 1 << 20))
        return self._data(offset + at - start, offset + end - start, size)

    def _segment_behind(self, at: int) -> int:
        """Return the number of the first segment that ends after ``at``; the number of segments if there is none."""
        if len(self._ends) < 2:
            return int(bool(self._ends) and at >= self._ends[0])
        from bisect import bisect_right  # sparse files are rare, and `blame` loads few modules

        return bisect_right(self._ends, at)

    def _data(self, position: int, end: int, size: int) -> bytes:
        if self._stream is None or self._stream_at != position or self._stream_end != end:
            self.close()
            self._stream, self._stream_at, self._stream_end = self._open_tar(position, end), position, end
        data = self._stream.read(min(size, end - position))
        if not data:
            raise InvalidLayer("a layer's tar is shorter than its index states", hint="run `lamina fsck --repair`")
        self._stream_at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, self.size)[whence]
        self._at = max(0, min(self.size, base + offset))
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
