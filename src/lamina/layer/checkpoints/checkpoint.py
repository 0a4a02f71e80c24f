"""Checkpoints of a compressed layer: places from which it can be inflated without reading what comes before.

For gzip they are ends of deflate blocks, each with the 32 KiB of output before it, which a block may refer to (RFC
1951; see ``libz``). For zstd they are starts of frames. A decoder records them while the blob is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.codec import Decoder, ZstdDecoder, decoder

SPACING = 1 << 20
"""Bytes of tar between two checkpoints, for a layer of ordinary size."""
_MOST = 4096  # approximate limit of checkpoints in a layer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint: from bit ``bits`` of the blob on, it inflates to the tar from byte ``at`` on. ``window`` is the
    tar content before ``at``."""

    bits: int
    at: int
    window: bytes


class CheckpointDecoder(Decoder, Protocol):
    """A decoder that records checkpoints."""

    @property
    def checkpoints(self) -> list[Checkpoint]: ...


def spacing_for(size: int) -> int:
    """Return the bytes of tar between two checkpoints of a blob of ``size`` bytes: more for large blobs."""
    return max(SPACING, size * 3 // _MOST)


class NoCheckpoints:
    """A decoder without checkpoints: its blob can only be read from the start."""

    def __init__(self, compression: str) -> None:
        self.compression = compression
        self.checkpoints: list[Checkpoint] = []
        self._decoder = decoder(compression)
        self.feed, self.finish = self._decoder.feed, self._decoder.finish


class CheckpointZstd(ZstdDecoder):
    """A zstd decoder that records where frames begin: zstd:chunked, the seekable format and pzstd have many."""

    def __init__(self, spacing: int) -> None:
        super().__init__()
        self.checkpoints: list[Checkpoint] = []
        self._spacing = spacing
        self._out = self._last = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in super().feed(data):
            self._out += len(piece)
            yield piece

    def _begins(self, left: int) -> None:
        if self._out - self._last >= self._spacing:
            self.checkpoints.append(Checkpoint(self.position(left) * 8, self._out, b""))
            self._last = self._out
