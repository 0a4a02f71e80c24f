"""Kernel images: which files of an image may be one, and what their headers say (pure)."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable

from lamina.errors import InvalidContent
from lamina.light import Value

HEAD = 0x11000
"""So many bytes of a kernel image are enough for ``parse_kernel``."""
X86_MAGIC, X86_MAGIC_AT = b"HdrS", 0x202
_X86_VERSION_AT = 0x20E
_X86_SECTORS_AT, _X86_SIZE_AT = 0x1F1, 0x1F4
_SLACK = 4096
"""Some builds count bytes that are not in the file."""
_X86_FROM = 0x200  # the version's address is relative to this
_ARM64_MAGIC, _ARM64_MAGIC_AT = b"ARM\x64", 56
_RISCV_MAGIC, _RISCV_MAGIC_AT = b"RSC\x05", 56
_S390_MAGIC, _S390_MAGIC_AT = b"S390EP", 0x10008
GZIP, ZBOOT = b"\x1f\x8b", (b"MZ", b"zimg")
_PE_AT = 0x3C  # where the address of the PE header is
_PE_MACHINES = {0xAA64: "arm64", 0x5064: "riscv64", 0x8664: "amd64"}
ELF = b"\x7fELF"
_ELF_MACHINES = {0x3E: "amd64", 0xB7: "arm64", 0xF3: "riscv64", 0x15: "ppc64le", 0x16: "s390x"}
_RELEASE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.+~-]{0,63}")  # a part of paths; uname(2) has 64 bytes
_OPTION = re.compile(r"^CONFIG_(\w+)=(.*?)\r?$", re.MULTILINE)
_IN_BOOT = re.compile(r"boot/(?:vmlinuz|vmlinux|Image)(?:-(.+))?")
_NOT_KERNELS = (".old", ".rescue", ".sig", ".hmac", ".gz", ".xz", ".zst", ".bak", ".efi.signed")
_RESCUE = "0-rescue"
_IN_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(?:vmlinuz|vmlinux|Image)")


class Kernel(Value):
    """``architecture``: as in platforms. ``release``: as `uname -r` prints it, the name of its directory in
    /lib/modules. Both are "" where the file doesn't say it."""

    architecture: str
    release: str = ""


def parse_kernel(head: bytes, name: str = "the kernel") -> Kernel:
    """Read the header of a kernel image. ``head``: its first ``HEAD`` bytes. ``name``: for errors. Raises
    InvalidContent (it is none that a machine can start)."""
    found = _parsed(head)
    if found is None and head[:2] == GZIP:  # arm64 and riscv64 come so
        found = _parsed(_inflated(head))
    if found is None:
        raise InvalidContent(
            f"{name} is not a kernel image", hint="give a vmlinuz or an Image; `lamina pack --kernel` reads packages"
        )
    return found


def _parsed(head: bytes) -> Kernel | None:
    if head[X86_MAGIC_AT : X86_MAGIC_AT + 4] == X86_MAGIC:
        (at,) = struct.unpack_from("<H", head.ljust(HEAD, b"\0"), _X86_VERSION_AT)
        words = head[at + _X86_FROM :].partition(b"\0")[0].split() if at else []
        return Kernel("amd64", words[0].decode() if words and _RELEASE.fullmatch(words[0]) else "")
    if head[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == _ARM64_MAGIC:
        return Kernel("arm64")
    if head[_RISCV_MAGIC_AT : _RISCV_MAGIC_AT + 4] == _RISCV_MAGIC:
        return Kernel("riscv64")
    if head[_S390_MAGIC_AT : _S390_MAGIC_AT + len(_S390_MAGIC)] == _S390_MAGIC:
        return Kernel("s390x")
    if (head[:2], head[4:8]) == ZBOOT and len(head) >= _PE_AT + 4:
        (at,) = struct.unpack_from("<I", head, _PE_AT)
        return Kernel(_PE_MACHINES.get(int.from_bytes(head[at + 4 : at + 6], "little"), ""))
    architecture = elf_architecture(head)
    return Kernel(architecture) if architecture else None


def is_truncated(image: bytes) -> bool:
    """Whether an x86 kernel image is shorter than its header says (setup_sects and syssize of the kernel's
    Documentation/arch/x86/boot.rst)."""
    if image[X86_MAGIC_AT : X86_MAGIC_AT + 4] != X86_MAGIC:
        return False
    (size,) = struct.unpack_from("<I", image, _X86_SIZE_AT)
    stated: int = ((image[_X86_SECTORS_AT] or 4) + 1) * 512 + size * 16
    return len(image) + _SLACK < stated


def elf_architecture(head: bytes) -> str:
    """The architecture of a 64-bit ELF file; "" for others."""
    if head[:4] != ELF or len(head) < 20 or head[4] != 2:
        return ""
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    found = _ELF_MACHINES.get(machine, "")
    return "ppc64" if (found, head[5]) == ("ppc64le", 2) else found


def _inflated(head: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return b""


def parse_config(text: bytes) -> dict[str, str]:
    """A kernel's configuration: values by option, without the prefix CONFIG_."""
    found = _OPTION.findall(text.decode("utf-8", "replace"))
    return dict(found)


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
        if match and not path.endswith(_NOT_KERNELS) and not (match[1] or "").startswith(_RESCUE):
            found.append(Found(path, match[1] or ""))
    found.sort(key=lambda one: one.path)
    found.sort(key=lambda one: (bool(one.release), in_order(one.release), one.path.startswith("boot/")), reverse=True)
    return found


def release_among(names: Collection[str], wanted: str, *, known: bool) -> str:
    """The name of the directory of modules that belongs to a kernel; "" if none does. ``wanted``: its release.
    ``known``: its header says it. A name like `vmlinuz-virt` does not tell it: then the only directory is taken, or
    the newest of this flavour."""
    if wanted in names:
        return wanted
    if known:
        return ""
    flavour = [one for one in names if wanted and one.endswith(f"-{wanted}")]
    if flavour:
        return max(flavour, key=in_order)
    return next(iter(names)) if len(names) == 1 else ""


def in_order(release: str) -> list[tuple[int, str]]:
    """A key that sorts 6.10 after 6.9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", release)]
