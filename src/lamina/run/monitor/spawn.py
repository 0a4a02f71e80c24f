"""Start a monitor: from the command that has made everything ready for it."""

from __future__ import annotations

import os
import sys

from lamina.errors import SystemFailure
from lamina.host.libc import libc
from lamina.host.own_python import module_path
from lamina.light import TYPE_CHECKING, Value
from lamina.run.child import CANNOT_RUN, in_memory
from lamina.run.monitor.plan import to_json
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from lamina.run.monitor.plan import Plan

_SUBREAPER = 36  # prctl(2); it survives exec
_CODE = "import sys;sys.path[:]={path!r};from lamina.run.monitor.main import main;main()"


class Started(Value):
    """``program``: the pid of the first process; 0: it did not start: ``code`` is docker's exit code, ``reason``
    why."""

    program: int
    code: int = 0
    reason: str = ""


def start_monitor(plan: Plan, lock: int, attached: int = -1) -> Started:
    """Start a monitor, and wait until its program runs. ``lock``: a descriptor of the container's lock, which the
    monitor keeps. ``attached``: a socket whose other end is attached from the start; -1 for none. Raises
    SystemFailure."""
    reading, ready = os.pipe()
    described = in_memory(to_json(plan))
    try:
        _spawn(plan, (described, lock, ready, attached))
        os.close(ready)
        ready = -1
        with open(reading, "rb", closefd=False) as file:
            said = file.read()
    finally:
        for descriptor in (reading, ready, described):
            if descriptor >= 0:
                os.close(descriptor)
    if not said:
        raise SystemFailure(
            f"the monitor of the container {plan.name} ended before the program started",
            hint=f"see {os.path.join(plan.directory, 'monitor.log')}",
        )
    found = read_own(said.decode())
    return Started(found["program"], found.get("code", CANNOT_RUN), found.get("reason", ""))


def _spawn(plan: Plan, files: tuple[int, ...]) -> None:
    """Fork and exec: the child becomes a subreaper between the two, so that the monitor need not load ctypes."""
    words = [str(number) for number in files]
    command = [sys.executable, "-I", "-S", "-c", _CODE.format(path=module_path())]
    command += ["lamina-monitor", plan.name, *words]
    call = libc()
    try:
        log = os.open(os.path.join(plan.directory, "monitor.log"), _LOG, 0o600)
        try:
            child = os.fork()
        except BaseException:
            os.close(log)
            raise
    except OSError as error:
        raise SystemFailure(
            f"the monitor of the container {plan.name} can't be started: {error.strerror}",
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
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        os.chdir("/")
        os.execv(command[0], command)
    finally:
        os._exit(CANNOT_RUN)


_LOG = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
