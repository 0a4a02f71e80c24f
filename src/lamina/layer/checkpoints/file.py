"""The file with a layer's checkpoints, beside its index: derived data, written with the index and read in parts.

Format: a line with magic, compression, digest of the blob, bytes of tar, and number of rows; one row a checkpoint;
the CRC-32 of both; then the windows, each compressed with zstd, with its CRC-32 in its row.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator

from lamina.errors import StoreDamaged, UsageError
from lamina.host.files import FileRange
from lamina.layer.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointDecoder,
    CheckpointZstd,
    NoCheckpoints,
    spacing_for,
)
from lamina.layer.codec import COMPRESSIONS, READ_ONLY, SniffingDecoder, zstd
from lamina.spec.digest import Digest

_MAGIC = b"lamina-seek 1"
_ROW = struct.Struct("<QQQII")  # compressed bits, bytes of tar, offset of the window, its length, its CRC-32
_CHECK = struct.Struct("<I")
_LINE = 512  # the longest first line in bytes


def checkpoint_decoder(compression: str, size: int) -> CheckpointDecoder:
    """Return a decoder for a blob of ``size`` bytes that records checkpoints. Without libz only zstd blobs
    get any."""
    if compression == "zstd":
        return CheckpointZstd(spacing_for(size))
    if compression == "gzip":
        from lamina.layer.checkpoints.libz import CheckpointGzip, refusal

        if not refusal():
            return CheckpointGzip(spacing_for(size))
    return NoCheckpoints(compression)


class SniffingCheckpoints(SniffingDecoder):
    """A ``checkpoint_decoder`` that detects the compression itself; ``said`` is the one from the media type."""

    def __init__(self, said: str, size: int) -> None:
        super().__init__(said, lambda compression: checkpoint_decoder(compression, size))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        found: list[Checkpoint] = getattr(self.chosen, "checkpoints", [])
        return found


def dump(blob: Digest, compression: str, tar_size: int, checkpoints: list[Checkpoint]) -> list[bytes]:
    """Return the content of a checkpoint file, in pieces."""
    rows, windows, place = [], [], 0
    compress = zstd().compress
    for checkpoint in checkpoints:
        stored = compress(checkpoint.window) if checkpoint.window else b""
        rows.append(_ROW.pack(checkpoint.bits, checkpoint.at, place, len(stored), zlib.crc32(stored)))
        windows.append(stored)
        place += len(stored)
    head = b"%s %s %s %d %d\n" % (_MAGIC, compression.encode(), str(blob).encode(), tar_size, len(checkpoints))
    table = head + b"".join(rows)
    return [table + _CHECK.pack(zlib.crc32(table)), *windows]


class SeekIndex:
    """The checkpoints of one blob, read from their file. ``tar_size`` in bytes."""

    def __init__(self, path: str, blob: Digest, compression: str, tar_size: int, rows: list[tuple[int, ...]]) -> None:
        self.path = path
        self.blob = blob
        self.compression = compression
        self.tar_size = tar_size
        self._rows = rows
        self._ats = [row[1] for row in rows]
        self._windows = 0

    @classmethod
    def load(cls, path: str) -> SeekIndex:
        """Read a checkpoint file. Raises OSError, StoreDamaged."""
        with FileRange(path) as file:
            start = file.read(_LINE)
            line, newline, _ = start.partition(b"\n")
            words = line.split(b" ")
            try:
                if not newline or b" ".join(words[:2]) != _MAGIC or len(words) != 6:
                    raise ValueError
                compression, blob = words[2].decode("ascii"), Digest.parse(words[3].decode("ascii"))
                tar_size, count = int(words[4]), int(words[5])
                length = len(line) + 1 + count * _ROW.size
                table = start + file.read(max(0, length + _CHECK.size - len(start)))
                if compression not in COMPRESSIONS + READ_ONLY or not 0 <= count < 1 << 24:
                    raise ValueError
                if _CHECK.unpack_from(table, length)[0] != zlib.crc32(table[:length]):
                    raise ValueError
            except (ValueError, UsageError, struct.error):
                raise StoreDamaged(f"{path} is damaged", hint="run `lamina fsck --repair`") from None
        found = cls(path, blob, compression, tar_size, list(_ROW.iter_unpack(table[len(line) + 1 : length])))
        found._windows = length + _CHECK.size
        return found

    def before(self, at: int) -> int:
        """Return the tar offset of the last checkpoint at or before ``at``; 0 for the start."""
        number = bisect_right(self._ats, at)
        return self._ats[number - 1] if number else 0

    def checkpoint(self, at: int) -> Checkpoint:
        """Return the checkpoint exactly at ``at``, an offset from ``before``. Raises StoreDamaged, OSError."""
        if at == 0:
            return Checkpoint(0, 0, b"")
        bits, at, place, length, check = self._rows[bisect_right(self._ats, at) - 1]
        if not length:
            return Checkpoint(bits, at, b"")
        with FileRange(self.path, self._windows + place, self._windows + place + length) as file:
            stored = file.read(length)
        if len(stored) != length or zlib.crc32(stored) != check:
            raise StoreDamaged(f"{self.path} is damaged", hint="run `lamina fsck --repair`")
        return Checkpoint(bits, at, zstd().decompress(stored))

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield all checkpoints. Raises as ``checkpoint``."""
        return (self.checkpoint(at) for at in self._ats)
