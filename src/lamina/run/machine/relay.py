"""The process of a machine: it runs QEMU, passes streams and signals on, and ends with the program's exit code.

It takes the place of a container's first process: a signal for it is a signal for the program. QEMU ends with it,
even if it is killed.
"""

from __future__ import annotations

import _socket
import os
import select
import time
from contextlib import suppress

from lamina.host.files import write_all
from lamina.host.libc import libc
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import CANNOT_RUN
from lamina.run.machine.ends import OUT_OF_MEMORY, reason_for
from lamina.run.machine.machine import CONSOLE, CONTROL, LACK, STDERR, STDIN, STDOUT, TERMINAL
from lamina.run.machine.process import KILL, become_part
from lamina.run.machine.shares import Shared, start
from lamina.run.machine.streams import Console, Stream, pipes
from lamina.store.fault import point
from lamina.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIECE = 1 << 16
_NOT_FORWARDED = ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGWINCH", "SIGTTOU", "SIGTTIN", "SIGTSTP")
_MOST = 1 << 18  # bytes that wait to be written
_MOST_SAID = 300  # characters of a reason
_MOST_SHOWN = 1 << 24
"""Bytes of a terminal that wait: QEMU drops what it can't pass on there."""
_KILLED = 128
_ENDING = 20.0  # seconds from the program's end until the machine is switched off
_CODES = frozenset(map(str, range(256)))
_HARMLESS = ("SIGCONT", "SIGURG")  # signals that do not end a program
QEMU_LOG, CONSOLE_LOG = "qemu.log", "console.log"
_NETWORK = 0x40000000  # CLONE_NEWNET


class Launch(Value):
    """``command``: of QEMU, which gets what ``words`` makes of its streams and a descriptor of the bundle at its end.
    ``bundle``: a directory for its messages. ``terminal``: standard input is one, and the program gets one too.
    ``network``: the path of the network namespace for QEMU, "" for this process's. ``virtiofsd``: its path, if
    something is ``shared``. ``held``: a descriptor of the lock that all processes of the machine hold (``process``).
    ``token``: what the machine writes after the program's output. ``emulated``: takes the place of ``command`` if the
    kernel has said nothing after so many seconds of ``patience``; () for none."""

    command: Sequence[str]
    words: Callable[[Sequence[tuple[str, int]], int], Sequence[str]]
    bundle: str
    terminal: bool
    network: str = ""
    virtiofsd: str = ""
    shared: Sequence[Shared] = ()
    held: int = -1
    token: str = ""
    emulated: Sequence[str] = ()
    patience: float = 0.0


