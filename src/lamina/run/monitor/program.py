"""The program of a container, as its monitor starts it: on pipes or a terminal, whose other ends the monitor has."""

from __future__ import annotations

import _socket
import os
import select
from contextlib import suppress

from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import CANNOT_RUN, ExitStatus
from lamina.run.runtime import code_of, delete, failure_in

if TYPE_CHECKING:
    from lamina.run.monitor.plan import Plan

STDOUT, STDERR = 1, 2
_SECONDS = 10.0
_POLL = 0.005  # seconds
_KILLED = 128
_LACK = "oom"  # run.machine.machine.LACK, which is loaded for machines only


class Running(Value):
    """``pid``: a child of this process. ``outputs``: descriptors to read from, and the stream that each is.
    ``stdin``: a descriptor to write to; -1: the program reads nothing. ``terminal``: of the program, or -1."""

    pid: int
    outputs: tuple[tuple[int, int], ...]
    stdin: int = -1
    terminal: int = -1


def start(plan: Plan) -> Running | ExitStatus:
    """Start the program; its exit status if that failed."""
    bundle = os.path.join(plan.directory, "bundle")
    for name in ("pid", "runtime.log", _LACK):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(bundle, name))
    if plan.runtime.is_machine:
        return _as_machine(plan, bundle)
    return _in_bubblewrap(plan, bundle) if plan.runtime.is_bubblewrap else _by_runtime(plan, bundle)


def has_failed(plan: Plan, code: int) -> bool:
    """Whether the exit code is bubblewrap's own: it could not start the program."""
    if not plan.runtime.is_bubblewrap or not 0 < code < _KILLED:
        return False
    from lamina.run.bubblewrap.process import was_started

    return not was_started(os.path.join(plan.directory, "bundle"))


def lacked_memory(plan: Plan) -> bool:
    """Whether a machine has killed its program for want of memory."""
    return plan.runtime.is_machine and os.path.exists(os.path.join(plan.directory, "bundle", _LACK))


def _by_runtime(plan: Plan, bundle: str) -> Running | ExitStatus:
    """The runtime makes the container and ends; the program, its child, becomes this subreaper's."""
    runtime, log, pid = plan.runtime, os.path.join(bundle, "runtime.log"), os.path.join(bundle, "pid")
    if os.path.isdir(os.path.join(plan.states, plan.identity)):
        delete(runtime, plan.states, plan.identity)
    command = [runtime.program, "--root", plan.states, "--log", runtime.log(log), "--log-format", "json"]
    command += [*runtime.options, "run", "--detach", "--bundle", bundle, "--pid-file", pid]
    with _Ends(plan) as ends:
        if plan.terminal:
            command += ["--console-socket", ends.listen(bundle)]
        status = _run([*command, plan.identity], ends.theirs)
        number = _number_in(pid)
        if status or not number:
            reason = failure_in(log) or _last_line(ends.said()) or "the runtime could not start the container"
            delete(runtime, plan.states, plan.identity)
            return ExitStatus(code_of(reason), reason=reason)
        return ends.keep(number, ends.received() if plan.terminal else -1)


def _in_bubblewrap(plan: Plan, bundle: str) -> Running | ExitStatus:
    """A forked child makes everything ready; bubblewrap, its child, becomes this subreaper's."""
    with _Ends(plan) as ends:
        terminal = ends.open_terminal() if plan.terminal else ""
        refused, refusing = os.pipe()
        waiting, go = os.pipe()
        child = os.fork()
        if child == 0:
            _become_container(plan, bundle, ends.theirs, terminal, refusing, waiting)
        os.close(refusing)
        os.close(waiting)
        with open(refused, "rb") as file:
            said = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        number = 0 if code else _number_in(os.path.join(bundle, "pid"))
        with open(go, "wb", buffering=0) as file:
            if number:
                with suppress(BrokenPipeError):
                    file.write(b"1")
        if said:
            stated, _, reason = said.decode("utf-8", "replace").partition(" ")
            return ExitStatus(int(stated), reason=reason)
        if not number or not _is_up(bundle, number):
            if number:
                code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
            reason = _last_line(ends.said()) or "bubblewrap could not start the program"
            return ExitStatus(code if code >= CANNOT_RUN else CANNOT_RUN, reason=reason)
        return ends.keep(number, ends.master)


def _as_machine(plan: Plan, bundle: str) -> Running | ExitStatus:
    """A forked child runs the machine, and stays with it."""
    with _Ends(plan) as ends:
        terminal = ends.open_terminal() if plan.terminal else ""
        told, telling = os.pipe()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _become_machine(bundle, ends.theirs, terminal, telling, parent)
        os.close(telling)
        with open(told, "rb") as file:
            said = file.read()
        if said == b"started":
            return ends.keep(child, ends.master)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        reason = said.decode("utf-8", "replace") or "the machine was killed before the program started"
        return ExitStatus(code if code >= CANNOT_RUN else CANNOT_RUN, reason=reason)


def _become_machine(bundle: str, streams: tuple[int, int, int], terminal: str, telling: int, parent: int) -> None:
    """In a forked child, for good. It ends with this monitor until others can find it (``machine.process``)."""
    code = CANNOT_RUN
    try:
        from lamina.host.libc import die_with

        die_with(parent)
        signal.set_wakeup_fd(-1)
        if terminal:
            from lamina.run.terminal import take

            take(terminal)
        else:
            os.setsid()
            for number, descriptor in enumerate(streams):
                os.dup2(descriptor, number)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # nothing of the monitor
            if descriptor > 2 and descriptor != telling:
                with suppress(OSError):  # the descriptor of this listing
                    os.close(descriptor)
        from lamina.run.machine.launching import run

        code = run(bundle, bool(terminal), telling)
    except BaseException as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        with suppress(OSError):
            os.write(telling, str(error).encode("utf-8", "surrogateescape"))
    finally:
        os._exit(code)


