"""A command that is attached to a container: its own streams are the program's, until the program ends or the user
detaches."""

from __future__ import annotations

import _socket
import os
import select
import time
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, LaminaError
from lamina.host.files import reported, write_all
from lamina.light import TYPE_CHECKING, signal
from lamina.run.monitor.packets import (
    ATTACH,
    DETACH,
    ERROR,
    EXIT,
    INPUT,
    INPUT_END,
    OUTPUT,
    PIECE,
    PROGRAM,
    SIGNAL,
    SIZE,
    WAKE,
)
from lamina.run.monitor.streams import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")
_PATIENCE, _PAUSE = 5.0, 0.01  # seconds
DETACHED = -1
"""In place of an exit code: the user has detached."""
UNKNOWN = -2
"""In place of an exit code: the monitor has gone without telling one."""


def pair() -> tuple[int, int]:
    """Two connected sockets: one for ``Client``, one for the monitor."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return ours.detach(), theirs.detach()


def connect(directory: str, name: str) -> int:
    """A socket to the monitor of the container in ``directory``. Raises Conflict (it has none)."""
    with reported(directory):
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        _connect(connection, f"/proc/self/fd/{place}/control")
        return connection.detach()
    except OSError:
        raise Conflict(
            f"the container {name} has no monitor: it does not run, or runs in front of another command",
            hint="see `lamina ps -a`",
        ) from None
    finally:
        connection.close()
        os.close(place)


def _connect(connection: _socket.socket, path: str) -> None:
    """Connect, but do not wait long: a monitor that was stopped takes no more connections at some time. Raises
    OSError."""
    connection.setblocking(False)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.connect(path)
            break
        except BlockingIOError:  # others connect at this moment
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
    connection.setblocking(True)


def tell(directory: str, packet: bytes = WAKE) -> None:
    """Send a packet (``packets``) to the monitor, if there is one."""
    with suppress(LaminaError, OSError):
        connection = _socket.socket(fileno=connect(directory, ""))
        try:
            connection.send(packet)
        finally:
            connection.close()


def run_further(directory: str, identity: str, described: int) -> int:
    """Ask the monitor to run a further program (``run.further``); the socket of its answer. ``described``: a
    descriptor of the process, as JSON. Raises Conflict (there is no monitor), OSError."""
    connection = _socket.socket(fileno=connect(directory, ""))
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, described.to_bytes(4, "little"))]
        connection.sendmsg([PROGRAM + identity.encode()], rights)
        return connection.detach()
    finally:
        connection.close()


def _packet(connection: _socket.socket) -> bytes:
    """Receive a packet; b"" after the last one. Raises OSError."""
    try:
        return connection.recv(PIECE + 1)
    except ConnectionResetError:  # the monitor has gone before it read all; what it said before is still there
        return connection.recv(PIECE + 1)


def exit_code_from(connection: int) -> int | None:
    """Wait until the monitor tells the program's exit code, and goes; None if it goes without. The socket is
    closed."""
    one = _socket.socket(fileno=connection)
    code = None
    try:
        with suppress(OSError):  # it may have gone already; then what it said is still there
            one.send(ATTACH)
        with suppress(OSError):
            while packet := _packet(one):
                if packet[:1] == EXIT:
                    code = int(packet[1:])
    finally:
        one.close()
    return code


class Client:
    """One attached command. Its socket is closed by ``run``."""

    def __init__(
        self,
        connection: int,
        *,
        interactive: bool,
        terminal: bool,
        outputs: bytes = b"oe",
        keys: bytes = KEYS,
        forward: bool = True,
    ) -> None:
        """``connection``: a socket to the monitor. ``interactive``: with standard input. ``terminal``: the program
        has a terminal. ``outputs``: letters of the streams: o, e. ``keys``: what detaches; b"" for nothing.
        ``forward``: signals for this process go to the program."""
        self._connection = _socket.socket(fileno=connection)
        self._interactive = interactive
        self._terminal = terminal
        self._outputs = outputs
        self._keys = keys
        self._forward = forward
        self._typed = b""
        self._waiting: list[bytes] = []

    def attach(self) -> None:
        """Ask for the streams. Call it before the monitor starts, or at once."""
        self._send(ATTACH + (b"i" if self._interactive else b"") + self._outputs)
        self._send_size()

    def close(self) -> None:
        self._connection.close()

    def run(self) -> int:
        """Pass everything on until the program ends; its exit code, DETACHED, or UNKNOWN. Standard input is set to
        raw mode meanwhile, if it and the program have a terminal."""
        try:
            with self._signals() as woken, self._raw():
                return self._until_end(woken)
        finally:
            self.close()

    def _until_end(self, woken: int) -> int:
        code = UNKNOWN
        self._connection.setblocking(False)
        reads = self._interactive
        while True:
            poll = select.poll()
            number = self._connection.fileno()
            poll.register(number, select.POLLIN | (select.POLLOUT if self._waiting else 0))
            poll.register(woken, select.POLLIN)
            if reads and not self._waiting:
                poll.register(0, select.POLLIN)
            for descriptor, events in poll.poll():
                if descriptor == woken:
                    for one in os.read(woken, 64):
                        self._take_signal(one)
                elif descriptor == 0:
                    reads = self._read_input()
                    if self._typed == self._keys and self._keys:
                        self._send(DETACH)
                        return DETACHED
                else:
                    if events & select.POLLOUT:
                        self._flush()
                    if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        packet = self._received()
                        if packet is None:
                            continue
                        if not packet:
                            return code
                        if packet[:1] == EXIT:
                            code = int(packet[1:])
                            reads = False
                        else:
                            self._write(packet)

    def _received(self) -> bytes | None:
        try:
            return _packet(self._connection)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _write(self, packet: bytes) -> None:
        """Raises OSError (nobody reads this command's output)."""
        stream = {OUTPUT: 1, ERROR: 2}.get(packet[:1])
        if stream:
            write_all(stream, packet[1:])

    def _read_input(self) -> bool:
        """Pass a piece of standard input on; False at its end."""
        try:
            data = os.read(0, PIECE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._send(INPUT_END)
            return False
        if self._terminal and self._keys:
            data = self._without_keys(data)
        if data:
            self._send(INPUT + data)
        return True

    def _without_keys(self, data: bytes) -> bytes:
        """What is to be passed on: keys that may be the beginning of those that detach wait for the next ones."""
        passed = b""
        for at in range(len(data)):
            self._typed += data[at : at + 1]
            if self._typed == self._keys:
                return passed
            while self._typed and not self._keys.startswith(self._typed):
                passed, self._typed = passed + self._typed[:1], self._typed[1:]
        return passed

    def _send(self, packet: bytes) -> None:
        self._waiting.append(packet)
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._connection.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # the monitor has gone: its end is read next
                self._waiting.clear()
                return
            del self._waiting[0]

    def _send_size(self) -> None:
        if not self._terminal:
            return
        from lamina.run.monitor.terminal_size import size_of

        for number in (0, 1, 2):
            with suppress(OSError):
                rows, columns = size_of(number)
                self._send(SIZE + f"{rows} {columns}".encode())
                return

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._send_size()
        elif self._forward:
            self._send(SIGNAL + str(number).encode())

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """Signals are read from the descriptor that this yields, while the block runs."""
        numbers = [getattr(signal, name) for name in (*(_FORWARDED if self._forward else ()), "SIGWINCH")]
        woken, waking = os.pipe()
        for descriptor in (woken, waking):
            os.set_blocking(descriptor, False)
        before = [(number, signal.signal(number, lambda *_: None)) for number in numbers]
        wakeup = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before:
                signal.signal(number, handler)
            os.close(woken)
            os.close(waking)

    @contextmanager
    def _raw(self) -> Iterator[None]:
        if not (self._terminal and self._interactive and os.isatty(0)):
            yield
            return
        import termios
        import tty

        before = termios.tcgetattr(0)
        try:
            tty.setraw(0, termios.TCSANOW)  # what was typed ahead stays
            yield
        finally:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, before)
