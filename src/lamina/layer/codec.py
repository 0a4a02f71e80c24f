"""Compression of layers: gzip (several members), zstd (several frames), none. bzip2 and xz are read too
(``bzip2_xz``), as docker and podman do, because old archives contain them, with any media type.

A decoder yields pieces of at most 1 MiB, so that a bomb is never in memory as a whole. Encoders write neither name
nor time: the output depends only on the input and the library's version.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

from lamina.errors import InvalidLayer, LimitExceeded, Unsupported, UsageError
from lamina.layer import tarheader
from lamina.layer.windowed_decoder import PIECE, WindowedDecoder
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

COMPRESSIONS = ("gzip", "zstd", "none")
"""Compressions in which layers are written."""
READ_ONLY = ("bzip2", "xz")
"""Compressions that are only read: containerd and the specification don't know them."""
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
_XZ_MAGIC = b"\xfd7zXZ\0"
_BZIP2_MAGIC = b"BZh"
# the first block, or the end of an empty file: the three letters alone may also begin a file name
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
SNIFF_SIZE = 10
"""Number of bytes that ``sniff`` needs."""
_SKIPPABLE = struct.Struct("<II")
"""Header of a skippable frame: magic number and length of the rest (RFC 8878, 3.1.2)."""


class Decoder(Protocol):
    @property
    def compression(self) -> str:
        """One of ``COMPRESSIONS`` or ``READ_ONLY``."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what this chunk decompresses to, in pieces. Raises InvalidLayer for corrupt data."""
        ...

    def finish(self) -> None:
        """Check the end. Raises InvalidLayer if the stream is not complete."""
        ...


class Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def check_inflated(compression: str, inflated: int, fed: int, most: int) -> None:
    """Raise LimitExceeded for a decompression bomb: more than ``most`` bytes, or more than ``compression`` can
    produce from ``fed`` bytes.

    Deflate produces at most 1032 bytes from each input byte. The others have no such bound (zstd reaches 31,000 for
    zeros): for them ``most`` and the free disk space are the limits.
    """
    if inflated > most or (compression in ("gzip", "none") and inflated > fed * 1032 + (1 << 20)):
        raise LimitExceeded(
            f"its {fed} bytes decompress to more than {inflated} bytes",
            hint="raise the setting max_layer if you trust the image; the layer may be a decompression bomb",
        )


def sniff(start: bytes) -> str:
    """Detect the compression from the first ``SNIFF_SIZE`` bytes. A skippable zstd frame counts as zstd."""
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    if start.startswith(_ZSTD_MAGIC) or (len(start) >= 4 and _is_skippable(start, 0)):
        return "zstd"
    if start.startswith(_XZ_MAGIC):
        return "xz"
    if start.startswith(_BZIP2_MAGIC) and start[4:SNIFF_SIZE] in _BZIP2_BLOCKS:
        return "bzip2"
    return "none"


def _is_skippable(data: bytes, at: int) -> bool:
    """Whether a skippable zstd frame begins at ``at``: 0x184D2A50 to 0x184D2A5F, little-endian."""
    return data[at] >> 4 == 5 and data.startswith(_SKIPPABLE_MAGIC, at + 1)


def decoder(compression: str) -> Decoder:
    """Return a decoder. Raises Unsupported for an unknown compression."""
    if compression == "gzip":
        return GzipDecoder()
    if compression == "zstd":
        return ZstdDecoder()
    if compression == "none":
        return PlainDecoder()
    if compression in READ_ONLY:
        from lamina.layer import bzip2_xz

        return bzip2_xz.decoder(compression)
    known = ", ".join(COMPRESSIONS + READ_ONLY)
    raise Unsupported(f"unknown compression {compression!r:.60}", hint=f"use {known}")


def encoder(compression: str, level: int | None = None) -> Encoder:
    """Return an encoder. ``level``: gzip 0 to 3 (default 1), zstd -7 to 19 (default 3). Raises UsageError,
    Unsupported."""
    if compression == "gzip":
        from isal import isal_zlib

        if level is not None and not 0 <= level <= 3:
            raise UsageError(f"gzip level {level} is not supported", hint="use 0 (fast) to 3 (small)")
        gzip_with_empty_header = 31
        made: Encoder = isal_zlib.compressobj(
            1 if level is None else level, isal_zlib.DEFLATED, gzip_with_empty_header
        )
        return made
    if compression == "zstd":
        if level is not None and not -7 <= level <= 19:
            raise UsageError(f"zstd level {level} is not supported", hint="use -7 (fast) to 19 (small)")
        packed: Encoder = zstd().ZstdCompressor(level=3 if level is None else level)
        return packed
    if compression == "none":
        return _PlainEncoder()
    raise Unsupported(f"unknown compression {compression!r:.60}", hint="use " + ", ".join(COMPRESSIONS))


def layer_decoder(layer: Descriptor, diff_id: Digest | None) -> Decoder:
    """Return a decoder for a layer's blob; ``diff_id`` is the digest of its tar, or None if it is not known."""
    if layer.digest == diff_id:
        return PlainDecoder()
    return SniffingDecoder(mediatype.compression(layer.media_type) or "none")


class PlainDecoder:
    compression = "none"

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data

    def finish(self) -> None:
        """Do nothing: a plain stream has no end of its own; the tar parser checks for completeness."""


