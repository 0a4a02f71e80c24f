"""The initramfs of a machine: kernel modules, a static shell, and what the machine is to do."""

from __future__ import annotations

import shlex
from importlib import resources

from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.cpio import Member, archive, character_device, directory, fifo, file
from lamina.run.machine.entering import entering

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SCRIPTS = ("machine.sh", "enter.sh", "program.sh")
_STARTING, _LAMINA = 7, 8  # descriptors in program.sh
_DIRECTORIES = ("dev", "proc", "sys", "layers", "upper", "root", "lamina", "lamina/modules")
_PIPES = ("nothing", "starting", "out", "err")
_TERMINAL = {"ppc64le": "hvc1"}  # the first one is its console


class Program(Value):
    """What a machine runs. ``words``: the first is an absolute path in the machine. ``terminal``: it has one.
    ``interactive``: it gets the host's standard input."""

    words: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    terminal: bool = False
    interactive: bool = False


class Settings(Value):
    """``architecture``: of the kernel. ``union``: the disk with the metadata. ``devices``: the disks with the layers'
    tars. ``upper``: a disk with ext4, "" for memory. A disk is a path in the machine or a serial number: where disks
    appear in any order, as on s390x, only that tells which is which. ``network``: address with length, and gateway;
    () for none. ``files``: for /etc, by name. ``mounts``: what, type, options and target of further mounts.
    ``token``: what the machine writes after the program's output; "" where it has no ports, only a console.
    ``ending``: poweroff, or reboot where that is what ends a machine (Firecracker). ``read_only``: the program
    can't write to the root file system. ``top``: mode and owner of the root directory."""

    hostname: str
    architecture: str
    union: str
    devices: tuple[str, ...]
    upper: str = ""
    network: tuple[str, ...] = ()
    files: Mapping[str, bytes] = {}
    mounts: tuple[tuple[str, str, str, str], ...] = ()
    token: str = ""
    ending: str = "poweroff"
    read_only: bool = False
    top: str = "755 0:0"


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
    for name in _PIPES:
        yield fifo(f"lamina/{name}")
    yield file("lamina/busybox", busybox, 0o755)
    yield file("init", _script("init.sh"), 0o755)
    for name in _SCRIPTS:
        yield file(f"lamina/{name}", _script(name))
    yield file("lamina/settings.sh", _settings([name for name, _ in modules], settings, program))
    yield file("lamina/command.sh", _command(program, controlling=program.terminal or not settings.token))
    yield file("lamina/enter", _enter(settings.architecture, program), 0o755)
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
        "union": settings.union,
        "devices": " ".join(settings.devices),
        "upper": settings.upper or "memory",
        "top": settings.top,
        "hostname": settings.hostname,
        "network": " ".join(settings.network),
        "files": " ".join(settings.files),
        "uid": str(program.uid),
        "gid": str(program.gid),
        "interactive": "yes" if program.interactive else "",
        "terminal": _TERMINAL.get(settings.architecture, "hvc0") if program.terminal else "",
        "shared": "yes" if any(kind == "shared" for _, kind, *_ in settings.mounts) else "",
        "token": settings.token,
        "ports": "yes" if settings.token else "",
        "ending": settings.ending,
        "read_only": "yes" if settings.read_only else "",
        "cwd": program.cwd,
    }
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return text.encode("utf-8", "surrogateescape")


def _command(program: Program, *, controlling: bool) -> bytes:
    """A script that becomes the program. ``controlling``: its standard input is the terminal of its session."""
    first = "exec $b setsid -c" if controlling else "exec $b setsid"
    line = " ".join(shlex.quote(word) for word in program.env)
    words = " ".join(shlex.quote(word) for word in program.words)
    text = f"{first} $b env -i -- {line} $l/enter {words} 9>&-\n"
    return text.encode("utf-8", "surrogateescape")


def _enter(architecture: str, program: Program) -> bytes:
    message = f"lamina: {program.words[0]} can't be executed\n"
    return entering(
        architecture,
        uid=program.uid,
        gid=program.gid,
        groups=program.groups,
        cwd=program.cwd.encode("utf-8", "surrogateescape"),
        closed=(_STARTING, _LAMINA),
        message=message.encode("utf-8", "surrogateescape"),
    )
