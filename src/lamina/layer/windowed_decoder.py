"""Base of decoders: several members, frames or streams in a row, decoded in pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator

PIECE = 1 << 20
"""The most bytes that a decoder yields at once."""
_WINDOW = 1 << 14
"""After the first member or frame, input is decoded in windows of this size. The end of a member copies the rest of
the input, so that a million tiny members would otherwise take quadratic time."""


class WindowedDecoder:
    """A decoder that passes its input to ``_decode`` window by window."""

    _seen = 0  # members or frames that have begun
    _fed = 0  # bytes given so far
    _behind = 0  # of these, the bytes after the window that ``_decode`` has

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._fed += len(data)
        self._behind = 0
        if self._seen < 2:
            data = yield from self._decode(data)
        for at in range(0, len(data), _WINDOW):
            piece = data[at : at + _WINDOW]
            self._behind = len(data) - at - len(piece)
            while piece:
                piece = yield from self._decode(piece)

    def position(self, left: int) -> int:
        """Return the offset in the stream at which ``left`` bytes of the current window remain."""
        return self._fed - self._behind - left

    def _decode(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Yield the output up to the end of one member or frame; return the rest of ``data``."""
        raise NotImplementedError
