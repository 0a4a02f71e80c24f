"""Compression of layers: gzip (many members), zstd (many frames), none. bzip2 and xz are read too (``streams``), as
docker and podman do: old archives hold them, under any media type.

A decoder gives its output in pieces of at most 1 MiB, so that a bomb never sits in memory whole. Encoders write
neither name nor time: the bytes depend on the input and the library's version only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

from lamina.errors import InvalidLayer, LimitExceeded, Unsupported, UsageError
from lamina.layer import tarheader
from lamina.layer.pieces import PIECE, ManyPieces
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

COMPRESSIONS = ("gzip", "zstd", "none")
"""What layers are written with."""
ODD = ("bzip2", "xz")
"""What layers are only read with: containerd and the specification know them not."""
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f
_XZ_MAGIC = b"\xfd7zXZ\0"
_BZIP2_MAGIC = b"BZh"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # a first block, or none: three letters alone begin names of files too
SHOWS = 10
"""Bytes that ``sniff`` needs."""
_SKIPPABLE = struct.Struct("<II")
"""A skippable frame's head: the magic number and the length of what follows (RFC 8878, 3.1.2)."""


class Decoder(Protocol):
    @property
    def compression(self) -> str:
        """One of ``COMPRESSIONS``, or of ``ODD``."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompressed pieces of what this chunk adds. Raises InvalidLayer for corrupt data."""
        ...

    def finish(self) -> None:
        """Raises InvalidLayer where the stream is not at its end."""
        ...


class Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def check_inflated(compression: str, inflated: int, fed: int, most: int) -> None:
    """Raise LimitExceeded for a bomb: more than ``most`` bytes, or more than ``compression`` can honestly give.

    Deflate gives at most 1032 bytes for each byte of input. The others have no such bound (zstd's zeros reach
    31,000): there ``most`` and the free disk are the limits.
    """
    if inflated > most or (compression in ("gzip", "none") and inflated > fed * 1032 + (1 << 20)):
        raise LimitExceeded(
            f"it unpacks to more than {inflated} bytes from {fed}",
            hint="refused as a bomb; raise max_layer if it is a layer that is meant so",
        )


def sniff(start: bytes) -> str:
    """The compression that the first ``SHOWS`` bytes show; skippable zstd frames count as zstd."""
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    if start.startswith(_ZSTD_MAGIC) or (len(start) >= 4 and _is_skippable(start, 0)):
        return "zstd"
    if start.startswith(_XZ_MAGIC):
        return "xz"
    if start.startswith(_BZIP2_MAGIC) and start[4:SHOWS] in _BZIP2_BLOCKS:
        return "bzip2"
    return "none"


def _is_skippable(data: bytes, at: int) -> bool:
    """Whether a skippable zstd frame begins there: 0x184D2A50 to 0x184D2A5F, little-endian."""
    return data[at] >> 4 == 5 and data.startswith(_SKIPPABLE_MAGIC, at + 1)


def decoder(compression: str) -> Decoder:
    """Raises Unsupported for a compression that is not known."""
    if compression == "gzip":
        return GzipDecoder()
    if compression == "zstd":
        return ZstdDecoder()
    if compression == "none":
        return PlainDecoder()
    if compression in ODD:
        from lamina.layer import streams

        return streams.decoder(compression)
    raise Unsupported(f"compression {compression!r:.60} is not known", hint="known: " + ", ".join(COMPRESSIONS + ODD))


