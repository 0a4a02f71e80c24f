"""bzip2, xz and lzma, decompressed with the standard library."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from lamina.errors import InvalidLayer, LimitExceeded
from lamina.layer.windowed_decoder import PIECE, WindowedDecoder

BZIP2 = b"BZh"
XZ = b"\xfd7zXZ\0"
LZMA = b"\x5d\0\0"  # the default properties of all encoders, and a dictionary of at least 64 KiB
_MOST_MEMORY = 320 << 20
"""The most memory in bytes that an xz stream may need: `xz -9` needs 65 MiB, 7-Zip's highest level 257 MiB."""

_TOO_MUCH = "Memory usage limit exceeded"  # Python reports it only as text


def decoder(name: str) -> LibraryDecoder:
    """Return a decoder for bzip2, xz or lzma."""
    if name == "bzip2":
        import bz2

        return LibraryDecoder(name, BZIP2, bz2.BZ2Decompressor)
    import lzma

    form = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE
    return LibraryDecoder(name, XZ if name == "xz" else LZMA, lambda: lzma.LZMADecompressor(form, _MOST_MEMORY))


class LibraryDecoder(WindowedDecoder):
    """A decoder for compressions of the standard library. Several streams may follow each other; zeros after the last
    one are padding."""

    def __init__(self, compression: str, magic: bytes, make: Any) -> None:
        import lzma

        self.compression = compression
        self._magic = magic
        self._make = make
        self._errors = (OSError, EOFError, ValueError, lzma.LZMAError)
        self._stream: Any = None
        self._rest = b""  # too few bytes to tell whether a stream begins

    def _decode(self, data: bytes) -> Generator[bytes, None, bytes]:
        if self._stream is None:
            data = self._rest + data
            self._rest = b""
            if self._seen:
                data = data.lstrip(b"\0")
            if len(data) < len(self._magic) and self._magic.startswith(data):
                self._rest = data
                return b""
            if not data.startswith(self._magic):
                raise InvalidLayer(f"garbage after the {self.compression} data", hint="get the archive again")
            self._stream = self._make()
            self._seen += 1
        stream = self._stream
        try:
            piece = stream.decompress(data, PIECE)
            while True:
                if piece:
                    yield piece
                if stream.eof or stream.needs_input:
                    break
                piece = stream.decompress(b"", PIECE)
        except self._errors as error:
            if str(error) == _TOO_MUCH:
                raise LimitExceeded(
                    f"its {self.compression} data needs more than {_MOST_MEMORY >> 20} MiB of memory",
                    hint="compress it again with a smaller dictionary",
                ) from None
            raise InvalidLayer(f"corrupt {self.compression} data: {error}", hint="get the archive again") from None
        if not stream.eof:
            return b""
        self._stream = None
        rest: bytes = stream.unused_data
        return rest

    def finish(self) -> None:
        if self._stream is not None or self._rest or not self._seen:
            raise InvalidLayer(
                f"the {self.compression} data ends too early", hint="get the archive again: it is truncated"
            )
