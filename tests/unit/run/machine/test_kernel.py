"""Kernel images: what their headers say, and which of an image's files is taken."""

from __future__ import annotations

import struct

import pytest

from lamina.errors import InvalidContent
from lamina.run.machine.kernel import Found, Kernel, kernels_among, parse_kernel


def x86(version: bytes | None) -> bytes:
    head = bytearray(0x4000)
    head[0x202:0x206] = b"HdrS"
    if version is not None:
        struct.pack_into("<H", head, 0x20E, 0x3000)
        head[0x3200 : 0x3200 + len(version)] = version
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
        (b"\x1f\x8b" + bytes(100), Kernel("")),
        (b"MZ\0\0zimg" + bytes(100), Kernel("")),
    ],
)
def test_header(head: bytes, kernel: Kernel) -> None:
    assert parse_kernel(head) == kernel


@pytest.mark.parametrize(
    "head", [b"", b"\x7fELF", b"#!/bin/sh\n", x86(b"6.1")[:0x203], b"\x7fELF\x02\x01" + bytes(14)]
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
