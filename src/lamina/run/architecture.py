"""Whether this host can run the program of a container."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping

from lamina.errors import Unsupported
from lamina.light import TYPE_CHECKING
from lamina.run.spec import program_paths
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from lamina.run.rootfs import Inside

HEAD = 256
"""The first bytes of a program that the kernel reads to find out how to run it (linux/binfmts.h)."""
_MAX_SCRIPTS = 5  # interpreters that are scripts themselves, one after the other (exec(2))
_ELF = b"\x7fELF"
_HEADERS = {1: (28, 4, 42), 2: (32, 8, 54)}
"""By e_ident[EI_CLASS]: the place and size of e_phoff, and the place of e_phentsize and e_phnum behind it."""
_INTERPRETER = 3  # PT_INTERP
_LITTLE = 1  # e_ident[EI_DATA]
_MACHINES = {
    3: "386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    43: "sparc64",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}


def architecture(head: bytes) -> str:
    """The architecture of the program with these first bytes, as Go names it; "" if it is not an ELF file (pure)."""
    if head[:4] != _ELF or len(head) < 20:
        return ""
    little = head[5] == _LITTLE
    number = int.from_bytes(head[18:20], "little" if little else "big")
    name = _MACHINES.get(number, f"ELF machine {number}")
    return name + "le" if little and name in ("mips", "ppc64") else name


def is_dynamic(file: BinaryIO) -> bool:
    """Whether a program is an ELF file that names a dynamic loader: it only runs with its loader and libraries."""
    head = file.read(64)
    if head[:4] != _ELF or len(head) < 64 or head[4] not in _HEADERS:
        return False
    place, width, sizes = _HEADERS[head[4]]

    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if head[5] == _LITTLE else "big")

    size, count = number(head, sizes, 2), number(head, sizes + 2, 2)
    file.seek(number(head, place, width))
    table = file.read(size * count)
    return any(number(table, at * size, 4) == _INTERPRETER for at in range(count))


def interpreter(head: bytes) -> str:
    """The interpreter in the first line of a script, "" if this is not a script (pure)."""
    if head[:2] != b"#!":
        return ""
    words = head[2:].split(b"\n", 1)[0].split()
    return os.fsdecode(words[0]) if words else ""


def check_architecture(
    process: Mapping[str, Any], inside: Inside, covered: Iterable[str] = (), host: Platform | None = None
) -> None:
    """Refuse a program of another architecture that no handler of this host's kernel (binfmt_misc) runs. The
    program decides, not the image's config, which is often wrong. A program that is not found, or that is in a
    mount (``covered``: their targets), is left to the runtime. Raises Unsupported."""
    host = host or Platform.host()
    covers = [os.path.normpath(target) for target in covered]
    for path, head in _programs(process, inside):
        if any(path == target or path.startswith(target + "/") for target in covers):
            return
        name = architecture(head)
        if name and name not in {one.architecture for one in host.candidates()} and not has_handler(head):
            raise Unsupported(
                f"{path} in the image is a program for {name}, and this host is {host.architecture}",
                hint=f"take the image for {host}, or register an emulator (package qemu-user-static)",
            )


def _programs(process: Mapping[str, Any], inside: Inside) -> Iterator[tuple[str, bytes]]:
    """The program and, where it is a script, its interpreters: their paths and first bytes."""
    for path in program_paths(process):
        head = inside.program_head(path, HEAD)
        if head is None:
            continue
        for _ in range(_MAX_SCRIPTS):
            if head is None:
                return
            yield path, head
            path = interpreter(head)
            if not path.startswith("/"):
                return
            head = inside.program_head(path, HEAD)
        return


def has_handler(head: bytes) -> bool:
    """Whether this host's kernel has a handler for a program with these first bytes. It executes a file that is
    closed with the call: a handler can't open that (ENOENT), so nothing runs; without a handler the error is
    ENOEXEC."""
    descriptor = os.memfd_create("lamina-program", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, head[:HEAD].ljust(HEAD, b"\0"))
        child = os.fork()
        if child == 0:
            number = errno.ENOEXEC
            try:
                os.execve(descriptor, ["lamina-program"], {})
            except OSError as error:
                number = error.errno or 0
            finally:
                os._exit(number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != errno.ENOEXEC
    finally:
        os.close(descriptor)
