"""A pseudo terminal for a program that needs one while the caller has none: in a pipe, or in cron."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from lamina.events import start_threads
from lamina.host.files import write_all

_CHUNK = 1 << 16
_STREAMS = (0, 1, 2)
_SECONDS = 10


class LateReturns:
    """The output of `runc exec` at a terminal (pure). runc takes the carriage returns from the program's terminal and
    lets the outer one add them, but it does not hold the program until then: lines that are written before get two.
    These can only be the first ones; from the first line with one on, all stays as it is."""

    def __init__(self) -> None:
        self._over = False
        self._held = b""  # carriage returns, while what follows them has not come

    def __call__(self, data: bytes) -> bytes:
        """What can be passed on after ``data``. b"" is the end."""
        if self._over:
            return data
        held = self._held + data
        lines = held.split(b"\n")
        for number, line in enumerate(lines[:-1]):
            if not line.endswith(b"\r\r"):
                self._over = True
                return b"\n".join(lines)
            lines[number] = line[:-1]
        found = b"\n".join(lines)
        passed = found.rstrip(b"\r") if data else found
        self._held = found[len(passed) :]
        return passed


class Terminal:
    """What is written to it goes to the descriptor ``output``. ``path``: the file that a child opens as its streams.
    ``raw``: for a child that only passes its input on to another terminal; ``late``: and may do so too late for the
    first lines (``LateReturns``)."""

    def __init__(self, output: int, *, raw: bool = False, late: bool = False) -> None:
        self._output = output
        self._change = LateReturns() if late else bytes
        self._head, self._end = os.openpty()  # our copy of the end keeps the terminal open until a child opens it
        self.path = os.ttyname(self._end)
        if raw:
            import tty

            tty.setraw(self._end)
        self._thread: threading.Thread | None = None

    def start(self, lost: Callable[[], object]) -> None:
        """Pass output on, in a thread. Call it after the child has started: a process with threads must not fork.
        ``lost`` is called when the output can't be written any more."""
        self._thread = threading.Thread(target=self._pass_on, args=(lost,), daemon=True)
        start_threads([self._thread])

    def close(self) -> None:
        """Pass the rest of the output on. Call it when the child has ended."""
        os.close(self._end)
        if self._thread is None:
            os.close(self._head)
        else:
            self._thread.join(_SECONDS)  # a process that the child left behind may keep the terminal open

    def _pass_on(self, lost: Callable[[], object]) -> None:
        try:
            ended = False
            while not ended:
                data = self._read()
                ended = not data
                try:
                    write_all(self._output, self._change(data))
                except OSError:
                    lost()
                    return
        finally:
            os.close(self._head)

    def _read(self) -> bytes:
        try:
            return os.read(self._head, _CHUNK)
        except OSError:  # EIO: the other end is closed
            return b""


def take(path: str) -> None:
    """Make the terminal the controlling terminal of this process, and its three streams. Call it in a child."""
    os.setsid()
    opened = os.open(path, os.O_RDWR)
    for number in _STREAMS:
        os.dup2(opened, number)
