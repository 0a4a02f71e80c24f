"""Archives as people compress them: gzip, zstd, bzip2, xz, lzma."""

from __future__ import annotations

from lamina.layer import streams
from lamina.layer.codec import Decoder, decoder, sniff
from lamina.layer.tarheader import BLOCK, is_header


def shown(start: bytes) -> str:
    """The compression that an archive's first block shows: gzip, zstd, bzip2, xz, lzma or none (pure)."""
    if len(start) >= BLOCK and is_header(start[:BLOCK]):
        return "none"  # whatever its first name begins with
    for magic, name in ((streams.BZIP2, "bzip2"), (streams.LZMA, "lzma")):
        if start.startswith(magic):
            return name
    return sniff(start)


def unwrapping(start: bytes) -> Decoder:
    """A decoder for the archive that begins with ``start``: 512 bytes of it, or all that it has."""
    name = shown(start)
    return streams.decoder(name) if name == "lzma" else decoder(name)
