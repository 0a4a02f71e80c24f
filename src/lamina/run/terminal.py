"""A terminal of lamina's own for a program that is to have one, where the caller has none: in a pipe, or in cron."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from lamina.events import started
from lamina.host.files import write_all

_CHUNK = 1 << 16
_STREAMS = (0, 1, 2)
_SECONDS = 10


def is_needed() -> bool:
    """Whether none of this process's streams is a terminal."""
    return not any(os.isatty(number) for number in _STREAMS)


class Terminal:
    """What is said at it goes to standard output; ``path``: what a child opens as its
    streams. ``raw``: for a child that only passes on what it reads, to another terminal."""

    def __init__(self, *, raw: bool = False) -> None:
        self._head, self._end = os.openpty()  # the kernel hangs up where nobody has opened its end
        self.path = os.ttyname(self._end)
        if raw:
            import tty

            tty.setraw(self._end)
        self._thread: threading.Thread | None = None

    def start(self, lost: Callable[[], object]) -> None:
        """Call it when the child has started: a process with threads does not fork. ``lost`` is called when nobody
        reads our output any more."""
        self._thread = threading.Thread(target=self._pass_on, args=(lost,), daemon=True)
        started([self._thread])

    def close(self) -> None:
        """Pass the rest on. Call it when the child has ended."""
        os.close(self._end)
        if self._thread is None:
            os.close(self._head)
        else:
            self._thread.join(_SECONDS)  # longer only where somebody whom the child left behind still has it

    def _pass_on(self, lost: Callable[[], object]) -> None:
        try:
            while data := self._read():
                try:
                    write_all(1, data)
                except OSError:
                    lost()
                    return
        finally:
            os.close(self._head)

    def _read(self) -> bytes:
        try:
            return os.read(self._head, _CHUNK)
        except OSError:  # the kernel's word for the end
            return b""


def take(path: str) -> None:
    """Make the terminal this process's own, and its streams. In a child."""
    os.setsid()
    opened = os.open(path, os.O_RDWR)
    for number in _STREAMS:
        os.dup2(opened, number)
