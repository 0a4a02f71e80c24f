"""One run of a health check: a process beside the monitor, which starts the command in the container and waits for
it, but not longer than its timeout."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from lamina.light import TYPE_CHECKING, signal
from lamina.run.child import CANNOT_RUN
from lamina.run.further import Place, forget_parent, run_program
from lamina.run.health import MAX_OUTPUT, TIMED_OUT, Check, Result, shown_output, too_slow
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

TOO_SLOW = -signal.SIGALRM
"""How the process ends if the command took too long: by this signal. Any other signal: the command could not run."""
_POLL = 0.01  # seconds
_PIECE = 1 << 14


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
        forget_parent(output=output)
        code = _code(place, check)
        if code is not None:
            os._exit(code & 0xFF)
    except BaseException as error:  # noqa: BLE001  (a forked process must end here, but with a message)
        with suppress(OSError):
            os.write(2, str(error).encode("utf-8", "surrogateescape"))
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(CANNOT_RUN)


def _code(place: Place, check: Check) -> int | None:
    """The exit code of the command; None if it could not be started."""
    with open(os.path.join(place.bundle, "config.json"), "rb") as file:
        process: dict[str, Any] = read_own(file.read().decode())["process"]
    process |= {"args": list(check.words), "terminal": False}
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, check.timeout)
    ended = run_program(place, process, os.urandom(32).hex())
    return None if ended.reason or ended.message else ended.code


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
