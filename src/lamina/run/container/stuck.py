"""A monitor that stays although its program has ended: it was stopped, or waits for what does not come."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.errors import NotFound
from lamina.host.process_identity import boot_id, start_time
from lamina.light import TYPE_CHECKING, signal

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store

_LOOK, _STOPPED, _STUCK = 0.2, 1.0, 10.0  # seconds


class Monitor:
    """The monitor of a container that is to end. The lock tells when it has ended."""

    def __init__(self, store: Store, container: Container) -> None:
        self._store, self._container = store, container
        self._looked = self._needed = time.monotonic()
        self._continued = False

    def hurry(self) -> None:
        """If the program has ended, let a stopped monitor go on, and kill one that still does not end: the next look
        at the container clears up then."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        try:
            one = self._store.containers.get(self._container.id, damaged=True)
        except NotFound:
            return
        if not _is_monitored(one) or one.is_program_alive:
            self._needed = now
        elif now - self._needed > _STUCK:
            _send(one.pid, signal.SIGKILL)
        elif now - self._needed > _STOPPED and not self._continued:
            self._continued = True
            _send(one.pid, signal.SIGCONT)


def _is_monitored(one: Container) -> bool:
    """Whether the record names a living monitor, and a program."""
    here = one.program > 0 and not one.is_elsewhere and one.boot == boot_id()
    return here and start_time(one.pid) == one.started is not None


def _send(pid: int, number: int) -> None:
    with suppress(OSError):
        os.kill(pid, number)