def _become_container(
    plan: Plan, bundle: str, streams: tuple[int, int, int], terminal: str, refusal: int, go: int
) -> None:
    """In a forked child, for good. A refusal goes to that pipe, as the exit code and the reason. ``go`` as
    ``become_orphan`` takes it."""
    try:
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        kept = {0, 1, 2, *streams, refusal, go}  # nothing of the monitor
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor not in kept:
                with suppress(OSError):  # the descriptor of this listing
                    os.close(descriptor)
        from lamina.run.bubblewrap import launch
        from lamina.run.child import Streams
        from lamina.run.rootfs import Inside

        with open(os.path.join(bundle, "config.json"), "rb") as file:
            from lamina.spec.json import read_own

            spec = read_own(file.read().decode())
        what = launch.Launch(
            plan.runtime.program,
            bundle,
            plan.identity,
            spec,
            Streams(*streams, interactive=True, terminal=plan.terminal),
            init=plan.init,
            must_filter=plan.must_filter,
        )
        with Inside(os.path.join(plan.directory, "rootfs")) as inside:
            refused = launch.become_container(what, inside, terminal, go, lambda: os.close(refusal))
        os.write(refusal, f"{refused.code} {refused.message or refused.reason}".encode())
    except BaseException as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        with suppress(OSError):
            os.write(refusal, f"{CANNOT_RUN} {error}".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(CANNOT_RUN)


def _is_up(bundle: str, child: int) -> bool:
    """Wait until bubblewrap runs the program; False if it ends before."""
    from lamina.run.bubblewrap.process import process_of, was_started

    while True:
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        try:
            process_of(bundle)
            return True
        except (OSError, ValueError):
            if ended:
                try:
                    return was_started(bundle)
                except (OSError, ValueError):
                    return False
        select.select((), (), (), _POLL)


class _Ends:
    """Both ends of the program's streams. What was not kept when the block ends is closed."""

    def __init__(self, plan: Plan) -> None:
        self._opened: list[int] = []
        self._listening: _socket.socket | None = None
        self.master = -1
        self._stdin = -1
        self._size = plan.size
        if plan.terminal:
            null = self._open(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            out, into = self._pipe()  # the runtime's own messages
            self.theirs = (null, into, into)
            self._outputs: tuple[tuple[int, int], ...] = ((out, STDERR),)
            return
        if plan.interactive:
            stdin, self._stdin = self._pipe()
        else:
            stdin = self._open(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        (out, out_end), (error, error_end) = self._pipe(), self._pipe()
        self.theirs = (stdin, out_end, error_end)
        self._outputs = ((out, STDOUT), (error, STDERR))

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
        if self._listening is not None:
            self._listening.close()

    def _open(self, descriptor: int) -> int:
        self._opened.append(descriptor)
        return descriptor

    def _pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        return self._open(reading), self._open(writing)

    def listen(self, bundle: str) -> str:
        """The path of a socket to which the runtime sends the program's terminal."""
        path = os.path.join(bundle, "console")
        with suppress(FileNotFoundError):
            os.unlink(path)
        place = self._open(os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._listening.bind(f"/proc/self/fd/{place}/console")  # the path of a socket has 107 bytes at most
        self._listening.listen(1)
        return f"/proc/{os.getpid()}/fd/{place}/console"

    def received(self) -> int:
        """The terminal that the runtime has sent. Raises OSError."""
        assert self._listening is not None
        self._listening.settimeout(_SECONDS)
        descriptor, _ = self._listening._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(fileno=descriptor)
        try:
            _, ancillary, _, _ = connection.recvmsg(1 << 12, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            for _, _, data in ancillary:
                terminal = self._open(int.from_bytes(data[:4], "little"))
                self._set_size(terminal)
                return terminal
        finally:
            connection.close()
        raise OSError("the runtime has sent no terminal")

    def open_terminal(self) -> str:
        """Open a terminal; the path of the program's end."""
        self.master, end = map(self._open, os.openpty())
        self._set_size(self.master)
        os.set_inheritable(self.master, False)
        return os.ttyname(end)

    def _set_size(self, terminal: int) -> None:
        if self._size:
            from lamina.run.monitor.terminal_size import set_size

            set_size(terminal, *self._size)

    def said(self) -> bytes:
        """What the runtime has written: the program did not start, so all of it is there."""
        found = b""
        for descriptor, _ in self._outputs:
            os.set_blocking(descriptor, False)
            with suppress(BlockingIOError):
                found += os.read(descriptor, 1 << 14)
        return found

    def keep(self, pid: int, terminal: int) -> Running:
        """The ends that are this process's, non-blocking."""
        outputs = ((terminal, STDOUT),) if terminal >= 0 else self._outputs
        stdin = terminal if terminal >= 0 else self._stdin
        kept = {stdin, terminal, *(descriptor for descriptor, _ in outputs)} - {-1}
        for descriptor in kept:
            os.set_blocking(descriptor, False)
            self._opened.remove(descriptor)
        return Running(pid, outputs, stdin, terminal)


def _run(command: list[str], streams: tuple[int, int, int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, number, place) for place, number in enumerate(streams)]
    defaults = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    try:
        child = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsigdef=defaults)
    except OSError:
        return CANNOT_RUN
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _number_in(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _last_line(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
