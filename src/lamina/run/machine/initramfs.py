"""The initramfs of a machine: kernel modules, a static shell, and what the machine is to do."""

from __future__ import annotations

import shlex
from importlib import resources

from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.cpio import Member, archive, character_device, directory, file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DIRECTORIES = ("dev", "proc", "sys", "layers", "upper", "root", "lamina", "lamina/modules")


class Program(Value):
    """What a machine runs. ``words``: the first is an absolute path in the machine. ``terminal``: it has one."""

    words: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    terminal: bool = False


class Settings(Value):
    """``devices``: the disks with the layers' tars. ``upper``: a disk with ext4, "" for memory. ``network``: address
    with length, and gateway; () for none. ``files``: for /etc, by name. ``mounts``: what, type, options and target of
    further mounts. ``setpriv``: the path of util-linux's in the machine, "" for none. ``ending``: poweroff, or
    reboot where that is what ends a machine (Firecracker)."""

    hostname: str
    devices: tuple[str, ...]
    upper: str = ""
    network: tuple[str, ...] = ()
    files: Mapping[str, bytes] = {}
    mounts: tuple[tuple[str, str, str, str], ...] = ()
    setpriv: str = ""
    ending: str = "poweroff"


def initramfs(
    busybox: bytes, modules: Sequence[tuple[str, bytes]], settings: Settings, program: Program
) -> Iterator[bytes]:
    """Yield the archive. ``busybox``: a static program. ``modules``: in the order in which they are loaded."""
    return archive(_members(busybox, modules, settings, program))


def _members(
    busybox: bytes, modules: Sequence[tuple[str, bytes]], settings: Settings, program: Program
) -> Iterator[Member]:
    for name in _DIRECTORIES:
        yield directory(name)
    yield character_device("dev/console", 5, 1)  # the kernel opens it for the first process
    yield character_device("dev/null", 1, 3, 0o666)
    yield file("lamina/busybox", busybox, 0o755)
    yield file("init", _script("init.sh"), 0o755)
    yield file("lamina/machine.sh", _script("machine.sh"))
    yield file("lamina/settings.sh", _settings([name for name, _ in modules], settings, program))
    yield file("lamina/program.sh", _program(settings, program))
    mounts = ("mounted " + " ".join(map(shlex.quote, one)) + "\n" for one in settings.mounts)
    yield file("lamina/mounts.sh", "".join(mounts).encode("utf-8", "surrogateescape"))
    for name, content in settings.files.items():
        yield file(f"lamina/{name}", content)
    for name, content in modules:
        yield file(f"lamina/modules/{name}.ko", content)


def _script(name: str) -> bytes:
    return resources.files(__package__ or "lamina.run.machine").joinpath(name).read_bytes()


def _settings(modules: Sequence[str], settings: Settings, program: Program) -> bytes:
    values = {
        "modules": " ".join(modules),
        "devices": " ".join(settings.devices),
        "upper": settings.upper or "memory",
        "hostname": settings.hostname,
        "network": " ".join(settings.network),
        "files": " ".join(settings.files),
        "uid": str(program.uid),
        "gid": str(program.gid),
        "terminal": "yes" if program.terminal else "",
        "made": "",
        "out": "",
        "ending": settings.ending,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()


def _program(settings: Settings, program: Program) -> bytes:
    """A script that becomes the program, as its user, with its environment."""
    busybox = "/run/lamina/busybox"
    words: list[str] = []
    if program.groups and settings.setpriv:
        groups = ",".join(map(str, program.groups))
        words += [settings.setpriv, f"--reuid={program.uid}", f"--regid={program.gid}", f"--groups={groups}", "--"]
    elif program.uid or program.gid:
        words += [busybox, "nsenter", f"-S{program.uid}", f"-G{program.gid}", "--"]
    words += [busybox, "env", "-i", *program.env, *program.words]
    line = " ".join(shlex.quote(word) for word in words)
    return f"cd {shlex.quote(program.cwd)} || exit 126\nexec {line}\n".encode("utf-8", "surrogateescape")
