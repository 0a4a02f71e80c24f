"""Reads a layer's tar through its compressed blob, from the nearest checkpoint on; nothing is written to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from lamina.errors import InvalidLayer
from lamina.host.files import FileRange, reported
from lamina.layer.checkpoints.file import SeekIndex
from lamina.layer.checkpoints.resume import resumed
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol, Self

    class Stream(Protocol):
        def read(self, size: int = -1, /) -> bytes: ...

        def close(self) -> None: ...


_DAMAGED = "run `lamina fsck --repair`, then load or pull the image again"
_FEED = 1 << 16  # bytes of the blob read at a time: a small file needs little
_IDLE = 2  # idle readers kept per layer, for a read that continues there


class SeekableTar:
    """The tar of one layer. A read that continues where another one stopped costs nothing extra, so reading from
    front to back takes one pass."""

    def __init__(self, index: SeekIndex, blob: str, open_blob: Callable[[int], Stream] | None = None) -> None:
        """``blob``: the path of the blob; with ``open_blob``, which opens it from an offset on, its name in
        errors."""
        self.tar_size = index.tar_size
        self._index = index
        self._blob = blob
        self._open_blob = open_blob or (lambda place: FileRange(blob, place))
        self._idle: list[_Decoding] = []
        self._guard = threading.Lock()

    def open(self, start: int = 0, end: int | None = None) -> SeekableStream:
        """Open a range of the tar. Raises OSError (no such blob), StoreDamaged."""
        end = self.tar_size if end is None else end
        return SeekableStream(self, self._nearest(start), start, end)

    def _nearest(self, start: int) -> _Decoding:
        nearest = self._index.before(start)
        with self._guard:
            fit = [one for one in self._idle if nearest <= one.at <= start]
            if fit:
                best = max(fit, key=lambda one: one.at)
                self._idle.remove(best)
                return best
        return _Decoding(self._index, self._blob, nearest, self._open_blob)

    def give_back(self, decoding: _Decoding) -> None:
        with self._guard:
            self._idle.append(decoding)
            dropped = self._idle.pop(0) if len(self._idle) > _IDLE else None
        if dropped is not None:
            dropped.close()


class SeekableStream:
    """The bytes from ``start`` to ``end`` of the tar; a ``Stream``."""

    def __init__(self, owner: SeekableTar, decoding: _Decoding, start: int, end: int) -> None:
        self._owner = owner
        self._decoding: _Decoding | None = decoding
        self._at, self._end = start, end

    def read(self, size: int = -1, /) -> bytes:
        """Read the next bytes. Raises InvalidLayer, StoreDamaged."""
        left = self._end - self._at
        size = left if size < 0 else min(size, left)
        if size <= 0 or self._decoding is None:
            return b""
        decoding, self._decoding = self._decoding, None  # after a failure this decoder is not used again
        try:
            data = decoding.read(self._at, size)
        except InvalidLayer as error:
            raise InvalidLayer(f"{decoding.path}: {error.message}", hint=_DAMAGED) from None
        self._decoding = decoding
        self._at += len(data)
        return data

    def close(self) -> None:
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            self._owner.give_back(decoding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Decoding:
    """A decoder in use; ``at`` is the offset in the tar of the next byte."""

    def __init__(self, index: SeekIndex, blob: str, nearest: int, open_blob: Callable[[int], Stream]) -> None:
        checkpoint = index.checkpoint(nearest)
        self._decoder, place = resumed(index.compression, checkpoint)
        self._file = open_blob(place)
        self.path = blob
        self._pieces: Iterator[bytes] = iter(())
        self._piece = memoryview(b"")
        self.at = nearest

    def read(self, at: int, size: int) -> bytes:
        """Read from offset ``at``, which is not before the current one. Raises InvalidLayer if the blob ends too
        early."""
        self._skip(at - self.at)
        parts: list[memoryview] = []
        while size > 0:
            if not self._piece and not self._more():
                raise InvalidLayer("the blob is shorter than its checkpoints state")
            part, self._piece = self._piece[:size], self._piece[size:]
            parts.append(part)
            self.at += len(part)
            size -= len(part)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > 0 and (self._piece or self._more()):
            step = min(size, len(self._piece))
            self._piece = self._piece[step:]
            self.at += step
            size -= step

    def _more(self) -> bool:
        while True:
            piece = next(self._pieces, None)
            if piece is not None:
                self._piece = memoryview(piece)
                return True
            with reported(self.path):
                data = self._file.read(_FEED)
            if not data:
                return False
            self._pieces = iter(self._decoder.feed(data))

    def close(self) -> None:
        self._file.close()
