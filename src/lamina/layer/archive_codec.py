"""Detection and decompression of whole archives: gzip, zstd, bzip2, xz, lzma."""

from __future__ import annotations

from lamina.layer import bzip2_xz
from lamina.layer.codec import Decoder, decoder, sniff
from lamina.layer.tarheader import BLOCK, is_header


def sniff_archive(start: bytes) -> str:
    """Detect the compression of an archive from its first block: gzip, zstd, bzip2, xz, lzma or none (pure)."""
    if len(start) >= BLOCK and is_header(start[:BLOCK]):
        return "none"  # even if its first name begins with a magic number
    for magic, name in ((bzip2_xz.BZIP2, "bzip2"), (bzip2_xz.LZMA, "lzma")):
        if start.startswith(magic):
            return name
    return sniff(start)


def archive_decoder(start: bytes) -> Decoder:
    """Return a decoder for the archive that begins with ``start``: its first 512 bytes, or all of a shorter one."""
    name = sniff_archive(start)
    return bzip2_xz.decoder(name) if name == "lzma" else decoder(name)
