"""A child process: started on streams that the caller chooses, signals passed on to it, waited for.

Without ``subprocess``, which takes longer to load than most of these programs run.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from lamina.errors import ContainerFailure, LaminaError, SystemFailure
from lamina.host.files import write_all
from lamina.light import TYPE_CHECKING, Value, signal

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from lamina.run.terminal import Terminal

CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND = ContainerFailure.exit_code, 126, 127
"""docker's exit codes for a container that did not start."""
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")
_POLL, _PATIENCE = 0.005, 1.0  # seconds
OnSignal = Callable[[int, bool], object]
"""Called with the number of a signal, and whether the terminal sent it."""


class Streams(Value):
    """The standard streams of a program, as descriptors of this process: each is either in its own place (0, 1, 2) or
    above 2. ``interactive``: the program reads ``stdin``; else it reads /dev/null. ``terminal``: the program gets a
    terminal: that of the streams or, where none of them is one, a new one whose output goes to ``stdout``."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2
    interactive: bool = True
    terminal: bool = False

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.stdin, self.stdout, self.stderr

    def own_terminal(self, *, raw: bool, late: bool) -> Terminal | None:
        """A new terminal where the program needs one and no stream is one. ``raw``, ``late``: see there."""
        if not self.terminal:
            return None
        from lamina.run.terminal import Terminal

        return None if any(map(os.isatty, self.numbers)) else Terminal(self.stdout, raw=raw, late=late)


class ExitStatus(Value):
    """How a program ended. ``code``: docker's exit code. Where the program never ran: ``message`` is why, if nobody
    has printed that yet; ``reason`` is why, if the runtime has printed it."""

    code: int
    message: str = ""
    reason: str = ""


class Program(Value):
    """A program that was started in a sandbox. ``wait``: wait for its end; it may be called once. ``signal``: send
    the program a signal, by number, also while another thread waits; raises SystemFailure (it has not started, or has
    ended)."""

    wait: Callable[[], ExitStatus]
    signal: Callable[[int], None]


class Child:
    """A child process. ``wait`` for it in the block of ``spawned``."""

    def __init__(self, pid: int, terminal: Terminal | None) -> None:
        self.pid = pid
        self._terminal = terminal
        self._ended = False

    def wait(self, on_signal: OnSignal | None = None) -> int:
        """Wait for its end; its exit code, or a shell's where a signal ended it. ``on_signal`` gets the signals for
        this process meanwhile; by default the child gets those that the terminal has not sent to it already."""
        code = wait_for(self.pid, on_signal or self._forward)
        self._ended = True
        return code

    @property
    def has_ended(self) -> bool:
        try:
            return self._ended or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # another thread has just waited for it
            return True

    def _forward(self, number: int, by_terminal: bool) -> None:
        if self._terminal or not by_terminal:  # the terminal's own go to our whole process group
            os.kill(self.pid, number)

    def close(self) -> None:
        """Kill it if it was not waited for."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._terminal:
            self._terminal.close()


@contextmanager
def spawned(
    command: list[str],
    streams: Streams,
    descriptors: Sequence[int] = (),
    prepare: Callable[[], None] | None = None,
    *,
    late: bool = False,
) -> Iterator[Child]:
    """A child that runs ``command``; it is killed if the block ends without a wait. ``descriptors``: what it inherits
    besides its streams, with the same numbers. ``prepare`` is called in the child before the command. ``late``: see
    `lamina.run.terminal.Terminal`. Raises SystemFailure."""
    terminal = streams.own_terminal(raw=prepare is None, late=late)
    with held_signals() as before:
        try:
            path = terminal.path if terminal else ""
            if prepare is None:
                pid = _start(command, streams, descriptors, before, path)
            else:
                pid = _fork(command, streams, descriptors, before, prepare, path)
        except OSError as error:
            if terminal:
                terminal.close()
            raise SystemFailure(f"{command[0]}: {error.strerror}", hint="check that the runtime works") from None
        child = Child(pid, terminal)
        try:
            if terminal:
                terminal.start(lambda: os.kill(pid, signal.SIGKILL))  # as SIGPIPE would end it without a terminal
            yield child
        finally:
            child.close()


def _start(
    command: list[str], streams: Streams, descriptors: Sequence[int], signals: Collection[int], terminal: str
) -> int:
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors]
    more: dict[str, Any] = {}
    if terminal:
        more["setsid"] = True  # the first terminal that it opens becomes its controlling terminal
        actions.append((os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0))
        actions.append((os.POSIX_SPAWN_DUP2, 0, 1))  # stderr stays: the runtime's own messages are not output
        actions += _moves((2, streams.stderr))
    else:
        if not streams.interactive:
            actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        actions += _moves(*list(enumerate(streams.numbers))[0 if streams.interactive else 1 :])
    return os.posix_spawn(
        command[0], command, os.environ, file_actions=actions, setsigmask=signals, setsigdef=[signal.SIGPIPE], **more
    )


def _moves(*pairs: tuple[int, int]) -> list[tuple[Any, ...]]:
    return [(os.POSIX_SPAWN_DUP2, number, place) for place, number in pairs if number != place]


def _fork(
    command: list[str],
    streams: Streams,
    descriptors: Sequence[int],
    signals: Collection[int],
    prepare: Callable[[], None],
    terminal: str,
) -> int:
    """As ``_start``, and call ``prepare`` in the child. bubblewrap passes all descriptors that it does not know on to
    the container's program, so those of this process are closed first."""
    child = os.fork()
    if not child:
        become_command(command, streams, descriptors, signals, prepare, terminal)
    return child


