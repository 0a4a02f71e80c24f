"""Inflating of a compressed layer from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lamina.errors import StoreDamaged
from lamina.layer.checkpoints.checkpoint import Checkpoint
from lamina.layer.codec import Decoder, GzipDecoder, decoder
from lamina.layer.windowed_decoder import PIECE


def resumed(compression: str, checkpoint: Checkpoint) -> tuple[Decoder, int]:
    """Return a decoder that starts at the checkpoint, and the offset in the blob from which to feed it."""
    if checkpoint.at == 0 or compression != "gzip":
        return decoder(compression), checkpoint.bits // 8
    return ResumedGzip(checkpoint), checkpoint.bits // 8


class ResumedGzip:
    """A decoder for the rest of a gzip member from a block on, and for the members after it. The member's checksum is
    not checked because it covers data that was not read: blobs are verified on ingest, and by fsck."""

    compression = "gzip"

    def __init__(self, checkpoint: Checkpoint) -> None:
        from isal import isal_zlib

        self._error: Any = isal_zlib.error
        self._raw = (
            isal_zlib.decompressobj(-15, zdict=checkpoint.window)
            if checkpoint.window
            else isal_zlib.decompressobj(-15)
        )
        self._shift = checkpoint.bits % 8
        self._lead = True
        self._trailer = 8
        self._members = GzipDecoder()
        self._members.has_begun()

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._lead and data:
            data, self._lead = align_bits(self._shift, data), False
        raw = self._raw
        while data and not raw.eof:
            try:
                piece = raw.decompress(data, PIECE)
            except self._error as error:
                raise StoreDamaged(
                    f"a checkpoint does not point to a deflate block: {error}", hint="run `lamina fsck --repair`"
                ) from None
            data = raw.unused_data if raw.eof else raw.unconsumed_tail
            if piece:
                yield piece
        skipped = min(self._trailer, len(data)) if raw.eof else 0
        self._trailer -= skipped
        yield from self._members.feed(data[skipped:])

    def finish(self) -> None:
        """Do nothing: a reader that starts in the middle may also stop in the middle."""


def align_bits(shift: int, data: bytes) -> bytes:
    """Return ``data`` preceded by empty deflate blocks. The first ``shift`` bits of ``data`` belong to the block
    before; the empty blocks end at that bit, because inflate can only start at a whole byte."""
    if not shift:
        return data
    bits, length = _EMPTY_BLOCKS[shift]
    whole = length // 8
    split = (bits >> (whole * 8)) | (data[0] >> shift << shift)
    return (bits & ((1 << whole * 8) - 1)).to_bytes(whole, "little") + bytes([split]) + data[1:]


def _empty_blocks() -> dict[int, tuple[int, int]]:
    """Return empty deflate blocks for each bit length modulo 8 from 1 to 7: as a number, lowest bit first, and its
    length in bits."""
    fixed, fixed_length = 0b010, 10  # not final, type 1, end of block (7 zeros)
    # not final; type 2; 257 literal codes, 1 distance code, 19 code lengths
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (15, 4)]
    # the code lengths in the order of RFC 1951: 1 bit for "18" (the third), 1 bit for "1" (the 18th)
    fields += [(1 if place in (2, 17) else 0, 3) for place in range(19)]
    # canonical codes: "1" is 0, "18" is 1. 138 zeros, 118 zeros, a 1 for the end of block, a 1 for a distance; the
    # end
    fields += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]
    dynamic = dynamic_length = 0
    for value, width in fields:
        dynamic |= value << dynamic_length
        dynamic_length += width
    found: dict[int, tuple[int, int]] = {}
    for count_dynamic in (0, 1):
        for count_fixed in range(4):
            bits, length = (dynamic, dynamic_length) if count_dynamic else (0, 0)
            for _ in range(count_fixed):
                bits |= fixed << length
                length += fixed_length
            found.setdefault(length % 8, (bits, length))
    return found


_EMPTY_BLOCKS = _empty_blocks()
