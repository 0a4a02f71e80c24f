"""What passes between a machine and this host: the program's streams, and what the kernel says on its console."""

from __future__ import annotations

import fcntl
import os
import select
from contextlib import suppress

_PIECE = 1 << 16
_TAIL = 1 << 14
_SET_PIPE_SIZE, _PIPE_SIZE = 1031, 1 << 20  # fcntl(2)
_MOST_CONSOLE = 1 << 20
"""Bytes that a console's file has at most: a machine may write for ever."""


class Stream:
    """Bytes on their way from one descriptor to another; each waits for the other."""

    def __init__(self, source: int, target: int, *, most: int = 1, token: bytes = b"", ends: bool = False) -> None:
        """``most``: it reads on while fewer bytes than this wait to be written. ``token``: what the machine writes
        after the last byte; it is not passed on. ``ends``: the end of the input is passed on."""
        self.source, self.target, self.ends = source, target, ends
        self.waiting = b""
        self.is_open = True
        self.is_complete = not token
        """All that was written has arrived."""
        self._most, self._token, self._held = most, token, b""

    def register(self, poll: select.poll) -> None:
        if self.waiting:
            poll.register(self.target, select.POLLOUT)
        if self.is_open and len(self.waiting) < self._most:
            poll.register(self.source, select.POLLIN)

    def read(self) -> bool:
        """Returns whether there may be more."""
        try:
            data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            data, self._held = self._held, b""  # it was no token
        elif self._token:
            data = self._without_token(data)
        self.waiting += data
        self.write()
        return self.is_open

    def _without_token(self, data: bytes) -> bytes:
        data = self._held + data
        before, token, _ = data.partition(self._token)
        if token:
            self._held, self.is_open, self.is_complete = b"", False, True
            return before
        kept = next((size for size in range(len(self._token) - 1, 0, -1) if data.endswith(self._token[:size])), 0)
        self._held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def write(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.target, self.waiting) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads
            self.waiting = b""


def pipes(path: str, old: tuple[int, ...]) -> tuple[int, int]:
    """Make two named pipes as QEMU takes them; the descriptors to write to and to read from. ``old``: those of an
    earlier call, which are closed. Raises OSError."""
    for descriptor in old:
        os.close(descriptor)
    for name in (f"{path}.in", f"{path}.out"):
        with suppress(FileNotFoundError):
            os.unlink(name)
        os.mkfifo(name, 0o600)
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    writing = os.open(f"{path}.in", os.O_RDWR | flags)  # nobody reads yet
    reading = os.open(f"{path}.out", os.O_RDONLY | flags)
    with suppress(OSError):
        fcntl.fcntl(reading, _SET_PIPE_SIZE, _PIPE_SIZE)
    return writing, reading


class Console:
    """What the kernel says, or QEMU, in a file."""

    def __init__(self, source: int, path: str) -> None:
        self.source = source
        self.tail = b""
        self._left = _MOST_CONSOLE
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def has_spoken(self) -> bool:
        return bool(self.tail)

    def read(self) -> bool:
        """Returns whether there may be more."""
        try:
            data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if self._file >= 0:
                os.close(self._file)
            self.source = self._file = -1
            return False
        self.tail = (self.tail + data)[-_TAIL:]
        with suppress(OSError):
            self._left -= os.write(self._file, data[: self._left])
        return True
