"""Decoding of a Content-Encoding that a proxy added although it was not requested (RFC 9110, section 8.4)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lamina.errors import InvalidLayer, Unsupported

if TYPE_CHECKING:
    from lamina.layer.codec import Decoder

_PIECE = 1 << 20  # bytes that are yielded at once
_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}


def encoding_of(header: str) -> str:
    """Return the Content-Encoding in lower case; "" if the body is not encoded (pure)."""
    stated = (word.strip() for word in header.lower().split(","))
    return ", ".join(word for word in stated if word not in ("", "identity"))


def decoder_for(encoding: str, what: str) -> Decoder:
    """Return a decoder. Raises Unsupported for an unknown Content-Encoding, and for several of them."""
    if encoding == "deflate":
        return Inflating()
    if encoding not in _NAMES:
        raise Unsupported(
            f"{what} comes with Content-Encoding {encoding!r:.60}, which was not requested",
            hint="turn compression off in the proxy before the registry",
        )
    from lamina.layer.codec import decoder

    return decoder(_NAMES[encoding])


class Inflating:
    """A decoder for "deflate": zlib's format (RFC 1950) or, as some servers send it, raw deflate data (RFC 1951)."""

    compression = "deflate"

    def __init__(self) -> None:
        self._start = b""  # too few bytes to detect the format
        self._stream: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return
            has_header = data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        try:
            while data and not self._stream.eof:
                piece = self._stream.decompress(data, _PIECE)
                if piece:
                    yield piece
                data = self._stream.unconsumed_tail
        except zlib.error as error:
            raise InvalidLayer(f"corrupt deflate data: {error}", hint="fetch it again") from None
        if data or (self._stream.eof and self._stream.unused_data):
            raise InvalidLayer("garbage after the deflate data", hint="fetch it again")

    def finish(self) -> None:
        if self._stream is None or not self._stream.eof:
            raise InvalidLayer("the deflate data ends too early", hint="fetch it again")
