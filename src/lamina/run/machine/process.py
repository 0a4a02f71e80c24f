"""The processes of a machine (``relay``, QEMU, virtiofsd): how they begin, and how others find them.

A file in the bundle names the relay. Its lock is held by the relay and by every process that this starts, so it tells
whether anything of the machine lives, however the processes ended.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, SystemFailure
from lamina.host.libc import die_with
from lamina.host.lock import acquire, unheld
from lamina.host.process_identity import start_time
from lamina.light import TYPE_CHECKING, signal
from lamina.store.fault import point

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "relay"
_POLL, _PATIENCE = 0.01, 10.0  # seconds
KILL = 16
"""SIGSTKFLT, which nothing sends: the relay takes it for SIGKILL, so that only the program is killed, and the machine
writes to its disk what the program has written."""
_KILLING = 5.0  # seconds for that


def hold(bundle: str) -> int:
    """Write down that this process is the machine's; the descriptor of the lock, which lasts until this process and
    all that have a copy have ended. Raises OSError, Conflict (an earlier run of the machine does not end)."""
    descriptor = _locked(bundle)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {start_time(os.getpid())}".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    point("machine.noted")
    return descriptor


def become_part(parent: int, log: int) -> None:
    """Make a forked child a process of the machine that dies with its ``parent``: in a session of its own, with
    default signals, without input, and with ``log``, a descriptor, for its messages. Raises OSError."""
    os.setsid()
    die_with(parent)
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for place, descriptor in enumerate((null, log, log)):
        os.dup2(descriptor, place)


@contextmanager
def kept_out(bundle: str) -> Iterator[None]:
    """No process of the machine runs while the block does. Raises OSError, Conflict (one does)."""
    descriptor = _locked(bundle)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(bundle: str) -> int:
    path = os.path.join(bundle, _NAME)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    limit = time.monotonic() + _PATIENCE
    while not acquire(descriptor, path, wait=False):  # an earlier run is about to end, or a process tests the lock
        if time.monotonic() > limit:
            os.close(descriptor)
            raise Conflict("processes of the machine's last run have not ended", hint="end them by hand")
        time.sleep(_POLL)
    return descriptor


def _process(bundle: str) -> int:
    """The pid of the relay; 0 if it has ended."""
    try:
        with open(os.path.join(bundle, _NAME), encoding="ascii") as file:
            pid, started = file.read().split()
        return int(pid) if str(start_time(int(pid))) == started else 0
    except (OSError, ValueError):
        return 0


def kill(bundle: str, number: int) -> None:
    """Send the program a signal. SIGKILL ends the machine at once if that does not end it in time. Raises
    SystemFailure (it has ended)."""
    pid = _process(bundle)
    try:
        if pid:
            os.kill(pid, KILL if number == signal.SIGKILL else number)
            if number == signal.SIGKILL:
                _end_in_time(bundle, pid)
            return
    except OSError:
        pass
    raise SystemFailure("the machine does not run", hint="see `lamina ps -a`")


def _end_in_time(bundle: str, pid: int) -> None:
    limit = time.monotonic() + _KILLING
    while _process(bundle) == pid:
        if time.monotonic() > limit:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(_POLL)


def end(bundle: str) -> None:
    """End a machine whose monitor was killed, and wait until nothing of it runs: QEMU is killed with the relay, but
    has the disk open until it has ended. Raises SystemFailure (it does not end)."""
    limit = time.monotonic() + _PATIENCE
    while _lives(bundle):
        pid = _process(bundle)
        if pid:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > limit:
            which = f"the machine's process {pid}" if pid else "a process of the machine"
            raise SystemFailure(f"{which} does not end", hint="end it by hand")
        time.sleep(_POLL)


def _lives(bundle: str) -> bool:
    path = os.path.join(bundle, _NAME)
    with unheld(path) as free:
        return not free and os.path.exists(path)
