"""The time of the store's file system, which may differ from the clock of the host.

The age of a file is measured with the clock that set its date. The clock may have been set back since, so a date
that is a little in the future counts as young; one that is farther away (from a wrong clock) counts as old.
"""

from __future__ import annotations

import os
import time

from lamina.store.paths import Paths


def now(paths: Paths) -> int:
    """The time, in nanoseconds since 1970, that the store's file system gives to a file that changes now. Needs no
    free space. If the store can't be written to, the time is that of the host's clock."""
    try:
        os.utime(paths.lock)
        return os.stat(paths.lock).st_mtime_ns
    except OSError:
        return time.time_ns()


def is_younger(then: int, seconds: float, now: int) -> bool:
    """Whether the time ``then`` is less than ``seconds`` ago, or less than that in the future."""
    return abs(now - then) < seconds * 1e9
