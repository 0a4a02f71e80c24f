"""The process of a machine: it runs QEMU, passes streams and signals on, and ends with the program's exit code.

It takes the place of a container's first process: a signal for it is a signal for the program. QEMU ends with it,
even if it is killed.
"""

from __future__ import annotations

import _socket
import os
import select
from contextlib import suppress

from lamina.host.files import write_all
from lamina.host.libc import die_with
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import CANNOT_RUN
from lamina.run.machine.machine import CONTROL, STDERR, STDIN, STDOUT, TERMINAL
from lamina.run.machine.shares import Shared, start
from lamina.store.fault import point

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIECE = 1 << 16
_NOT_FORWARDED = ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGWINCH", "SIGTTOU", "SIGTTIN", "SIGTSTP")
_MOST = 1 << 18  # bytes that wait to be written
_KILLED = 128
QEMU_LOG, CONSOLE = "qemu.log", "console.log"


class Launch(Value):
    """``command``: of QEMU, which gets what ``words`` makes of its streams and a descriptor of the bundle at its end.
    ``bundle``: a directory for its messages. ``terminal``: standard input is one, and the program gets one too.
    ``virtiofsd``: its path, if something is ``shared``. ``held``: a descriptor of the lock that all processes of the
    machine hold (``process``)."""

    command: Sequence[str]
    words: Callable[[Sequence[tuple[str, int]], int], Sequence[str]]
    bundle: str
    terminal: bool
    virtiofsd: str = ""
    shared: Sequence[Shared] = ()
    held: int = -1


