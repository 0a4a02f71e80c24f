"""What decoders of compressed data share: several members, frames or streams behind each other, given in pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator

PIECE = 1 << 20
"""Bytes that a decoder gives out at once, at most."""
_WINDOW = 1 << 14
"""Behind the first member or frame the input is given in pieces of this size: each end of one copies what is left of
its piece, so that a million tiny ones would cost the square of their number."""


class ManyPieces:
    """A decoder that is fed, and gives the pieces one by one to ``_decode``."""

    _seen = 0  # members or frames begun
    _fed = 0  # bytes given so far
    _behind = 0  # of them, those behind the piece that ``_decode`` has

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
        """The byte of the whole stream before which ``left`` bytes of the piece at hand are left."""
        return self._fed - self._behind - left

    def _decode(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Up to the end of one member or frame; what is left of ``data``."""
        raise NotImplementedError
