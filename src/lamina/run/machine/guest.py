"""What runs in a machine: the kernel, the shell that starts it, the program with its user and environment."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.errors import NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.child import NOT_FOUND
from lamina.run.dns import with_dns
from lamina.run.machine.initramfs import Program
from lamina.run.machine.kernel_files import KernelFiles, kernel_at, kernel_in
from lamina.run.machine.machine import GUEST_ADDRESS, MIB, RESOLVER
from lamina.run.network import hosts_file
from lamina.run.runtime import find_program
from lamina.run.spec import environment, program_paths, working_directory
from lamina.run.user import resolve_group, resolve_user
from lamina.spec.platform import Platform
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from typing import Literal

    from lamina.run.options import ContainerOptions
    from lamina.spec.image_config import ImageConfig
    from lamina.store.store import Store

_LEAST, _DEFAULT = 96 * MIB, 512 * MIB
_MAX_BUSYBOX = 1 << 24
_INTERPRETER = 3  # PT_INTERP (elf(5))


def kernel_for(store: Store, root: ImagePath, image: str, wanted: str) -> KernelFiles:
    """The kernel of the image with this ``root``, or the ``wanted`` one: a path of this host, or an image of the
    store. Raises NotFound, InvalidContent."""
    if not wanted:
        return kernel_in(root, image)
    if "/" in wanted and os.path.exists(wanted):
        return kernel_at(Path(wanted))
    return kernel_in(ImagePath(store.stack(wanted, Platform.host())), wanted)


def files_for(wanted: ContainerOptions, hostname: str, *, networked: bool) -> dict[str, bytes]:
    """Files for /etc, by name."""
    own = f"nameserver {RESOLVER}\n" if networked else ""
    addresses = (GUEST_ADDRESS.partition("/")[0],) if networked else ()
    return {
        "hosts": hosts_file(hostname, wanted.add_hosts, addresses).encode(),
        "hostname": hostname.encode() + b"\n",
        "resolv.conf": with_dns(own, wanted.dns, wanted.dns_search, wanted.dns_options).encode(),
    }


def program_for(
    root: ImagePath, wanted: ContainerOptions, config: ImageConfig, words: tuple[str, ...], hostname: str
) -> Program:
    """What the machine runs. ``words``: the command line. Raises NotFound (no such program or user), UsageError."""
    passwd, group = (_read(root / "etc" / name) for name in ("passwd", "group"))
    user = resolve_user(wanted.user or config.user, passwd, group)
    env = environment(wanted, config.env, user.home, hostname)
    cwd = working_directory(wanted, config)
    process = {"args": words, "env": env, "cwd": cwd}
    for path in program_paths(process):
        found = root / path.lstrip("/")
        if found.is_file():
            if not found.stat().st_mode & 0o111:
                raise _no_program(f"{path} of the image may not be executed")
            added = {*user.groups, *(resolve_group(word, group) for word in wanted.groups)} - {user.gid}
            groups = (user.gid, *sorted(added))  # as in containers: its own is one of them (granted_user)
            return Program(
                (path, *words[1:]), tuple(env), cwd, user.uid, user.gid, groups, wanted.tty, wanted.interactive
            )
    raise _no_program(f"the image has no program {words[0]!r:.200}")


def _no_program(text: str) -> NotFound:
    error = NotFound(text, hint="check the command and PATH")
    error.exit_code = NOT_FOUND
    return error


def _read(path: ImagePath) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def busybox_for(root: ImagePath) -> bytes:
    """A static busybox: the image's, else this host's. Raises NotFound."""
    for path in (root / "bin/busybox", root / "usr/bin/busybox"):
        if path.is_file():
            data = path.read_bytes()
            if _is_static(data):
                return data
    for name in ("busybox", "busybox-static", "busybox.static"):
        found = find_program(name)
        if found and os.path.getsize(found) < _MAX_BUSYBOX:
            data = Path(found).read_bytes()
            if _is_static(data):
                return data
    raise NotFound("no static busybox, which starts a machine", hint="install it (Debian: busybox-static)")


def _is_static(data: bytes) -> bool:
    """Whether a program needs no loader: its ELF file has no PT_INTERP."""
    if data[:4] != b"\x7fELF" or data[4] != 2:
        return False
    order: Literal["little", "big"] = "little" if data[5] == 1 else "big"
    offset, size, count = (int.from_bytes(data[at:end], order) for at, end in ((32, 40), (54, 56), (56, 58)))
    heads = range(offset, offset + size * count, size) if size else ()
    return all(int.from_bytes(data[at : at + 4], order) != _INTERPRETER for at in heads)


def memory_of(asked: int | None) -> int:
    """Raises UsageError."""
    if asked is None:
        return _DEFAULT
    if asked < _LEAST:
        raise UsageError(f"a machine needs {_LEAST >> 20} MiB of memory at least", hint="give more with --memory")
    return asked
