"""The first process of a running bubblewrap container: its pid, and signals to it."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.light import signal
from lamina.spec.json import read_own

_POLL, _PATIENCE = 0.005, 1.0  # seconds


def kill(bundle: str, number: int) -> None:
    """Send a signal to the container's program. Raises SystemFailure."""
    _, held = held_process(bundle)
    try:
        signal.pidfd_send_signal(held, number)
    except OSError as error:
        raise SystemFailure(f"the container's program: {error.strerror}", hint="see `lamina ps`") from None
    finally:
        os.close(held)


def held_process(bundle: str) -> tuple[int, int]:
    """The pid of the container's program, and a pidfd of it. Raises SystemFailure."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            number = process_of(bundle)
            held = os.pidfd_open(number)
            with suppress(OSError, ValueError):
                if process_of(bundle) == number:  # else it has ended, and another process may have its pid
                    return number, held
            os.close(held)
        except (OSError, ValueError):
            pass
        if time.monotonic() > end or _has_ended(bundle):
            raise SystemFailure("the container has no process yet, or it has ended", hint="see `lamina ps`")
        time.sleep(_POLL)


def _has_ended(bundle: str) -> bool:
    try:
        with open(pid_file(bundle), "rb") as file:
            return not os.path.exists(f"/proc/{int(file.read())}")
    except (OSError, ValueError):
        return False  # it has not started


def process_of(bundle: str) -> int:
    """The pid of the container's program: the first process that bubblewrap has started and that is not bubblewrap
    itself. Raises OSError or ValueError if there is none."""
    with open(pid_file(bundle), "rb") as file:
        monitor = int(file.read())
    number = child_of(monitor)
    own = _started_from(monitor)  # a process with a child runs bubblewrap already
    if _started_from(number) == own:  # it still makes mounts, or it is the one that reaps
        number = child_of(number)
        if _started_from(number) == own:
            raise ProcessLookupError(number)
    return number


def _started_from(pid: int) -> tuple[int, int, bytes]:
    """The file that a process was started from: its device and inode number, and its mount. A bubblewrap in the
    image or in a volume is another file. Raises OSError."""
    descriptor = os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            mount = next(line for line in file if line.startswith(b"mnt_id:"))
        return state.st_dev, state.st_ino, mount
    finally:
        os.close(descriptor)


def pid_file(bundle: str) -> str:
    """The file with the pid of the process that starts bubblewrap."""
    return os.path.join(bundle, "pid")


def status_file(bundle: str) -> str:
    """The file into which bubblewrap writes what becomes of the program."""
    return os.path.join(bundle, "bubblewrap.json")


def was_started(bundle: str) -> bool:
    """Whether bubblewrap reports an exit code of the program, not its own. Raises OSError, ValueError."""
    with open(status_file(bundle), encoding="utf-8") as file:
        return any("exit-code" in read_own(line) for line in file)


def child_of(pid: int) -> int:
    """The only child of a process. Raises ProcessLookupError."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            found = file.read().split()
    except FileNotFoundError:  # it has ended, or the kernel has no such file
        found = []
    if found:
        return int(found[0])
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                    return int(name)
    raise ProcessLookupError(pid)
