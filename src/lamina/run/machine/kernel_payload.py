"""The kernel inside a kernel image, for monitors that decompress nothing: an ELF file on x86, an Image elsewhere."""

from __future__ import annotations

import io
import struct

from lamina.errors import InvalidContent, LimitExceeded, Unsupported
from lamina.run.machine.kernel import ELF, GZIP, X86_MAGIC, X86_MAGIC_AT, ZBOOT

MOST = 1 << 28
"""Bytes of a kernel, compressed or not."""
_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248  # setup_sects, payload_offset and payload_length (arch/x86/boot.rst)
_SECTOR = 512
_ZBOOT_PAYLOAD_AT = 8  # offset and size (zboot-header.S)
_LZ4 = b"\x02\x21\x4c\x18"  # the legacy frame: blocks, each after its compressed size
_LZ4_BLOCK = 8 << 20
_KNOWN = (GZIP, b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh", b"\x5d\0\0", _LZ4)
_SIZE = 4  # bytes after the payload, which say how large it is inflated; gzip has that itself
_HINT = "give a vmlinux with --kernel"


def plain_kernel(image: bytes, name: str = "the kernel") -> bytes:
    """The kernel without its compression and the program that inflates it; what is plain already is returned as it
    is. Raises Unsupported (an unknown compression), InvalidContent, LimitExceeded."""
    if image[X86_MAGIC_AT : X86_MAGIC_AT + 4] == X86_MAGIC and len(image) >= _PAYLOAD_AT + 8:
        at, size = struct.unpack_from("<II", image, _PAYLOAD_AT)
        start = ((image[_SECTORS_AT] or 4) + 1) * _SECTOR + at
        payload = image[start : start + size]
        found = _inflated(payload if payload.startswith(GZIP) else payload[:-_SIZE], name)
        if found[:4] != ELF:
            raise InvalidContent(f"{name} holds no ELF file", hint=_HINT)
        return found
    if (image[:2], image[4:8]) == ZBOOT and len(image) >= _ZBOOT_PAYLOAD_AT + 8:
        at, size = struct.unpack_from("<II", image, _ZBOOT_PAYLOAD_AT)
        return _inflated(image[at : at + size], name)
    return _inflated(image, name) if image.startswith(GZIP) else image


def _inflated(payload: bytes, name: str) -> bytes:
    if not payload.startswith(_KNOWN):
        raise Unsupported(f"the compression of {name} is unknown", hint=_HINT)
    if payload.startswith(_LZ4):
        return _inflated_lz4(payload, name)
    from lamina.layer.archive_codec import archive_decoder, inflate_archive

    try:
        with inflate_archive(archive_decoder(payload[:_SECTOR]), payload, io.BytesIO(), name, MOST) as file:
            file.seek(0)
            return file.read()
    except LimitExceeded:
        raise
    except InvalidContent as error:
        raise _damaged(name) from error


def _inflated_lz4(payload: bytes, name: str) -> bytes:
    try:
        from lz4.block import LZ4BlockError, decompress
    except ImportError:
        raise Unsupported(f"{name} is compressed with LZ4", hint="install lamina[boot]") from None
    pieces: list[bytes] = []
    left, at = MOST, len(_LZ4)
    while at < len(payload):
        size = int.from_bytes(payload[at : at + _SIZE], "little")
        block = payload[at + _SIZE : at + _SIZE + size]
        at += _SIZE + size
        try:
            if not size or len(block) < size or (pieces and len(pieces[-1]) < _LZ4_BLOCK):
                raise _damaged(name)  # only the last block is smaller
            pieces.append(decompress(block, uncompressed_size=_LZ4_BLOCK))
        except LZ4BlockError as error:
            raise _damaged(name) from error
        left -= len(pieces[-1])
        if left < 0:
            raise LimitExceeded(f"{name} inflates to more than {MOST >> 20} MiB", hint=_HINT)
    return b"".join(pieces)


def _damaged(name: str) -> InvalidContent:
    return InvalidContent(f"the compressed part of {name} is damaged", hint="get the kernel again")
