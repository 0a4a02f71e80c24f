"""Start a monitor: from the command that has made everything ready for it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.host.files import write_all
from lamina.host.libc import libc
from lamina.host.own_python import module_path
from lamina.light import TYPE_CHECKING, Value
from lamina.run.child import CANNOT_RUN
from lamina.run.monitor.plan import to_json
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from lamina.run.monitor.plan import Plan

_SUBREAPER = 36  # prctl(2); it survives exec
_CODE = "import sys;sys.path[:]={path!r};from lamina.run.container.monitored import main;main()"


class Started(Value):
    """``program``: the pid of the first process; 0: it did not start: ``code`` is docker's exit code, ``reason``
    why."""

    program: int
    code: int = 0
    reason: str = ""


class Monitor:
    """A monitor that loads its modules while the command makes everything ready, and then starts the program. It ends
    with the block if ``start`` was not called."""

    def __init__(self, directory: str, name: str, lock: int, attached: int = -1) -> None:
        """``directory``, ``name``: of the container. ``lock``: a descriptor of the container's lock, which the
        monitor keeps. ``attached``: a socket whose other end is attached from the start; -1 for none. Raises
        SystemFailure."""
        self._name, self._directory = name, directory
        planned, self._plan = os.pipe()
        self._told, ready = os.pipe()
        try:
            _spawn(directory, name, (planned, lock, ready, attached))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(planned)
            os.close(ready)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in {self._plan, self._told} - {-1}:
            os.close(descriptor)
        self._plan = self._told = -1

    def start(self, plan: Plan) -> Started:
        """Start the program, and wait until it runs. Raises SystemFailure."""
        with suppress(BrokenPipeError):
            write_all(self._plan, to_json(plan))
        os.close(self._plan)
        self._plan = -1
        with open(self._told, "rb", closefd=False) as file:
            said = file.read()
        if not said:
            raise SystemFailure(
                f"the monitor of the container {self._name} ended before the program started",
                hint=f"see {os.path.join(self._directory, 'monitor.log')}",
            )
        found = read_own(said.decode())
        return Started(found["program"], found.get("code", CANNOT_RUN), found.get("reason", ""))


def _spawn(directory: str, name: str, files: tuple[int, ...]) -> None:
    """Fork and exec: the child becomes a subreaper between the two, so that the monitor need not load ctypes."""
    words = [str(number) for number in files]
    command = [sys.executable, "-I", "-S", "-c", _CODE.format(path=module_path())]
    command += ["lamina-monitor", name, *words]
    call = libc()
    try:
        log = os.open(os.path.join(directory, "monitor.log"), _LOG, 0o600)
        try:
            child = os.fork()
        except BaseException:
            os.close(log)
            raise
    except OSError as error:
        raise SystemFailure(
            f"the monitor of the container {name} can't be started: {error.strerror}",
            hint="check the limits of processes and open files",
        ) from None
    if child:
        os.close(log)
        return
    try:
        os.setsid()
        call.prctl(_SUBREAPER, 1, 0, 0, 0)
        for number in files:
            if number >= 0:
                os.set_inheritable(number, True)
        _close_others({*files, log})
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        os.chdir("/")
        os.execv(command[0], command)
    finally:
        os._exit(CANNOT_RUN)


def _close_others(kept: set[int]) -> None:
    """What the command has inherited from its caller (a lock, a pipe that somebody reads) ends with the command."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in kept:
            with suppress(OSError):  # the descriptor of this listing
                os.close(number)


_LOG = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
