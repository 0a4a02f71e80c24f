"""Checkpoints of a compressed layer: the places from which it can be inflated without all that stands before.

gzip: ends of deflate blocks, each with the 32 KiB before it (RFC 1951 lets a block refer to so much; see ``libz``).
zstd: frames. A decoder notes them while the blob streams by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.codec import Decoder, ZstdDecoder, decoder

SPACING = 1 << 20
"""Bytes of tar between two checkpoints, of a layer of ordinary size."""
_MOST = 4096  # checkpoints of a layer, about


@dataclass(frozen=True, slots=True)
class Mark:
    """From bit ``bits`` of the blob on it inflates to the tar from ``at`` on. ``window``: the tar before it."""

    bits: int
    at: int
    window: bytes


class Marking(Decoder, Protocol):
    """A decoder that notes checkpoints on its way."""

    @property
    def marks(self) -> list[Mark]: ...


def spacing_for(size: int) -> int:
    """Bytes of tar between checkpoints of a blob of ``size`` bytes: more for the very large."""
    return max(SPACING, size * 3 // _MOST)


class Unmarked:
    """A decoder whose blob is only read from its start."""

    def __init__(self, compression: str) -> None:
        self.compression = compression
        self.marks: list[Mark] = []
        self._decoder = decoder(compression)
        self.feed, self.finish = self._decoder.feed, self._decoder.finish


class MarkingZstd(ZstdDecoder):
    """Notes where frames begin: those of zstd:chunked, of the seekable format, of pzstd."""

    def __init__(self, spacing: int) -> None:
        super().__init__()
        self.marks: list[Mark] = []
        self._spacing = spacing
        self._out = self._marked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in super().feed(data):
            self._out += len(piece)
            yield piece

    def _begins(self, left: int) -> None:
        if self._out - self._marked >= self._spacing:
            self.marks.append(Mark(self.position(left) * 8, self._out, b""))
            self._marked = self._out
