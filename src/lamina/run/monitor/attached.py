"""The commands that are attached to a container, as its monitor sees them."""

from __future__ import annotations

import _socket
import os
import select
from contextlib import suppress

from lamina.light import Value
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
    STOP,
    WAKE,
    two_numbers,
)
from lamina.run.monitor.program import STDERR, STDOUT

_PACKETS = {STDOUT: OUTPUT, STDERR: ERROR}
_LETTERS = {STDOUT: b"o", STDERR: b"e"}
_ID = 64  # hexadecimal digits
_MOST = 1000
"""Commands that may be attached at once, if this process may open so many files."""
_KEPT = 32
"""Descriptors that are kept free of commands: for files, pipes and the program's next start."""


class Attached:
    """One connection. ``waiting``: packets that it has not taken yet."""

    def __init__(self, connection: _socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.streams = b""
        self.waiting: list[bytes] = []

    def send(self, packet: bytes) -> None:
        """Raises OSError (it has gone)."""
        self.waiting.append(packet)
        self.flush()

    def flush(self) -> None:
        """Raises OSError (it has gone)."""
        while self.waiting:
            try:
                self.connection.send(self.waiting[0])
            except BlockingIOError:
                return
            del self.waiting[0]


class Further(Value):
    """A further program that a command wants to run. Both descriptors are to be closed. ``described``: of the
    process, as JSON. ``answer``: the command's connection."""

    identity: str
    described: int
    answer: int

    def close(self) -> None:
        os.close(self.described)
        os.close(self.answer)


class Requests:
    """What the attached commands want, once. ``input``: for the program. ``size``: of the terminal. ``stopped``:
    somebody has stopped the container."""

    def __init__(self) -> None:
        self.input: list[bytes] = []
        self.input_ended = False
        self.size: tuple[int, int] | None = None
        self.signals: list[int] = []
        self.woken = False
        self.programs: list[Further] = []
        self.stopped = False


class Commands:
    """All connections of a monitor, and the socket that they come from."""

    def __init__(self, directory: str) -> None:
        """``directory``: of the container. Raises OSError."""
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = f"/proc/self/fd/{self._directory}/control"  # the path of a socket has 107 bytes at most
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._listening = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        before = os.umask(0o177)
        try:
            self._listening.bind(path)
        finally:
            os.umask(before)
        self._listening.listen(_MOST)
        self._every: dict[int, Attached] = {}
        self._most = max(2, min(_MOST, os.sysconf("SC_OPEN_MAX") - _KEPT))
        self._is_full = False

    @property
    def listening(self) -> int:
        """The descriptor of the socket; -1 while no more can be attached."""
        return -1 if self._is_full or len(self._every) >= self._most else self._listening.fileno()

    @property
    def descriptors(self) -> list[tuple[int, bool]]:
        """Of all connections, and whether each has packets to take."""
        return [(number, bool(one.waiting)) for number, one in self._every.items()]

    @property
    def blocked(self) -> bool:
        """Whether one of them reads slower than the program writes: the program must wait."""
        return any(one.waiting for one in self._every.values())

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._every

    def has_record(self) -> bool:
        """Whether the container's record is in its directory, wherever that was moved."""
        try:
            os.stat("container.json", dir_fd=self._directory)
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True

    def accept(self) -> bool:
        """Accept a command that waits; False if there is none, or no descriptor for it."""
        try:
            descriptor, _ = self._listening._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        except OSError:  # no descriptor is left: the others wait until one of these commands has gone
            self._is_full = bool(self._every)
            return False
        os.set_inheritable(descriptor, False)
        self.add(descriptor)
        return True

    def add(self, descriptor: int) -> None:
        self._every[descriptor] = Attached(_socket.socket(fileno=descriptor))

    def receive(self, descriptor: int, found: Requests) -> None:
        """Receive one packet."""
        one = self._every[descriptor]
        try:
            packet, passed = _received(one.connection)
        except BlockingIOError:
            return
        except OSError:
            packet, passed = b"", []
        letter, data = packet[:1], packet[1:]
        if letter == ATTACH:
            one.streams = data
        elif letter == INPUT and b"i" in one.streams:
            found.input.append(data)
        elif letter == INPUT_END and b"i" in one.streams:
            found.input_ended = True
        elif letter == SIZE:
            found.size = two_numbers(data) or found.size
        elif letter == SIGNAL and data.isdigit() and len(data) < 3:
            found.signals.append(int(data))
        elif letter == WAKE:
            found.woken = True
        elif letter == STOP:
            found.stopped = True
        elif letter == PROGRAM and passed and len(data) == _ID and data.isalnum():
            del self._every[descriptor]
            self._is_full = False
            found.programs.append(Further(data.decode(), passed.pop(), one.connection.detach()))
        else:  # it detaches, it has gone, or it does not speak this protocol
            found.input_ended = found.input_ended or (letter != DETACH and b"i" in one.streams)
            self._drop(descriptor)
        for number in passed:
            os.close(number)

    def flush(self, descriptor: int) -> None:
        try:
            self._every[descriptor].flush()
        except OSError:
            self._drop(descriptor)

    def tell(self, stream: int, data: bytes) -> None:
        """Send output to all that want it."""
        letter, kind = _LETTERS[stream], _PACKETS[stream]
        for descriptor, one in list(self._every.items()):
            if letter not in one.streams:
                continue
            try:
                for at in range(0, len(data), PIECE):
                    one.send(kind + data[at : at + PIECE])
            except OSError:
                self._drop(descriptor)

    def tell_end(self, code: int) -> None:
        """Send the program's exit code to all."""
        for one in self._every.values():
            with suppress(OSError):
                one.send(EXIT + str(code).encode())

    def linger(self) -> None:
        """Stay until all have taken what was told, or have gone."""
        while any(one.waiting for one in self._every.values()):
            poll = select.poll()
            for descriptor, one in self._every.items():
                if one.waiting:
                    poll.register(descriptor, select.POLLOUT)
            for descriptor, _ in poll.poll():
                self.flush(descriptor)

    def detach_all(self) -> None:
        for descriptor in list(self._every):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        self._every.pop(descriptor).connection.close()
        self._is_full = False

    def hide(self) -> None:
        """Let no further command find this monitor. Call it while it holds the container's lock: the next monitor
        makes its own socket of this name."""
        with suppress(OSError):
            os.unlink(f"/proc/self/fd/{self._directory}/control")

    def answer(self, code: int) -> None:
        """Send the exit code to the commands that have found this monitor since ``tell_end``."""
        known = set(self._every)
        while self.listening >= 0 and self.accept():
            pass
        for descriptor in self._every.keys() - known:
            with suppress(OSError):
                self._every[descriptor].send(EXIT + str(code).encode())

    def close(self) -> None:
        self._listening.close()


def _received(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """One packet, and the descriptors that came with it. Raises OSError."""
    packet, ancillary, _, _ = connection.recvmsg(PIECE + 1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    return packet, [
        int.from_bytes(data[at : at + 4], "little")
        for _, kind, data in ancillary
        if kind == _socket.SCM_RIGHTS
        for at in range(0, len(data) - 3, 4)
    ]