class _Stream:
    """Bytes on their way from one descriptor to another; each waits for the other."""

    def __init__(self, source: int, target: int, *, ends: bool) -> None:
        """``ends``: the end of the input is passed on."""
        self.source, self.target, self.ends = source, target, ends
        self.waiting = b""
        self.is_open = True

    def register(self, poll: select.poll) -> None:
        if self.waiting:
            poll.register(self.target, select.POLLOUT)
        elif self.is_open:
            poll.register(self.source, select.POLLIN)

    def read(self) -> None:
        try:
            data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            return
        self.waiting = data
        self.write()

    def write(self) -> None:
        try:
            self.waiting = self.waiting[os.write(self.target, self.waiting) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads
            self.waiting = b""


class Relay:
    def __init__(self, launch: Launch, on_start: Callable[[str], object]) -> None:
        """``on_start`` is called once: with "" when the program has started, else with the reason why not."""
        self._launch = launch
        self._on_start: Callable[[str], object] | None = on_start
        names = (TERMINAL,) if launch.terminal else (STDIN, STDOUT, STDERR)
        self._sockets = {name: _socket.socketpair() for name in (*names, CONTROL)}
        self._woken, waking = os.pipe()
        for descriptor in (self._woken, waking):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        kept = {getattr(signal, name) for name in _NOT_FORWARDED if hasattr(signal, name)}
        for number in set(signal.valid_signals()) - kept:
            with suppress(OSError, ValueError):
                signal.signal(number, lambda *_: None)
        for name in ("SIGCHLD", "SIGWINCH"):
            signal.signal(getattr(signal, name), lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._child = 0
        self._said = b""
        self._code: int | None = None
        self._streams: list[_Stream] = []

    def run(self) -> int:
        """Run the machine to its end; the exit code."""
        self._spawn()
        self._connect()
        while self._child:
            self._once()
        for stream in self._streams:  # what QEMU has written before its end
            if stream.target in (1, 2):
                while stream.is_open:
                    stream.read()
                    os.set_blocking(stream.target, True)
                    stream.write()
        self._told(f"the machine ended before the program started{self._why()}")
        return CANNOT_RUN if self._code is None else self._code

    def _spawn(self) -> None:
        theirs = [(name, pair[1].fileno()) for name, pair in self._sockets.items()]
        bundle = os.open(self._launch.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        command = [*self._launch.command, *self._launch.words(theirs, bundle)]
        log = os.open(
            os.path.join(self._launch.bundle, QEMU_LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        if self._launch.shared:
            start(self._launch.virtiofsd, self._launch.shared, self._launch.bundle, log, self._launch.held)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                die_with(parent)
                for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
                    with suppress(OSError, ValueError):
                        signal.signal(number, signal.SIG_DFL)
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                for descriptor in (bundle, self._launch.held, *(descriptor for _, descriptor in theirs)):
                    os.set_inheritable(descriptor, True)
                os.execv(command[0], command)
            finally:
                os._exit(CANNOT_RUN)
        self._child = child
        point("machine.launched")
        os.close(log)
        os.close(bundle)
        for _, other in self._sockets.values():
            other.close()

    def _connect(self) -> None:
        ends = {name: pair[0].fileno() for name, pair in self._sockets.items()}
        for descriptor in ends.values():
            os.set_blocking(descriptor, False)
        self._control = ends[CONTROL]
        if self._launch.terminal:
            import tty

            tty.setraw(0)
            self._streams = [_Stream(0, ends[TERMINAL], ends=False), _Stream(ends[TERMINAL], 1, ends=False)]
        else:
            self._streams = [
                _Stream(0, ends[STDIN], ends=True),
                _Stream(ends[STDOUT], 1, ends=False),
                _Stream(ends[STDERR], 2, ends=False),
            ]

    def _once(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._control >= 0:
            poll.register(self._control, select.POLLIN)
        for stream in self._streams:
            if self._on_start is None or stream.source:  # input waits until somebody reads it
                stream.register(poll)
        for number, events in poll.poll():
            if number == self._woken:
                for one in os.read(number, _PIECE):
                    self._signalled(one)
            elif number == self._control:
                self._listen()
            else:
                for stream in self._streams:
                    if number == stream.target and stream.waiting and events & (select.POLLOUT | select.POLLERR):
                        stream.write()
                    elif number == stream.source and not stream.waiting:
                        stream.read()
                        if not stream.is_open and stream.ends:
                            # not closed: QEMU would drop what it has not read
                            self._sockets[STDIN][0].shutdown(_socket.SHUT_WR)
        while self._child:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid != self._child:  # virtiofsd: the machine sees errors in what it shares
                continue
            self._child = 0
            code = os.waitstatus_to_exitcode(status)
            if self._code is None and self._on_start is None:
                # the machine was switched off, from inside or by QEMU's end
                self._code = 0 if code == 0 else _KILLED - code if code < 0 else CANNOT_RUN

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            size = os.get_terminal_size(0)
            self._tell(f"size {size.lines} {size.columns}")
        elif number != signal.SIGCHLD:
            self._tell(f"signal {number}")

    def _tell(self, line: str) -> None:
        if self._control >= 0:
            with suppress(OSError):
                write_all(self._control, line.encode() + b"\n")

    def _listen(self) -> None:
        try:
            data = os.read(self._control, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._control = -1
            return
        self._said = (self._said + data)[-_MOST:]
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "started":
                self._told("")
                if self._launch.terminal:
                    self._signalled(signal.SIGWINCH)
            elif word == "failed":
                self._told(rest)
            elif word == "exit":
                self._code = int(rest) & 0xFF if rest.isdigit() else CANNOT_RUN
                self._tell("end")

    def _told(self, reason: str) -> None:
        if self._on_start is not None:
            self._on_start(reason)
            self._on_start = None

    def _why(self) -> str:
        """The last line of what QEMU or the kernel has said."""
        for name in (QEMU_LOG, CONSOLE):
            with suppress(OSError), open(os.path.join(self._launch.bundle, name), "rb") as file:
                lines = file.read()[-_PIECE:].decode("utf-8", "replace").split("\n")
                found = [line.strip() for line in lines if line.strip()]
                if found:
                    return f": {found[-1][:300]}"
        return ""
