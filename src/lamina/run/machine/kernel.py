"""Kernel images: which files of an image may be one, and what their headers say (pure)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

from lamina.errors import InvalidContent, Unsupported
from lamina.light import Value

HEAD = 0x10000
"""So many bytes of a kernel image are enough for ``parse_kernel``."""
_X86_MAGIC, _X86_MAGIC_AT = b"HdrS", 0x202
_X86_VERSION_AT, _X86_FLAGS_AT = 0x20E, 0x236
_X86_FROM = 0x200  # the version's address is relative to this
_X86_64BIT = 1  # xloadflags: XLF_KERNEL_64
_ARM64_MAGIC, _ARM64_MAGIC_AT = b"ARM\x64", 56
_RISCV_MAGIC, _RISCV_MAGIC_AT = b"RSC\x05", 56
_GZIP, _ZBOOT = b"\x1f\x8b", (b"MZ", b"zimg")
_X86_SECTORS_AT, _X86_PAYLOAD_AT = 0x1F1, 0x248
_XZ, _ZSTD, _BZIP2 = b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh"
_MAX_KERNEL = 1 << 29
_ELF = b"\x7fELF"
_ELF_MACHINES = {0x3E: "amd64", 0xB7: "arm64", 0xF3: "riscv64", 0x15: "ppc64le", 0x16: "s390x"}
_RELEASE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.+~-]{0,63}")  # a part of paths; uname(2) has 64 bytes
_IN_BOOT = re.compile(r"boot/(?:vmlinuz|vmlinux|Image)(?:-(.+))?")
_IN_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(?:vmlinuz|vmlinux|Image)")


class Kernel(Value):
    """``architecture``: as in platforms. ``release``: as `uname -r` prints it, the name of its directory in
    /lib/modules. Both are "" where the file doesn't say it."""

    architecture: str
    release: str = ""


def parse_kernel(head: bytes, name: str = "the kernel") -> Kernel:
    """Read the header of a kernel image. ``head``: its first ``HEAD`` bytes. ``name``: for errors. Raises
    InvalidContent (it is none that a machine can start)."""
    if head[_X86_MAGIC_AT : _X86_MAGIC_AT + 4] == _X86_MAGIC:
        (at,) = struct.unpack_from("<H", head, _X86_VERSION_AT)
        words = head[at + _X86_FROM :].partition(b"\0")[0].split() if at else []
        return Kernel("amd64", words[0].decode() if words and _RELEASE.fullmatch(words[0]) else "")
    if head[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == _ARM64_MAGIC:
        return Kernel("arm64")
    if head[_RISCV_MAGIC_AT : _RISCV_MAGIC_AT + 4] == _RISCV_MAGIC:
        return Kernel("riscv64")
    if head[:4] == _ELF and len(head) >= 20:
        (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
        if machine in _ELF_MACHINES:
            return Kernel(_ELF_MACHINES[machine])
    if head[:2] == _GZIP or (head[:2], head[4:8]) == _ZBOOT:  # arm64 and riscv64 come so; QEMU takes them
        return Kernel("")
    raise InvalidContent(f"{name} is not a kernel image", hint="give a vmlinuz or an Image with --kernel")


def uncompressed(image: bytes, name: str = "the kernel") -> bytes:
    """The ELF file that an x86 kernel image holds, for monitors that load nothing else (setup_sects, payload_offset
    and payload_length of the kernel's Documentation/arch/x86/boot.rst). Raises Unsupported (another form),
    InvalidContent."""
    if image[:4] == _ELF:
        return image
    if image[_X86_MAGIC_AT : _X86_MAGIC_AT + 4] != _X86_MAGIC:
        raise Unsupported(f"{name} is not an x86 kernel image", hint="give a vmlinux with --kernel")
    sectors = image[_X86_SECTORS_AT] or 4
    at, size = struct.unpack_from("<II", image, _X86_PAYLOAD_AT)
    start = (sectors + 1) * 512 + at
    payload = image[start : start + size]
    if not payload.startswith((_GZIP, _XZ, _ZSTD, _BZIP2)):
        raise Unsupported(f"the compression of {name} is unknown", hint="give a vmlinux with --kernel")
    import io

    from lamina.layer.archive_codec import archive_decoder, inflate_archive

    if not payload.startswith(_GZIP):
        payload = payload[:-4]  # the size, which gzip has itself
    with inflate_archive(archive_decoder(payload[:512]), payload, io.BytesIO(), name, _MAX_KERNEL) as file:
        file.seek(0)
        found = file.read()
    if found[:4] != _ELF:
        raise InvalidContent(f"{name} holds no ELF file", hint="give a vmlinux with --kernel")
    return found


class Found(Value):
    """A kernel of an image. ``path``: in the image. ``release``: from its name; "" if that has none."""

    path: str
    release: str


def kernels_among(paths: Iterable[str]) -> list[Found]:
    """The paths (relative) that are named as kernels, the newest release first; those in /boot before the copies that
    some distributions keep beside the modules."""
    found = []
    for path in paths:
        match = _IN_BOOT.fullmatch(path) or _IN_MODULES.fullmatch(path)
        if match and not path.endswith((".old", ".rescue", ".sig", ".hmac")):
            found.append(Found(path, match[1] or ""))
    found.sort(key=lambda one: one.path)
    found.sort(
        key=lambda one: (bool(one.release), _in_order(one.release), one.path.startswith("boot/")), reverse=True
    )
    return found


def _in_order(release: str) -> list[tuple[int, str]]:
    """A key that sorts 6.10 after 6.9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", release)]
