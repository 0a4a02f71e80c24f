"""Detection and decompression of whole archives: gzip, zstd, bzip2, xz, lzma."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from lamina.host.files import CHUNK
from lamina.host.spool import Spool
from lamina.layer import bzip2_xz
from lamina.layer.codec import Decoder, check_inflated, decoder, sniff
from lamina.layer.tarheader import BLOCK, is_header

if TYPE_CHECKING:
    from lamina.layer.tar_write import Readable


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


def inflate_archive(inflate: Decoder, start: bytes, rest: Readable, what: str, limit: int) -> IO[bytes]:
    """Return an unnamed temporary file with the content of an archive that begins with ``start`` and goes on with
    ``rest``; the caller closes it. ``what`` names the archive in errors about the disk; ``limit`` in bytes. Raises
    LimitExceeded, InvalidLayer (damaged), DiskFull, SystemFailure; then there is no file."""
    spool = Spool(what)
    try:
        fed = written = 0
        data = start
        while data:
            fed += len(data)
            for piece in inflate.feed(data):
                written += len(piece)
                check_inflated(inflate.compression, written, fed, limit)
                spool.write(piece)
            data = rest.read(CHUNK)
        inflate.finish()
        spool.finish()
    except BaseException:
        spool.file.close()
        raise
    return spool.file
