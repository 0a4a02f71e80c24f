"""Kernel images: what their headers say, and which of an image's files is taken."""

from __future__ import annotations

import gzip
import os
import struct

import pytest

from lamina.errors import InvalidContent
from lamina.run.machine.kernel import HEAD, Found, Kernel, is_truncated, kernels_among, parse_config, parse_kernel


def x86(version: bytes | None) -> bytes:
    head = bytearray(0x4000)
    head[0x202:0x206] = b"HdrS"
    if version is not None:
        struct.pack_into("<H", head, 0x20E, 0x3000)
        head[0x3200 : 0x3200 + len(version)] = version
    return bytes(head)


def zboot(machine: int) -> bytes:
    head = bytearray(0x100)
    head[:2], head[4:8] = b"MZ", b"zimg"
    struct.pack_into("<I", head, 0x3C, 0x40)
    struct.pack_into("<4sH", head, 0x40, b"PE\0\0", machine)
    return bytes(head)


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(64)


@pytest.mark.parametrize(
    ("head", "kernel"),
    [
        (
            x86(b"6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP\0"),
            Kernel("amd64", "6.1.0-56-cloud-amd64"),
        ),
        (x86(None), Kernel("amd64")),
        (x86(b"\0"), Kernel("amd64")),
        (x86(b"../../etc \0"), Kernel("amd64")),
        (x86(b".. \0"), Kernel("amd64")),
        (x86(b"6.1\xff \0"), Kernel("amd64")),
        (at(56, b"ARM\x64"), Kernel("arm64")),
        (at(56, b"RSC\x05"), Kernel("riscv64")),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0", Kernel("amd64")),
        (b"\x7fELF\x02\x02" + bytes(12) + b"\0\x16", Kernel("s390x")),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\x15\0", Kernel("ppc64le")),
        (b"\x7fELF\x02\x02" + bytes(12) + b"\0\x15", Kernel("ppc64")),
        (at(0x10008, b"S390EP\0\1"), Kernel("s390x")),
        (gzip.compress(at(56, b"ARM\x64") + bytes(1 << 20), mtime=0), Kernel("arm64")),
        (gzip.compress(at(56, b"ARM\x64") + os.urandom(1 << 18))[:HEAD], Kernel("arm64")),
        (zboot(0xAA64), Kernel("arm64")),
        (zboot(0x5064), Kernel("riscv64")),
        (b"MZ\0\0zimg" + bytes(100), Kernel("")),
    ],
)
def test_header(head: bytes, kernel: Kernel) -> None:
    assert parse_kernel(head) == kernel


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n",
        x86(b"6.1")[:0x203],
        b"\x7fELF\x02\x01" + bytes(14),
        b"\x7fELF\x01\x01" + bytes(12) + b"\x3e\0",  # of 32 bits
        gzip.compress(b"a file", mtime=0),
        b"\x1f\x8b" + bytes(100),
    ],
)
def test_what_is_no_kernel_is_refused(head: bytes) -> None:
    with pytest.raises(InvalidContent, match="the file is not a kernel image"):
        parse_kernel(head, "the file")


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([], []),
        (["boot/config-6.1", "boot/System.map-6.1", "boot/vmlinuz-6.1.old", "usr/bin/vmlinuz"], []),
        (
            ["boot/vmlinuz-6.9.1", "boot/vmlinuz-6.10.0", "lib/modules/6.10.0/vmlinuz", "boot/vmlinuz"],
            ["boot/vmlinuz-6.10.0", "lib/modules/6.10.0/vmlinuz", "boot/vmlinuz-6.9.1", "boot/vmlinuz"],
        ),
        (
            ["boot/vmlinuz-0-rescue-0123abcd", "boot/vmlinux-6.4.0-default.gz", "boot/vmlinuz-linux", "boot/Image"],
            ["boot/vmlinuz-linux", "boot/Image"],
        ),
        (["boot/vmlinuz-lts", "boot/vmlinuz-6.6.1-virt"], ["boot/vmlinuz-6.6.1-virt", "boot/vmlinuz-lts"]),
        (["usr/lib/modules/6.12-arch1/vmlinuz"], ["usr/lib/modules/6.12-arch1/vmlinuz"]),
    ],
)
def test_the_newest_release_comes_first(paths: list[str], found: list[str]) -> None:
    for order in (paths, paths[::-1]):
        assert [one.path for one in kernels_among(order)] == found


def test_the_release_is_in_the_name() -> None:
    assert kernels_among(["boot/vmlinuz-6.1.0-56-cloud-amd64"]) == [
        Found("boot/vmlinuz-6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64")
    ]


def test_a_configuration() -> None:
    text = b'# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C="x=y"\n# CONFIG_D=y\nCONFIG_E=m\r\n'
    assert parse_config(text) == {"B": "y", "C": '"x=y"', "E": "m"}


@pytest.mark.parametrize(("missing", "truncated"), [(0, False), (100, False), (5000, True)])
def test_a_truncated_kernel(missing: int, truncated: bool) -> None:
    image = bytearray(1 << 16)
    image[0x202:0x206] = b"HdrS"
    image[0x1F1] = 3
    image[0x1F4:0x1F8] = (((1 << 16) - 4 * 512) // 16).to_bytes(4, "little")
    assert is_truncated(bytes(image[: len(image) - missing])) is truncated
    assert not is_truncated(b"\x7fELF")
