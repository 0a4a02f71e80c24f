"""The process of a machine (``relay``), found from another process."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.light import signal
from lamina.store.roots import start_time

_NAME = "relay"
_POLL, _PATIENCE = 0.01, 10.0  # seconds


def note(bundle: str) -> None:
    """Write down that this process is the machine's. Raises OSError."""
    path = os.path.join(bundle, _NAME)
    with open(f"{path}.tmp", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {start_time(os.getpid())}")
    os.replace(f"{path}.tmp", path)


def _process(bundle: str) -> int:
    """Its pid; 0 if it has ended."""
    try:
        with open(os.path.join(bundle, _NAME), encoding="ascii") as file:
            pid, started = file.read().split()
        return int(pid) if str(start_time(int(pid))) == started else 0
    except (OSError, ValueError):
        return 0


def kill(bundle: str, number: int) -> None:
    """Send the program a signal. Raises SystemFailure (it has ended)."""
    pid = _process(bundle)
    try:
        if pid:
            os.kill(pid, number)
            return
    except OSError:
        pass
    raise SystemFailure("the machine does not run", hint="see `lamina ps -a`")


def end(bundle: str) -> None:
    """End a machine whose monitor was killed. Raises SystemFailure (it does not end)."""
    limit = time.monotonic() + _PATIENCE
    while pid := _process(bundle):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        if time.monotonic() > limit:
            raise SystemFailure(f"the machine's process {pid} does not end", hint="end it by hand")
        time.sleep(_POLL)
