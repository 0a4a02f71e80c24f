"""The processes of a running container, read from /proc: no program in the container is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.run.cgroups import cgroups_of, read
from lamina.run.container.running import check_inside, process_of

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store

_PROCESSES = "cgroup.procs"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PTS, _TTY = range(136, 144), 4
"""Major numbers of terminals (the kernel's devices.txt)."""


@dataclass(frozen=True, slots=True)
class Process:
    """``terminal``: its device number, 0 if it has none. ``seconds``: of processor time. ``started``: seconds since
    1970. ``size``, ``resident``: in bytes. ``words``: the command line, empty for a zombie. ``status``: the fields of
    /proc/PID/status."""

    pid: int
    parent: int
    group: int
    name: str
    state: str
    terminal: int
    seconds: float
    nice: int
    threads: int
    started: float
    size: int
    resident: int
    words: tuple[str, ...] = ()
    status: Mapping[str, str] = field(default_factory=dict)

    def ids(self, key: str) -> list[int]:
        """The real, effective, saved and file system ids. ``key``: Uid or Gid."""
        return [int(word) for word in self.status.get(key, "").split()] or [0, 0, 0, 0]

    @property
    def inner_pid(self) -> int:
        """Its pid in the container."""
        return int((self.status.get("NSpid", "").split() or [str(self.pid)])[-1])

    @property
    def command(self) -> str:
        return " ".join(self.words) or f"[{self.name}]"

    @property
    def terminal_name(self) -> str:
        """As ps shows it."""
        major, minor = os.major(self.terminal), os.minor(self.terminal)
        if major in _PTS:
            return f"pts/{(major - _PTS[0]) * 256 + minor}"
        return f"tty{minor}" if major == _TTY and minor < 64 else "?"


def processes_of(store: Store, container: Container) -> list[Process]:
    """The processes of the container, in the order of their start. Raises Conflict (it does not run),
    Unsupported (a virtual machine), SystemFailure."""
    first = process_of(store, container)
    check_inside(container, "top")
    found = [one for one in map(process, pids_of(first, container.id)) if one is not None]
    return sorted(found, key=lambda one: (one.started, one.pid))


def pids_of(first: int, identity: str) -> set[int]:
    """The pids of a container: all in its cgroup or, if it has none, all in its pid namespace, or all that its
    first process has started."""
    cgroups = cgroups_of(first, identity)
    if cgroups is not None:
        place = cgroups.unified or cgroups.places.get("pids") or next(iter(cgroups.places.values()))
        found: set[int] = set()
        for directory, _, _ in os.walk(place):
            found |= {int(word) for word in read(os.path.join(directory, _PROCESSES)).split() if word.isdigit()}
        if found:
            return found
    own = _namespace("self")
    theirs = _namespace(str(first))
    if theirs and theirs != own:
        return {pid for pid in _every() if pid == first or _namespace(str(pid)) == theirs}
    return _descendants(first)


def _namespace(pid: str) -> str:
    """The pid namespace of a process; "" if it can't be read."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _every() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _descendants(first: int) -> set[int]:
    parents = {}
    for pid in _every():
        with suppress(OSError, IndexError, ValueError):
            parents[pid] = int(_stat(pid)[1][1])
    found = {first}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _stat(pid: int) -> tuple[str, list[str]]:
    """The name of a process, and the fields after it (proc(5), "/proc/pid/stat"). Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read().decode("utf-8", "replace")
    head, _, rest = text.rpartition(")")
    return head.partition("(")[2], rest.split()


def process(pid: int) -> Process | None:
    """What /proc tells of a process; None if it has ended."""
    try:
        name, fields = _stat(pid)
        status = dict(_line(line) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line)
        words = read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        return Process(
            pid=pid,
            parent=int(fields[1]),
            group=int(fields[2]),
            name=name,
            state=fields[0],
            terminal=int(fields[4]) & 0xFFFFFFFF,
            seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
            nice=int(fields[16]),
            threads=int(fields[17]),
            started=_boot_time() + int(fields[19]) / _TICKS,
            size=int(fields[20]),
            resident=int(fields[21]) * _PAGE,
            words=tuple(words) if words != [""] else (),
            status=status,
        )
    except (OSError, IndexError, ValueError):
        return None


def _line(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key, value.strip()


def _boot_time() -> float:
    """When the host was booted: seconds since 1970."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