class Relay:
    def __init__(self, launch: Launch, on_start: Callable[[str], object]) -> None:
        """``on_start`` is called once: with "" when the program has started, else with the reason why not."""
        self._launch = launch
        self._on_start: Callable[[str], object] | None = on_start
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
        self._sockets: dict[str, _socket.socket] = {}
        self._pipes: tuple[int, ...] = ()
        self._child = 0
        self._said = b""
        self._code: int | None = None
        self._status = 0
        self._streams: list[Stream] = []
        self._deadline: float | None = None
        self._is_ending = False

    def run(self) -> int:
        """Run the machine to its end; the exit code."""
        launch = self._launch
        self._spawn(launch.command)
        self._connect()
        if launch.emulated:
            self._deadline = time.monotonic() + launch.patience
        while self._child:
            self._once()
        for read in (self._listen, self._console.read, self._messages.read):  # what was said before the end
            while read():
                pass
        for descriptor in (1, 2):
            os.set_blocking(descriptor, True)
        for stream in self._streams:  # what QEMU has written before its end
            if stream.target in (1, 2):
                stream.write()
                while stream.is_open:
                    stream.read()
        why = reason_for(
            self._status, *(said.tail.decode("utf-8", "replace") for said in (self._console, self._messages))
        )
        started = self._has_started
        self._told(f"the machine ended before the program started{f': {why}' if why else ''}")
        return self._ended(why, started=started)

    def _ended(self, why: str, *, started: bool) -> int:
        """The exit code; a line says what has happened if the program was not the cause."""
        killed = self._code == _KILLED + signal.SIGKILL and why.startswith(OUT_OF_MEMORY)
        if self._code is not None and not killed:
            return self._code
        if killed:
            self._say(f"the machine had too little memory ({why}): give it more with --memory")
            self._note_lack()
        elif started and why:
            self._say(f"the machine ended: {why}")
        if self._code is not None:
            return self._code
        if self._status:
            return _KILLED - self._status if self._status < 0 else CANNOT_RUN
        return CANNOT_RUN if why or not started else 0

    def _note_lack(self) -> None:
        with suppress(OSError):
            path = os.path.join(self._launch.bundle, LACK)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def _spawn(self, command: Sequence[str]) -> None:
        for one in self._sockets.values():
            one.close()
        names = () if self._launch.terminal else (STDIN, STDOUT, STDERR)
        pairs = {name: _socket.socketpair() for name in (*names, CONTROL, CONSOLE)}
        self._sockets = {name: pair[0] for name, pair in pairs.items()}
        theirs = [(name, pair[1].fileno()) for name, pair in pairs.items()]
        if self._launch.terminal:
            theirs.append((TERMINAL, -1))
            self._pipes = pipes(os.path.join(self._launch.bundle, TERMINAL), self._pipes)
        bundle = os.open(self._launch.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        command = [*command, *self._launch.words(theirs, bundle)]
        said, log = os.pipe()
        os.set_blocking(said, False)
        self._messages = Console(said, os.path.join(self._launch.bundle, QEMU_LOG))
        if self._launch.shared:
            start(self._launch.virtiofsd, self._launch.shared, self._launch.bundle, log, self._launch.held)
        parent = os.getpid()
        network = os.open(self._launch.network, os.O_RDONLY | os.O_CLOEXEC) if self._launch.network else -1
        child = os.fork()
        if child == 0:
            try:
                become_part(parent, log)
                for descriptor in (
                    bundle,
                    self._launch.held,
                    *(descriptor for _, descriptor in theirs if descriptor >= 0),
                ):
                    os.set_inheritable(descriptor, True)
                if network >= 0 and libc().setns(network, _NETWORK) != 0:
                    os.write(log, b"the network namespace of the machine can't be entered\n")
                    os._exit(CANNOT_RUN)
                os.execv(command[0], command)
            finally:
                os._exit(CANNOT_RUN)
        self._child = child
        point("machine.launched")
        os.close(log)
        os.close(bundle)
        if network >= 0:
            os.close(network)
        for _, other in pairs.values():
            other.close()

    def _connect(self) -> None:
        ends = {name: one.fileno() for name, one in self._sockets.items()}
        for descriptor in ends.values():
            os.set_blocking(descriptor, False)
        for descriptor in (1, 2):
            os.set_blocking(descriptor, False)
        self._control = ends[CONTROL]
        self._console = Console(ends[CONSOLE], os.path.join(self._launch.bundle, CONSOLE_LOG))
        if self._launch.terminal:
            import tty

            tty.setraw(0)
            self._streams = [Stream(0, self._pipes[0]), Stream(self._pipes[1], 1, most=_MOST_SHOWN)]
            self._signalled(signal.SIGWINCH)  # the machine reads it before the program starts
        else:
            token = self._launch.token.encode()
            self._streams = [
                Stream(0, ends[STDIN], ends=True),
                Stream(ends[STDOUT], 1, token=token),
                Stream(ends[STDERR], 2, token=token),
            ]

    def _once(self) -> None:
        poll = select.poll()
        for number in (self._woken, self._control, self._console.source, self._messages.source):
            if number >= 0:
                poll.register(number, select.POLLIN)
        for stream in self._streams:
            if self._has_started or stream.source:  # input waits until somebody reads it
                stream.register(poll)
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000 + 1
        for number, events in poll.poll(left):
            if number == self._woken:
                for one in os.read(number, _PIECE):
                    self._signalled(one)
            elif number == self._control:
                self._listen()
            elif number == self._console.source:
                self._console.read()
            elif number == self._messages.source:
                self._messages.read()
            else:
                for stream in self._streams:
                    self._pass_on(stream, number, events)
        self._reap()
        self._look_at_end()
        self._look_at_time()

    def _look_at_end(self) -> None:
        if self._is_ending and all(stream.is_complete and not stream.waiting for stream in self._streams[1:]):
            self._is_ending = False
            self._tell("end")
            self._deadline = time.monotonic() + _ENDING

    def _pass_on(self, stream: Stream, number: int, events: int) -> None:
        if number == stream.target and stream.waiting and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            stream.write()
        if number != stream.source or not events & (select.POLLIN | select.POLLERR | select.POLLHUP):
            return
        if stream.is_open and not stream.read() and stream.ends:
            # not closed: QEMU would drop what it has not read
            self._sockets[STDIN].shutdown(_socket.SHUT_WR)

    def _reap(self) -> None:
        while self._child:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == self._child:  # else virtiofsd: the machine sees errors in what it shares
                self._child = 0
                self._status = os.waitstatus_to_exitcode(status)

    def _look_at_time(self) -> None:
        if self._deadline is None or not self._child:
            return
        if self._code is None and self._console.has_spoken:
            self._deadline = None
        elif time.monotonic() >= self._deadline:
            self._deadline = None
            os.kill(self._child, signal.SIGKILL)
            if self._code is None:
                self._emulate()

    def _emulate(self) -> None:
        os.waitpid(self._child, 0)
        self._say(f"KVM has run nothing in {self._launch.patience:g} seconds: the machine runs by emulation")
        self._spawn(self._launch.emulated)
        self._connect()

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the machine may be the author of the text
            os.write(2, f"lamina: {clean(text)}{chr(13) * self._launch.terminal}\n".encode())

    def _signalled(self, number: int) -> None:
        number = signal.SIGKILL if number == KILL else number
        if number == signal.SIGWINCH:
            if self._launch.terminal:
                size = os.get_terminal_size(0)
                self._tell(f"size {size.lines} {size.columns}")
        elif number == signal.SIGCHLD:
            pass
        elif self._has_started:
            self._tell(f"signal {number}")
        elif number not in {getattr(signal, name) for name in _HARMLESS}:
            self._code = _KILLED + number
            self._told("the machine was stopped before the program started")
            os.kill(self._child, signal.SIGKILL)

    def _tell(self, line: str) -> None:
        if self._control >= 0:
            with suppress(OSError):
                write_all(self._control, line.encode() + b"\n")

    def _listen(self) -> bool:
        """Returns whether there may be more."""
        try:
            data = os.read(self._control, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._control = -1
            return False
        self._said = (self._said + data)[-_MOST:]
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "started":
                self._told("")
            elif word == "failed":
                reason = rest[:_MOST_SAID] or "the machine does not say why it failed"
                if self._has_started:
                    self._say(reason)
                self._told(reason)
            elif word == "exit" and self._code is None:
                self._told("")
                self._code = int(rest) if rest in _CODES else CANNOT_RUN
                self._is_ending = True
        return True

    @property
    def _has_started(self) -> bool:
        return self._on_start is None

    def _told(self, reason: str) -> None:
        if self._on_start is not None:
            self._on_start(reason)
            self._on_start = None
