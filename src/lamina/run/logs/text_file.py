"""Log files of lines that other programs read: json-file and k8s-file. Written whole line by whole line, rotated as
docker does: FILE is the newest, FILE.1 the one before it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.light import TYPE_CHECKING
from lamina.run.logs import loss

if TYPE_CHECKING:
    from typing import Protocol

    from lamina.run.logs.drivers import Limits

    class Encoder(Protocol):
        def encode(self, stream: int, data: bytes, now: int) -> bytes:
            """The lines of a piece of output. The start of an unfinished line may be held back."""

        def rest(self, now: int) -> bytes:
            """The lines of what is held back."""


_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_BLOCK = 1 << 16


def rotated(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


class TextWriter:
    def __init__(self, path: str, limits: Limits, encoder: Encoder) -> None:
        self._path, self._limits, self._encoder = path, limits, encoder
        self._file, self._size = -1, 0
        self._lost, self._why = 0, ""
        self._open()

    def write(self, stream: int, data: bytes) -> None:
        if not data:
            return
        now = time.time_ns()
        lines = self._encoder.encode(stream, data, now)
        if self._size >= self._limits.size:
            self._rotate()
        if (self._lost and not self._tell_loss(now)) or not self._put_all(lines):
            self._lost += len(data)

    def end_run(self) -> None:
        now = time.time_ns()
        lines = self._encoder.rest(now)
        if not self._lost or self._tell_loss(now):
            self._put(lines)

    def close(self) -> None:
        self.end_run()
        self._close()

    def _put_all(self, lines: bytes) -> bool:
        """Append lines, in new files where one is full: at most one line more than its size, as with docker."""
        while self._size + len(lines) > self._limits.size:
            end = lines.find(b"\n", max(0, self._limits.size - self._size - 1)) + 1
            if not self._put(lines[:end]):
                return False
            lines = lines[end:]
            if not lines:
                break
            self._rotate()
            if self._size:  # no new file could be made
                break
        return self._put(lines)

    def _put(self, lines: bytes) -> bool:
        """Append all lines or nothing."""
        if not lines:
            return True
        if self._file < 0 and not self._open():
            return False
        try:
            if os.write(self._file, lines) == len(lines):
                self._size += len(lines)
                return True
            self._why = "the disk is full"
        except OSError as error:
            self._why = error.strerror or str(error)
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._close()
        return False

    def _tell_loss(self, now: int) -> bool:
        if self._put(self._encoder.encode(2, loss.note(self._lost, self._why), now)):
            self._lost = 0
        return not self._lost

    def _open(self) -> bool:
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            self._file = os.open(self._path, _FLAGS, 0o600)
            self._size = os.fstat(self._file).st_size
            self._drop_torn_line()
        except OSError as error:
            self._why = error.strerror or str(error)
            self._close()
            return False
        return True

    def _drop_torn_line(self) -> None:
        """Cut off a line that was written when the monitor or the host ended."""
        end = self._size
        while end:
            start = max(0, end - _BLOCK)
            at = os.pread(self._file, end - start, start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end != self._size:
            os.ftruncate(self._file, end)
            self._size = end

    def _rotate(self) -> None:
        """Begin a new file. If that fails, this one goes on: it is tried again at the next write."""
        new = f"{self._path}.new"
        try:
            file = os.open(new, _FLAGS | os.O_TRUNC, 0o600)
        except OSError:
            return
        try:
            free = 0  # the first number without a file; if there is none, that of the file to be lost
            while free < self._limits.files - 1 and os.path.lexists(rotated(self._path, free)):
                free += 1
            for number in range(free, 0, -1):
                with suppress(FileNotFoundError):
                    os.rename(rotated(self._path, number - 1), rotated(self._path, number))
            os.rename(new, self._path)
        except OSError:
            os.close(file)
            with suppress(OSError):
                os.unlink(new)
            return
        self._close()
        self._file, self._size = file, 0

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1
