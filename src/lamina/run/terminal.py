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


class Terminal:
    """What is written to it goes to the descriptor ``output``. ``path``: the file that a child opens as its streams.
    ``raw``: for a child that only passes its input on to another terminal."""

    def __init__(self, output: int, *, raw: bool = False) -> None:
        self._output = output
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
            while data := self._read():
                try:
                    write_all(self._output, data)
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
