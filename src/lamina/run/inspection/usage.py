"""What a running container uses: processor time, memory, network, disks. The numbers are those of its cgroup; where
it has none, they are sums over its processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.run.cgroups import cgroups_of, read
from lamina.run.container.record import wanted_of
from lamina.run.container.running import process_of
from lamina.run.inspection.processes import pids_of, process
from lamina.run.runtime import MACHINE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.run.cgroups import Cgroups
    from lamina.store.containers import Container
    from lamina.store.store import Store

_COUNTED = {"cpuacct", "memory", "pids"}
"""The controllers of version 1 that a container's numbers come from."""
_SECOND = 1_000_000_000
_OWN = ("lo",)
"""Interfaces whose bytes leave no container."""


@dataclass(frozen=True, slots=True)
class Usage:
    """``at``: when it was measured, in nanoseconds of the monotonic clock. ``cpu``: nanoseconds of processor time
    since the start. ``memory``: bytes without what the kernel can drop at once; ``limit``: of the memory, that of the
    host if the container has none. ``received``, ``sent``, ``read``, ``written``: bytes since the start. ``pids``:
    processes and threads. ``exact``: False if it is a sum over processes: those that have ended are not in it."""

    at: int = 0
    cpu: int = 0
    memory: int = 0
    limit: int = 0
    received: int = 0
    sent: int = 0
    read: int = 0
    written: int = 0
    pids: int = 0
    exact: bool = True

    def cpu_percent(self, before: Usage) -> float:
        """The processor time since ``before`` in percent of one processor (pure)."""
        passed = self.at - before.at
        return 100 * max(0, self.cpu - before.cpu) / passed if passed > 0 else 0.0

    @property
    def memory_percent(self) -> float:
        return 100 * self.memory / self.limit if self.limit else 0.0


def measure(store: Store, container: Container) -> Usage:
    """Raises Conflict (the container does not run), SystemFailure."""
    first = process_of(store, container)
    cgroups = cgroups_of(first, container.id)
    received, sent = _network(first)
    memory_of_host = _memory_of_host()
    exact = cgroups is not None and (cgroups.unified != "" or set(cgroups.places) >= _COUNTED)
    if cgroups is not None and exact:
        found = _version_2(cgroups, first) if cgroups.unified else _version_1(cgroups)
    else:  # bubblewrap makes cgroups only for what is limited
        found = _of_processes(pids_of(first, container.id), cgroups)
    cpu, memory, limit, read_, written, pids = found
    if container.runtime == MACHINE:
        from lamina.run.machine.guest import memory_of

        limit = memory_of(wanted_of(container).memory)
    return Usage(
        at=time.monotonic_ns(),
        cpu=cpu,
        memory=memory,
        limit=limit if 0 < limit < memory_of_host else memory_of_host,
        received=received,
        sent=sent,
        read=read_,
        written=written,
        pids=pids,
        exact=exact,
    )


_Found = tuple[int, int, int, int, int, int]
"""cpu, memory, limit, read, written, pids"""


def _version_1(cgroups: Cgroups) -> _Found:
    kept = cgroups.table("memory", "memory.stat").get("total_inactive_file", 0)
    used = cgroups.number("memory", "memory.usage_in_bytes") or 0
    read_, written = 0, 0
    for name in ("blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"):
        lines = [line.split() for line in cgroups.text("blkio", name).splitlines()]
        sums = {
            key: sum(int(words[2]) for words in lines if len(words) == 3 and words[1] == key)
            for key in ("Read", "Write")
        }
        read_, written = max(read_, sums["Read"]), max(written, sums["Write"])
    return (
        cgroups.number("cpuacct", "cpuacct.usage") or 0,
        max(0, used - kept),
        cgroups.number("memory", "memory.limit_in_bytes") or 0,
        read_,
        written,
        cgroups.number("pids", "pids.current") or 0,
    )


def _version_2(cgroups: Cgroups, first: int) -> _Found:
    """``first``: the pid of the first process: what the cgroup does not count is that of the processes."""
    kept = cgroups.table("memory", "memory.stat").get("inactive_file", 0)
    used, count = cgroups.number("memory", "memory.current"), cgroups.number("pids", "pids.current")
    if used is None or count is None:  # the kernel may have started without these controllers
        _, memory, _, _, _, threads = _of_processes(pids_of(first, os.path.basename(cgroups.unified)), None)
        used, count = memory if used is None else used, threads if count is None else count
    words = [word.partition("=") for word in cgroups.text("io", "io.stat").split()]
    read_, written = (
        sum(int(value) for name, _, value in words if name == key and value.isdigit()) for key in ("rbytes", "wbytes")
    )
    return (
        cgroups.table("cpu", "cpu.stat").get("usage_usec", 0) * 1000,
        max(0, used - kept),
        cgroups.number("memory", "memory.max") or 0,
        read_,
        written,
        count,
    )


def _of_processes(pids: Iterable[int], cgroups: Cgroups | None) -> _Found:
    cpu = memory = read_ = written = threads = 0
    for pid in pids:
        one = process(pid)
        if one is None:
            continue
        cpu += int(one.seconds * _SECOND)
        threads += one.threads
        memory += _memory_of(pid) or one.resident
        table = dict(line.split(": ") for line in read(f"/proc/{pid}/io").splitlines() if ": " in line)
        read_ += int(table.get("read_bytes", "0"))
        written += int(table.get("write_bytes", "0"))
    limit = cgroups.number("memory", "memory.limit_in_bytes") if cgroups else None
    return cpu, memory, limit or 0, read_, written, threads


def _memory_of(pid: int) -> int:
    """The memory of a process, with its part of what it shares with others; 0 if that can't be read."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _network(pid: int) -> tuple[int, int]:
    """The bytes that the container has received and sent; 0 if it has the host's network."""
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return 0, 0
    except OSError:
        return 0, 0
    received = sent = 0
    for line in read(f"/proc/{pid}/net/dev").splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and name.strip() not in _OWN and len(words) >= 9:
            received += int(words[0])
            sent += int(words[8])
    return received, sent


def _memory_of_host() -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
