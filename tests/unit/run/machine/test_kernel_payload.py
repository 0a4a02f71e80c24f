"""Kernel images without their compression, as monitors load them that decompress nothing."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidContent, LimitExceeded, Unsupported
from lamina.run.machine import kernel_payload
from lamina.run.machine.kernel import HEAD, parse_kernel
from lamina.run.machine.kernel_payload import plain_kernel

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ELF = b"\x7fELF" + bytes(range(256)) * 9000
IMAGE = bytes(56) + b"ARM\x64" + bytes(range(256)) * 500


def lz4(data: bytes) -> bytes:
    """The legacy frame, as the kernel's build makes it."""
    block = pytest.importorskip("lz4.block")
    pieces = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)]
    blocks = [block.compress(piece, store_size=False) for piece in pieces]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(one)) + one for one in blocks)


def x86(payload: bytes) -> bytes:
    head = bytearray(0x800)
    head[0x1F1] = 2  # sectors after the first
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 0x100, len(payload))
    return bytes(head[:0x600]) + bytes(0x100) + payload + b"what follows"


def zboot(payload: bytes) -> bytes:
    head = bytearray(HEAD)
    head[:2], head[4:8] = b"MZ", b"zimg"
    struct.pack_into("<II", head, 8, HEAD, len(payload))
    return bytes(head) + payload + b"what follows"


def with_size(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: compress(data) + struct.pack("<I", len(data))


COMPRESSIONS = {
    "gzip": gzip.compress,
    "xz": with_size(lzma.compress),
    "lzma": with_size(lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "bzip2": with_size(bz2.compress),
    "zstd": with_size(zstd.compress),
    "lz4": with_size(lz4),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_kernel_of_an_x86_image(compression: str) -> None:
    assert plain_kernel(x86(COMPRESSIONS[compression](ELF))) == ELF


def test_lz4_of_several_blocks() -> None:
    elf = ELF * 8
    assert len(elf) > 2 * (8 << 20)
    assert plain_kernel(x86(COMPRESSIONS["lz4"](elf))) == elf


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        gzip.compress(IMAGE, mtime=0),
        zboot(gzip.compress(IMAGE, mtime=0)),
        zboot(zstd.compress(IMAGE)),
        zboot(lzma.compress(IMAGE)),
    ],
)
def test_the_kernel_of_other_images(image: bytes) -> None:
    assert plain_kernel(image) == IMAGE


def test_an_elf_file_stays_as_it_is() -> None:
    assert plain_kernel(ELF) == ELF


@pytest.mark.parametrize("image", [x86(b"\x89LZO\0\r\n\x1a\n" + bytes(100)), x86(b""), zboot(b"")])
def test_an_unknown_compression(image: bytes) -> None:
    with pytest.raises(Unsupported, match="the compression of K is unknown"):
        plain_kernel(image, "K")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_damaged_payload(compression: str) -> None:
    payload = COMPRESSIONS[compression](ELF)
    for broken in (payload[: len(payload) // 2], payload[:40] + bytes(400) + payload[440:]):
        with pytest.raises(InvalidContent, match="K"):
            plain_kernel(x86(broken), "K")


def test_only_the_last_block_of_lz4_is_small() -> None:
    frame = lz4(ELF)
    with pytest.raises(InvalidContent, match="K"):
        plain_kernel(x86(frame + frame[4:] + bytes(4)), "K")


@given(
    st.sampled_from(
        [x86(gzip.compress(ELF[:9000], mtime=0)), zboot(zstd.compress(IMAGE[:9000])), ELF[:100], IMAGE[:100]]
    ),
    st.lists(st.tuples(st.integers(0, 0x280), st.integers(0, 255)), max_size=8),
    st.integers(0, 0x12000),
)
def test_any_bytes_are_a_kernel_or_refused(image: bytes, changes: list[tuple[int, int]], size: int) -> None:
    changed = bytearray(image)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    data = bytes(changed[:size])
    for read in (parse_kernel, plain_kernel):
        with contextlib.suppress(InvalidContent, Unsupported):
            read(data)


def test_what_is_inside_must_be_an_elf_file() -> None:
    with pytest.raises(InvalidContent, match="K holds no ELF file"):
        plain_kernel(x86(gzip.compress(b"text")), "K")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_payload, "MOST", 1 << 20)
    with pytest.raises(LimitExceeded):
        plain_kernel(x86(COMPRESSIONS[compression](bytes(20 << 20))), "K")


def test_lz4_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = lz4(ELF)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(Unsupported, match="K is compressed with LZ4") as caught:
        plain_kernel(x86(payload), "K")
    assert caught.value.hint == "install lamina[boot]"
