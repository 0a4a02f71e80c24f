"""What runs in a machine: the kernel, the shell that starts it, the program with its user and environment."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from stat import S_IMODE

from lamina.errors import NotFound, ReferenceNotFound, Unsupported, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.child import NOT_EXECUTABLE, NOT_FOUND
from lamina.run.dns import with_dns
from lamina.run.machine.initramfs import Program
from lamina.run.machine.kernel import elf_architecture
from lamina.run.machine.kernel_files import KernelFiles, kernel_at, kernel_in
from lamina.run.machine.machine import MIB
from lamina.run.network import added_hosts, hosts_file
from lamina.run.runtime import find_program
from lamina.run.spec import environment, program_paths, working_directory
from lamina.run.user import resolve_group, resolve_user
from lamina.spec.platform import Platform
from lamina.view.path import ImagePath

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from lamina.run.network import ContainerNetwork
    from lamina.run.options import ContainerOptions, Mount
    from lamina.source.stack import Stack
    from lamina.spec.image_config import ImageConfig
    from lamina.store.store import Store

_LEAST, _DEFAULT = 96 * MIB, 512 * MIB
_MAX_BUSYBOX, _MAX_ACCOUNTS = 1 << 24, 1 << 24
APPLETS = (
    *("cat", "chmod", "chown", "chroot", "cp", "dmesg", "env", "grep", "insmod", "ip", "kill", "ln"),
    *("mkdir", "mount", "mv", "poweroff", "readlink", "reboot", "rm", "setsid", "sh", "sleep", "stty"),
    *("sync", "time", "touch", "umount", "unshare"),
)
"""What the scripts of a machine call."""
_NAMES = 1 << 13  # bytes; busybox has the names of its applets in one place
_INTERPRETER = 3  # PT_INTERP (elf(5))
_ELF_HEAD = 64  # bytes


def kernel_for(store: Store, stack: Stack, image: str, wanted: str) -> KernelFiles:
    """The kernel of the image with this ``stack``, or the ``wanted`` one: a path of this host, or an image of the
    store. Raises NotFound, InvalidContent."""
    if "/" in wanted and os.path.exists(wanted):
        return kernel_at(Path(wanted))
    if wanted.startswith(("/", "./", "../")):
        raise NotFound(f"no such file: {wanted}", hint="check the path of --kernel")
    if wanted:
        try:
            stack, image = store.stack(wanted, stack.config.platform), wanted
        except ReferenceNotFound as error:
            if os.path.isfile(wanted):
                error.suggest(f"write --kernel ./{wanted} for the file in this directory")
            raise
    top = stack.first + len(stack.layers) - 1
    below = (ImagePath(stack.slice(stack.first, high)) for high in range(top - 1, stack.first - 1, -1))
    return kernel_in(ImagePath(stack), image, below)


def architecture_for(kernel: KernelFiles, config: ImageConfig, root: ImagePath, program: Program) -> str:
    """The architecture of a machine. The programs of an image decide, not its config. Raises Unsupported (the kernel
    does not run the ``program``)."""
    its = kernel.kernel.architecture or config.platform.architecture
    path = program.words[0]
    found = root / path.lstrip("/")
    if not found.is_file():  # a mount has it
        return its
    with found.open("rb") as file:
        needed = elf_architecture(file.read(_ELF_HEAD))
    if needed and needed != its:
        raise Unsupported(
            f"{kernel.shown} is for {its}, {path} of the image is for {needed}",
            hint=f"give a kernel for {needed} with --kernel",
        )
    return its


def is_native(architecture: str) -> bool:
    """Whether processors of this host run a machine's code."""
    return architecture == Platform.host().architecture


def files_for(
    wanted: ContainerOptions, hostname: str, network: ContainerNetwork, address: str = ""
) -> dict[str, bytes]:
    """Files for /etc, by name. ``network``: outside of the machine. ``address``: its own. Raises UsageError."""
    hosts = hosts_file(hostname, added_hosts(wanted, network), (address,) if address else ())
    found = {
        "hosts": hosts.encode(),
        "hostname": hostname.encode() + b"\n",
        "resolv.conf": with_dns(network.resolv, wanted.dns, wanted.dns_search, wanted.dns_options).encode(),
    }
    if wanted.no_hosts:
        del found["hosts"]
    return found