def become_command(
    command: list[str],
    streams: Streams,
    descriptors: Sequence[int],
    signals: Collection[int],
    prepare: Callable[[], None],
    terminal: str,
) -> NoReturn:
    """In a forked child: call ``prepare``, and run the command, for good. ``signals``: its signal mask.
    ``terminal``: the path of its terminal, "" for none."""
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with suppress(OSError):  # the descriptor of this listing
                    os.set_inheritable(int(name), int(name) in descriptors)
        _take_streams(streams, terminal)
        prepare()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.execv(command[0], command)
    except LaminaError as error:
        os.write(2, f"lamina: {error}\n".encode())
    except OSError as error:
        os.write(2, f"lamina: {command[0]}: {error.strerror}\n".encode())
    except Exception as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        os.write(2, f"lamina: {command[0]}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


def _take_streams(streams: Streams, terminal: str) -> None:
    if terminal:
        from lamina.run.terminal import take

        take(terminal)
        return
    if not streams.interactive:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for place, number in enumerate(streams.numbers):
        if number != place and (place or streams.interactive):
            os.dup2(number, place)


def wait_for(child: int, on_signal: OnSignal) -> int:
    """Wait for a child; its exit code. ``on_signal`` gets the signals for this process meanwhile. Call it in a block
    of ``held_signals``."""
    numbers = _forwarded()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if numbers else 0)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        seen = signal.sigwaitinfo({*numbers, signal.SIGCHLD})
        if seen.si_signo != signal.SIGCHLD:
            on_signal(seen.si_signo, seen.si_code > 0)


@contextmanager
def held_signals() -> Iterator[Collection[int]]:
    """Block the signals that are passed on, while the block runs. Yields the signal mask from before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_forwarded(), signal.SIGCHLD])
    try:
        yield before
    finally:
        while _forwarded() and signal.sigtimedwait({*_forwarded(), signal.SIGCHLD}, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forwarded() -> list[int]:
    """The signals to pass on: none outside of the main thread, because only that one receives them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [getattr(signal, name) for name in _FORWARDED]


def signal_child_of(runtime: Child, program: Callable[[], int], number: int) -> None:
    """Send a signal to the program that ``runtime`` has started as its child. ``program`` finds the pid; it raises
    OSError or ValueError where there is none yet. Raises SystemFailure."""
    end = time.monotonic() + _PATIENCE
    while not runtime.has_ended and time.monotonic() < end:
        try:
            pid = program()
            held = os.pidfd_open(pid)
        except (OSError, ValueError):
            time.sleep(_POLL)
            continue
        try:
            if _parent_of(pid) == runtime.pid:  # else it has ended, and another process may have its pid
                signal.pidfd_send_signal(held, number)
                return
        except ProcessLookupError:
            break
        except OSError as error:
            raise SystemFailure(
                f"signal {number} for the program: {error.strerror}", hint="check the number of the signal"
            ) from None
        finally:
            os.close(held)
        time.sleep(_POLL)
    raise SystemFailure("the program has not started yet, or it has ended", hint="check that it runs, with `ps`")


def _parent_of(pid: int) -> int:
    """Raises ProcessLookupError."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        raise ProcessLookupError(pid) from None


def output_of(command: list[str]) -> tuple[int, str]:
    """Run a program that needs no input; its exit code, and what it and the processes that it leaves behind print.
    Raises SystemFailure."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        try:
            actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, writing, number) for number in (1, 2)]
            child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsigdef=[signal.SIGPIPE])
        except OSError as error:
            raise SystemFailure(
                f"{command[0]}: {error.strerror}", hint="check that the program is installed"
            ) from None
        finally:
            os.close(writing)
        said = file.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.decode("utf-8", "replace").strip()


def in_memory(data: bytes) -> int:
    """A descriptor of a file in memory with this content, to be read from its start."""
    descriptor = os.memfd_create("lamina", os.MFD_CLOEXEC)
    write_all(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def apply_limits(process: Mapping[str, Any]) -> None:
    """Set the resource limits and the oom score of a runtime spec's process for this process. Raises OSError."""
    if process.get("oomScoreAdj"):
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(process["oomScoreAdj"]))
        except OSError as error:
            why = f"oom_score_adj {process['oomScoreAdj']}: {error.strerror}"
            raise OSError(error.errno, why) from None
    for one in process.get("rlimits", ()):
        import resource

        try:
            resource.setrlimit(getattr(resource, one["type"]), (_limit(one["soft"]), _limit(one["hard"])))
        except ValueError as error:  # Python's translation of EPERM and EINVAL
            raise OSError(errno.EPERM, f"{one['type']}: {error}") from None


def divided_limits(process: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the process's limits for two calls of ``apply_limits``: first those above this process's own, which need
    its privileges; last the lower ones, after which this process may be able to do no more than start a program."""
    more: list[Any] = []
    less: list[Any] = []
    for one in process.get("rlimits", ()):
        import resource

        now = _unsigned(resource.getrlimit(getattr(resource, one["type"]))[1])
        (more if one["hard"] > now else less).append(one)
    return {**process, "rlimits": more}, {"rlimits": less}


def _unsigned(number: int) -> int:
    return number if number >= 0 else (1 << 64) - 1


def _limit(number: int) -> int:
    """As ``resource`` counts: a number beyond signed 64 bits is no limit."""
    return number if number < 1 << 63 else -1
