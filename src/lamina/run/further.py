"""A further program in a running container, in a forked process that waits for it: a health check, or `exec -d`."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND, ExitStatus, Streams
from lamina.run.runtime import EXECUTED, execute_behind
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from lamina.run.runtime import Runtime

_SUBREAPER = 36  # prctl(2)
_HANDLED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)
_MOST_SAID = 1 << 12


class Place(Value):
    """A container that runs. ``directory``: its own. ``states``: the runtime's."""

    directory: str
    states: str
    identity: str
    runtime: Runtime

    @property
    def bundle(self) -> str:
        return os.path.join(self.directory, "bundle")


def forget_parent(*kept: int, output: int = -1) -> None:
    """In the forked process: drop the signal handlers of the parent, and all that it has open, above all its locks.
    ``output``: a descriptor that becomes standard output and error; -1: nothing is read or written."""
    for one in _HANDLED:
        signal.signal(one, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null if output < 0 else output, 1)
    os.dup2(null if output < 0 else output, 2)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in kept:
            with suppress(OSError):  # the descriptor of this listing
                os.close(number)


def run_program(
    place: Place, process: dict[str, Any], identity: str, on_start: Callable[[], object] = lambda: None
) -> ExitStatus:
    """Run the process (of a runtime spec) with the standard streams of this process, and wait for it. Its exit status
    has a reason if it could not be started. ``identity``: `inspect` shows it while the program runs. ``on_start``:
    called when it runs; not with bubblewrap, which does not tell. Raises OSError, LaminaError."""
    running = os.path.join(place.bundle, EXECUTED + identity)
    try:
        return (_in_bubblewrap if place.runtime.is_bubblewrap else _by_runtime)(place, process, running, on_start)
    finally:
        with suppress(OSError):
            os.unlink(running)


def _in_bubblewrap(place: Place, process: dict[str, Any], running: str, on_start: Callable[[], object]) -> ExitStatus:
    from lamina.run.bubblewrap import launch

    with launch.execute(place.bundle, place.identity, process, Streams(interactive=False)) as program:
        with open(running, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        return program.wait()


def _by_runtime(place: Place, process: dict[str, Any], running: str, on_start: Callable[[], object]) -> ExitStatus:
    """The runtime ends at once, and the program becomes a child of this subreaper. A runtime that waited for the
    program would also wait for all processes that have its output open."""
    from lamina.host.libc import libc

    libc().prctl(_SUBREAPER, 1, 0, 0, 0)
    described, streams = write_own(process).encode(), Streams(interactive=False)
    started = execute_behind(place.runtime, place.states, place.identity, described, streams, running)
    if started.code:
        return started if started.reason else ExitStatus(started.code, reason="the runtime could not start it")
    with open(running, "rb") as file:
        program = int(file.read())
    on_start()
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    return ExitStatus(128 - code if code < 0 else code)


def wait_behind(
    place: Place, described: int, identity: str, answer: int, on_end: Callable[[int], object]
) -> NoReturn:
    """In a forked process, for good: run the program without streams. ``described``: a descriptor of the process, as
    JSON. ``answer``: a socket that is told how it started (``answer_of``). ``on_end``: called with its exit code."""
    import _socket

    told = False

    def tell(code: int, reason: str = "") -> None:
        nonlocal told
        if not told:
            told = True
            with suppress(OSError):  # nobody waits for it any more
                telling.send(write_own({"code": code, "reason": reason[:_MOST_SAID]}).encode(), _socket.MSG_NOSIGNAL)
            telling.close()

    try:
        forget_parent(described, answer)
        telling = _socket.socket(fileno=answer)
        with open(described, "rb") as file:
            process = read_own(file.read().decode())
        ended = run_program(place, process, identity, lambda: tell(0))
        if not ended.reason:
            on_end(ended.code)
        if place.runtime.is_bubblewrap and ended.code in (CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND):
            tell(ended.code, f"{process['args'][0]!r:.200} can't be started")
        tell(ended.code if ended.reason else 0, ended.reason)
    except BaseException as error:  # noqa: BLE001  (a forked process must end here, but with a message)
        tell(CANNOT_RUN, str(error) or type(error).__name__)
    finally:
        os._exit(0)


def answer_of(connection: int, seconds: float | None) -> ExitStatus | None:
    """How a program has started that ``wait_behind`` runs; None if nobody runs it. ``connection``: the other end of
    its socket. ``seconds``: a program that has not ended after them has started; None: it is told."""
    import select

    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(None if seconds is None else seconds * 1000):
        return ExitStatus(0)
    said = os.read(connection, 1 << 16)
    if not said:
        return None
    found = read_own(said.decode())
    return ExitStatus(found["code"], reason=found["reason"])