def program_for(
    root: ImagePath, wanted: ContainerOptions, config: ImageConfig, words: tuple[str, ...], hostname: str
) -> Program:
    """What the machine runs. ``words``: the command line. Raises NotFound (no such program or user), UsageError."""
    passwd, group = (_read(root / "etc" / name) for name in ("passwd", "group"))
    user = resolve_user(wanted.user or config.user, passwd, group)
    env = environment(wanted, config.env, user.home, hostname)
    cwd = working_directory(wanted, config)
    process = {"args": words, "env": env, "cwd": cwd}
    refusal = _no_program(f"the image has no program {words[0]!r:.200}")
    for path in program_paths(process):
        found = root / path.lstrip("/")
        mounted = _is_mounted(path, wanted.mounts, named="/" in words[0])
        if not mounted and found.exists() and not (found.is_file() and found.stat().st_mode & 0o111):
            refusal = _no_program(f"{path} of the image is not an executable file", NOT_EXECUTABLE)
        elif mounted or found.exists():
            added = {*user.groups, *(resolve_group(word, group) for word in wanted.groups)} - {user.gid}
            groups = (user.gid, *sorted(added))  # as in containers: its own is one of them (granted_user)
            return Program(
                (path, *words[1:]), tuple(env), cwd, user.uid, user.gid, groups, wanted.tty, wanted.interactive
            )
    raise refusal


def _is_mounted(path: str, mounts: Sequence[Mount], *, named: bool) -> bool:
    """Whether a mount may have a program, at ``path`` in the machine. ``named``: the command line has the path; else
    only what is seen from here counts."""
    for mount in sorted(mounts, key=lambda mount: -len(mount.target)):
        inner = posixpath.relpath(path, mount.target)
        if mount.kind != "tmpfs" and inner.split("/")[0] != "..":
            source = mount.source if inner == "." else os.path.join(mount.source, inner)
            return os.path.isfile(source) if mount.kind == "bind" else named
    return False


def attributes_of(root: ImagePath) -> str:
    """Mode and owner of the root directory, as ``Settings.top`` has them."""
    state = root.stat()
    return f"{S_IMODE(state.st_mode):o} {state.st_uid}:{state.st_gid}"


def _no_program(text: str, code: int = NOT_FOUND) -> NotFound:
    error = NotFound(text, hint="check the command and PATH")
    error.exit_code = code
    return error


def _read(path: ImagePath) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_MAX_ACCOUNTS)


def busybox_for(root: ImagePath, architecture: str) -> bytes:
    """A static busybox for a machine: the image's, else this host's. Raises NotFound."""
    for path in (root / "bin/busybox", root / "bin/busybox.static", root / "usr/bin/busybox"):
        if path.is_file() and path.stat().st_size < _MAX_BUSYBOX:
            data = path.read_bytes()
            if _starts_machines(data, architecture):
                return data
    for name in ("busybox", "busybox-static", "busybox.static"):
        found = find_program(name)
        if found and os.path.getsize(found) < _MAX_BUSYBOX:
            data = Path(found).read_bytes()
            if _starts_machines(data, architecture):
                return data
    if is_native(architecture):
        raise NotFound("no static busybox, which starts a machine", hint="install it (Debian: busybox-static)")
    raise NotFound(
        f"the image has no static busybox for {architecture}, which starts a machine",
        hint="use an image that has one (Debian: busybox-static)",
    )


def _starts_machines(data: bytes, architecture: str) -> bool:
    """Whether it is a static program with the names of all applets: an image may have a smaller busybox, or none."""
    names = [b"\0%s\0" % name.encode() for name in APPLETS]
    if elf_architecture(data) != architecture or not _is_static(data):
        return False
    at = data.find(names[-1])
    table = data[max(0, at - _NAMES) : at + _NAMES]  # to search the whole program for each takes 30 ms
    return at >= 0 and (all(name in table for name in names) or all(name in data for name in names))


def _is_static(data: bytes) -> bool:
    """Whether a program, a 64-bit ELF file, needs no loader: it has no PT_INTERP."""
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
