"""Programs run and paid for: seconds, CPU seconds, peak memory; in turn, each time on nothing."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground import clear, end, undisturbed

LIMIT = 600  # seconds that one program may take
SUBREAPER = 36  # linux/prctl.h
CLOCK = os.sysconf("SC_CLK_TCK")
_daemons: set[int] = set()


class Failed(Exception):
    """A program that did not do it; the message is one line."""


@dataclass
class Bill:
    """What the programs of one turn cost together. ``peak``: of the largest process, in bytes."""

    cpu: float = 0.0
    peak: int = 0

    def run(self, words: Sequence[str], *, env: Mapping[str, str] | None = None, user: str = "") -> str:
        """Run a program to its end and give back what it printed. Raises Failed."""
        out, err = (os.fdopen(os.memfd_create(name), "w+b") for name in ("out", "err"))
        with out, err:
            # files, not pipes: what a program leaves running would keep a pipe open
            process = subprocess.Popen(list(words), stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/",
                                       env=env, start_new_session=True, **_identity(user))  # fmt: skip
            timer = threading.Timer(LIMIT, _kill, (process.pid,))
            timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                _kill(process.pid)
                os.waitpid(process.pid, 0)
                raise
            finally:
                timer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu += usage.ru_utime + usage.ru_stime
            self.peak = max(self.peak, usage.ru_maxrss << 10)
            told = [_read(one) for one in (out, err)]
        if process.returncode:
            last = ([line for line in told[1].splitlines() if line.strip()] or ["no word"])[-1]
            raise Failed(f"{' '.join(_short(words))}: {process.returncode}: {last:.300}")
        return told[0]


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def _short(words: Sequence[str]) -> list[str]:
    """A program and its verbs, without paths and options."""
    return [os.path.basename(words[0]), *(word for word in words[1:] if word.isalpha())][:5]


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _identity(user: str) -> dict[str, Any]:
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(words: Sequence[str], *, env: Mapping[str, str] | None = None, user: str = "") -> str:
    """Run a program without measuring it. Raises Failed."""
    return Bill().run(words, env=env, user=user)


@contextmanager
def daemon(words: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[int]:
    """A program that runs during the block; yields its pid."""
    with log.open("wb") as file:
        process = subprocess.Popen(list(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=dict(env),
                                   start_new_session=True)  # fmt: skip
    _daemons.add(process.pid)
    try:
        yield process.pid
    finally:
        with undisturbed():
            end(process)
            _daemons.discard(process.pid)


def spent(pid: int) -> tuple[float, int]:
    """CPU seconds of a living process and of its ended children, and its peak memory in bytes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return sum(map(int, fields[11:15])) / CLOCK, int(peak[0].split()[1]) << 10


def adopt() -> None:
    """From now on what our programs leave running becomes our child, so that we can end it."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def end_left(spare: set[int]) -> None:
    """End what our programs left running, and what that leaves, but for ``spare``."""
    while left := _children() - spare - _daemons:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for pid in left:
            os.waitpid(pid, 0)


def _children() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(name))
    return found


@dataclass
class Series:
    """All turns of one engine. ``failure``: why there are no more; ``detail``: what was measured."""

    name: str
    detail: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def complete(self) -> bool:
        return bool(self.seconds) and not self.failure


@dataclass(frozen=True)
class Runner:
    """One engine. ``turn`` gets a new directory and a clock. It prepares, starts the clock, does the work, stops the
    clock, and cleans up. ``missing``: why the engine can't run."""

    name: str
    detail: str
    turn: Callable[[Path, Clock], None]
    missing: str = ""


class Clock:
    """Between ``start`` and ``stop`` is what counts. Before it starts everything written is on the disk."""

    def __init__(self, drop: bool) -> None:
        self.bill = Bill()
        self.seconds = -1.0
        self._drop = drop
        self._began = 0.0

    def start(self) -> Bill:
        os.sync()
        if self._drop:
            drop_caches()
        self._began = time.monotonic()
        return self.bill

    def stop(self) -> None:
        self.seconds = time.monotonic() - self._began


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def in_turn(title: str, runners: Sequence[Runner], rounds: int, place: Path, drop: bool = False) -> list[Series]:
    """Run A B C A B C, each turn in a new directory below ``place``. An engine that fails gets no more turns."""
    found = [Series(one.name, one.detail, failure=one.missing) for one in runners]
    spare = _children()
    for number in range(rounds):
        for runner, series in zip(runners, found, strict=True):
            if series.failure:
                continue
            directory = place / "turn"
            directory.mkdir()
            os.chmod(directory, 0o755)
            clock = Clock(drop)
            try:
                runner.turn(directory, clock)
            except (Failed, OSError) as error:
                series.failure = f"fails: {error}"
                note(f"{title}: {series.name} {series.failure}")
            else:
                series.seconds.append(clock.seconds)
                series.cpu.append(clock.bill.cpu)
                series.peak = max(series.peak, clock.bill.peak)
                note(f"{title}, round {number + 1}: {series.name} {clock.seconds:.3f} s, CPU {clock.bill.cpu:.2f} s")
            finally:
                with undisturbed():
                    end_left(spare)
                    clear(directory)
    return found


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