class _PlainEncoder:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class GzipDecoder(WindowedDecoder):
    """A decoder for gzip (RFC 1952). Members follow each other; zeros after the last are padding, anything else is an
    error."""

    compression = "gzip"

    def __init__(self) -> None:
        from isal import isal_zlib

        self._zlib: Any = isal_zlib
        self._error: Any = isal_zlib.error
        self._member: Any = None
        self._rest = b""  # too few bytes to tell whether a member begins

    def has_begun(self) -> None:
        """Note that the first member of the stream was read elsewhere."""
        self._seen = max(self._seen, 1)

    def _decode(self, data: bytes) -> Generator[bytes, None, bytes]:
        if self._member is None:
            data = self._rest + data
            self._rest = b""
            if self._seen:
                data = data.lstrip(b"\0")
            if len(data) < 2 and _GZIP_MAGIC.startswith(data):
                self._rest = data
                return b""
            if not data.startswith(_GZIP_MAGIC):
                raise InvalidLayer(
                    "garbage after the gzip data" if self._seen else "not gzip data",
                    hint="fetch the blob again: it is damaged, or its media type is wrong",
                )
            self._member = self._zlib.decompressobj(31)
            self._seen += 1
        member = self._member
        try:
            piece = member.decompress(data, PIECE)
            while piece:
                yield piece
                piece = b"" if member.eof else member.decompress(member.unconsumed_tail, PIECE)
        except self._error as error:
            raise InvalidLayer(f"corrupt gzip data: {error}", hint="fetch the blob again") from None
        if not member.eof:
            return b""
        self._member = None
        rest: bytes = member.unused_data
        return rest

    def finish(self) -> None:
        if self._member is not None or self._rest or not self._seen:
            raise InvalidLayer("the gzip data ends too early", hint="fetch the blob again: it is truncated")


class ZstdDecoder(WindowedDecoder):
    """A decoder for zstd (RFC 8878). Frames follow each other, skippable ones among them. Skippable frames are parsed
    here: a decompressor for each would cost five times as much as a gzip member."""

    compression = "zstd"

    def __init__(self) -> None:
        self._module = zstd()
        self._frame: Any = None
        self._rest = b""  # too few bytes to tell what frame begins
        self._skip = 0  # bytes of a skippable frame that are still to come

    def _decode(self, data: bytes) -> Generator[bytes, None, bytes]:
        if self._frame is None:
            data = self._behind_skippable(data)
            if not data:
                return b""
            self._begins(len(data))
            self._frame = self._module.ZstdDecompressor()
            self._seen += 1
        frame = self._frame
        try:
            piece = frame.decompress(data, max_length=PIECE)
            while True:
                if piece:
                    yield piece
                if frame.eof or frame.needs_input:
                    break
                piece = frame.decompress(b"", max_length=PIECE)
        except self._module.ZstdError as error:
            raise InvalidLayer(f"corrupt zstd data: {error}", hint="fetch the blob again") from None
        if not frame.eof:
            return b""
        self._frame = None
        rest: bytes = frame.unused_data
        return rest

    def _behind_skippable(self, data: bytes) -> bytes:
        """Return ``data`` without leading skippable frames: empty, or beginning with a complete magic number."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        while True:
            step = min(self._skip, end - at)
            at += step
            self._skip -= step
            if self._skip:
                return b""
            skippable = end - at >= 4 and _is_skippable(data, at)
            if end - at < (_SKIPPABLE.size if skippable else 4):
                self._rest = data[at:]
                return b""
            if not skippable:
                return data[at:]
            self._skip = _SKIPPABLE.unpack_from(data, at)[1]
            at += _SKIPPABLE.size
            self._seen += 1

    def _begins(self, left: int) -> None:
        """Hook for subclasses: a frame begins, ``left`` bytes before the end of the current piece."""

    def finish(self) -> None:
        if self._frame is not None or self._rest or self._skip or not self._seen:
            raise InvalidLayer("the zstd data ends too early", hint="fetch the blob again: it is truncated")


class SniffingDecoder:
    """A decoder that detects the compression from the first bytes; ``said`` counts if they show nothing. Media types
    of layers are often wrong, because tools copy them; the diff_id verifies the result.

    Don't use it for a layer that is known to be a plain tar: the first name in it may begin with any bytes.
    """

    def __init__(self, said: str, make: Callable[[str], Decoder] = decoder) -> None:
        self.compression = said
        self._make = make
        self._start = b""  # too few bytes to detect the compression
        self.chosen: Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.chosen is None:
            data = self._start + data
            shown = _shown(data, self.compression)
            if not shown:
                self._start = data
                return
            self._choose(shown)
        assert self.chosen is not None
        yield from self.chosen.feed(data)

    def finish(self) -> None:
        if self.chosen is None:
            if self._start and self.compression == "none":
                raise InvalidLayer(
                    f"{len(self._start)} bytes are not a tar archive", hint="fetch the blob again: it is truncated"
                )
            for _ in self._choose(self.compression).feed(self._start):
                pass  # it raises: the bytes do not begin a stream
        assert self.chosen is not None
        self.chosen.finish()

    def _choose(self, compression: str) -> Decoder:
        self.compression = compression
        self._start = b""
        self.chosen = self._make(compression)
        return self.chosen


def _shown(start: bytes, said: str) -> str:
    """Detect the compression of a layer from its first bytes; "" if more bytes are needed."""
    found = sniff(start)
    if found != "none":
        return found
    if len(start) < SNIFF_SIZE:
        return ""
    if said == "none":
        return said
    if len(start) < tarheader.BLOCK:
        return ""
    return "none" if tarheader.is_header(start[: tarheader.BLOCK]) else said


def zstd() -> Any:
    """Import the zstd module: the standard library's if there is one."""
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module