def encoder(compression: str, level: int | None = None) -> Encoder:
    """``level``: gzip 0 to 3 (default 1), zstd -7 to 19 (default 3). Raises UsageError, Unsupported."""
    if compression == "gzip":
        from isal import isal_zlib

        if level is not None and not 0 <= level <= 3:
            raise UsageError(f"gzip level {level} is not known", hint="0 (fast) to 3 (small)")
        gzip_with_empty_header = 31
        made: Encoder = isal_zlib.compressobj(
            1 if level is None else level, isal_zlib.DEFLATED, gzip_with_empty_header
        )
        return made
    if compression == "zstd":
        if level is not None and not -7 <= level <= 19:
            raise UsageError(f"zstd level {level} is not known", hint="-7 (fast) to 19 (small)")
        packed: Encoder = zstd().ZstdCompressor(level=3 if level is None else level)
        return packed
    if compression == "none":
        return _PlainEncoder()
    raise Unsupported(f"compression {compression!r:.60} is not known", hint="known: " + ", ".join(COMPRESSIONS))


def inflating(layer: Descriptor, diff_id: Digest | None) -> Decoder:
    """A decoder for a layer's blob that is to unpack to ``diff_id`` (None: not known)."""
    if layer.digest == diff_id:
        return PlainDecoder()
    return SniffingDecoder(mediatype.compression(layer.media_type) or "none")


class PlainDecoder:
    compression = "none"

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data

    def finish(self) -> None:
        """A plain stream ends where it ends; the tar in it says whether it is whole."""


class _PlainEncoder:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class GzipDecoder(ManyPieces):
    """RFC 1952: members follow each other; zeros after the last are padding, anything else is an error."""

    compression = "gzip"

    def __init__(self) -> None:
        from isal import isal_zlib

        self._zlib: Any = isal_zlib
        self._error: Any = isal_zlib.error
        self._member: Any = None
        self._rest = b""  # too few bytes to say whether a member begins

    def has_begun(self) -> None:
        """The stream's first member was read elsewhere."""
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
                    hint="the blob is damaged or its media type is wrong",
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
            raise InvalidLayer("the gzip data ends too early", hint="the blob is truncated: fetch it again")


class ZstdDecoder(ManyPieces):
    """RFC 8878: frames follow each other, skippable ones among them. These are read here: to make a decompressor for
    each costs five times what a gzip member does."""

    compression = "zstd"

    def __init__(self) -> None:
        self._module = zstd()
        self._frame: Any = None
        self._rest = b""  # too few bytes to say what frame begins
        self._skip = 0  # bytes of a skippable frame still to come

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
        """What is left of ``data`` behind skippable frames: empty, or it begins with a whole magic number."""
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
        """A frame begins, ``left`` bytes before the end of the piece at hand."""

    def finish(self) -> None:
        if self._frame is not None or self._rest or self._skip or not self._seen:
            raise InvalidLayer("the zstd data ends too early", hint="the blob is truncated: fetch it again")


class SniffingDecoder:
    """Decodes what its first bytes show, and what ``said`` says where they show nothing. Media types of layers are
    often wrong (tools copied them from elsewhere); what comes out is proved by the layer's diff_id.

    Not for a layer that is known to be a plain tar: its first name may begin with any bytes.
    """

    def __init__(self, said: str, make: Callable[[str], Decoder] = decoder) -> None:
        self.compression = said
        self._make = make
        self._start = b""  # too few bytes to say what this is
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
                    f"{len(self._start)} bytes are not a tar archive", hint="the blob is truncated: fetch it again"
                )
            for _ in self._choose(self.compression).feed(self._start):
                pass  # it raises: these are not its first bytes
        assert self.chosen is not None
        self.chosen.finish()

    def _choose(self, compression: str) -> Decoder:
        self.compression = compression
        self._start = b""
        self.chosen = self._make(compression)
        return self.chosen


def _shown(start: bytes, said: str) -> str:
    """The compression of a layer by its first bytes; "" where more of them are needed."""
    found = sniff(start)
    if found != "none":
        return found
    if len(start) < SHOWS:
        return ""
    if said == "none":
        return said
    if len(start) < tarheader.BLOCK:
        return ""
    return "none" if tarheader.is_header(start[: tarheader.BLOCK]) else said


def zstd() -> Any:
    """The module: of the standard library where it has one."""
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module
