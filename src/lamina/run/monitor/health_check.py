"""One run of a health check: a process beside the monitor, which starts the command in the container and waits for
it, but not longer than its timeout."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from lamina.host.libc import libc
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import CANNOT_RUN, Streams
from lamina.run.health import MAX_OUTPUT, TIMED_OUT, Check, Result, shown_output, too_slow
from lamina.run.runtime import EXECUTED, execute_behind
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from lamina.run.runtime import Runtime

TOO_SLOW = -signal.SIGALRM
"""How the process ends if the command took too long: by this signal. Any other signal: the command could not run."""
_SUBREAPER = 36  # prctl(2)
_POLL = 0.01  # seconds
_PIECE = 1 << 14
_HANDLED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)


class Place(Value):
    """A container that runs. ``directory``: its own. ``states``: the runtime's."""

    directory: str
    states: str
    identity: str
    runtime: Runtime


def start(place: Place, check: Check) -> tuple[int, int]:
    """Start the check; the pid of its process, whose exit code is the command's, and a descriptor of its output.
    Raises OSError."""
    reading, writing = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            _run(place, check, writing)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    os.set_blocking(reading, False)
    return child, reading


def result_of(place: Place, check: Check) -> Result:
    """Run the check, and wait for it. Raises OSError."""
    began, output = time.time_ns(), b""
    child, reading = start(place, check)
    try:
        os.set_blocking(reading, True)
        # a process that it left behind may hold the pipe open: what is there when it has ended is all
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if select.select([reading], (), (), _POLL)[0]:
                output = (output + os.read(reading, _PIECE))[: MAX_OUTPUT + 1]
        while select.select([reading], (), (), 0)[0]:
            data = os.read(reading, _PIECE)
            output = (output + data)[: MAX_OUTPUT + 1]
            if not data or len(output) > MAX_OUTPUT:
                break
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    return result(check, began, os.waitstatus_to_exitcode(status), output)


def result(check: Check, began: int, code: int, output: bytes, *, late: bool = False) -> Result:
    """The result of a check that has ended. ``began``: nanoseconds since 1970. ``code``: the exit code of its
    process; negative: the signal that ended it. ``late``: it was ended after its timeout."""
    shown = shown_output(output)
    if code == TOO_SLOW or late:
        return Result(began, time.time_ns(), TIMED_OUT, too_slow(check, shown))
    return Result(began, time.time_ns(), code if code >= 0 else TIMED_OUT, shown)


def _run(place: Place, check: Check, output: int) -> NoReturn:
    """In the forked process: run the check, and exit."""
    try:
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _keep_only(output)
        code = _code(place, check)
        if code is not None:
            os._exit(code & 0xFF)
    except BaseException as error:  # noqa: BLE001  (a forked process must end here, but with a message)
        with suppress(OSError):
            os.write(2, str(error).encode("utf-8", "surrogateescape"))
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(CANNOT_RUN)


def _keep_only(output: int) -> None:
    """Make the descriptor this process's output, and close all that the monitor has open: above all its locks."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)


def _code(place: Place, check: Check) -> int | None:
    """The exit code of the command; None if it could not be started."""
    bundle = os.path.join(place.directory, "bundle")
    with open(os.path.join(bundle, "config.json"), "rb") as file:
        process: dict[str, Any] = read_own(file.read().decode())["process"]
    process |= {"args": list(check.words), "terminal": False}
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, check.timeout)
    return (_in_bubblewrap if place.runtime.is_bubblewrap else _by_runtime)(place, bundle, process)


def _in_bubblewrap(place: Place, bundle: str, process: dict[str, Any]) -> int | None:
    from lamina.run.bubblewrap import launch

    with launch.execute(bundle, place.identity, process, Streams(interactive=False)) as program:
        ended = program.wait()
    return None if ended.reason or ended.message else ended.code


def _by_runtime(place: Place, bundle: str, process: dict[str, Any]) -> int | None:
    """The runtime ends at once, and the program becomes a child of this subreaper. A runtime that waited for the
    program would also wait for all processes that have its output open."""
    libc().prctl(_SUBREAPER, 1, 0, 0, 0)
    pid_file = os.path.join(bundle, f"{EXECUTED}{os.urandom(8).hex()}")
    described = write_own(process).encode()
    streams = Streams(interactive=False)
    try:
        started = execute_behind(place.runtime, place.states, place.identity, described, streams, pid_file)
        if started.code:
            return None
        with open(pid_file, "rb") as file:
            program = int(file.read())
    finally:
        with suppress(FileNotFoundError):
            os.unlink(pid_file)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    return 128 - code if code < 0 else code


def _give_up(*_: object) -> None:
    """End the command and this process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _end_command(os.getpid())
    os.kill(os.getpid(), signal.SIGALRM)


def end(child: int) -> None:
    """End a check that ``start`` has returned, and its command."""
    _end_command(child)
    with suppress(OSError):
        os.kill(child, signal.SIGKILL)


def _end_command(child: int) -> None:
    """End the command with all that it has started, if that did not leave its session."""
    for pid in _descendants(child):
        with suppress(OSError):
            if os.getpgid(pid) == pid:  # a program that a runtime starts leads its own session
                os.killpg(pid, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
    """All processes below this one."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                found.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    left = [pid]
    while left:
        below = found.get(left.pop(), [])
        yield from below
        left += below
