"""What time it is for the store's file system, which need not be this machine's clock.

Ages of files are told by the clock that dated them, and a date in the future (a clock that was wrong) counts as old.
"""

from __future__ import annotations

import os
import time

from lamina.store.paths import Paths


def now(paths: Paths) -> int:
    """Nanoseconds since 1970 as the store's file system dates a file that changes now. Needs no room on the disk; on
    a store that can't be written to it is this machine's clock."""
    try:
        os.utime(paths.lock)
        return os.stat(paths.lock).st_mtime_ns
    except OSError:
        return time.time_ns()


def is_younger(then: int, seconds: float, now: int) -> bool:
    """Whether what has the date ``then`` is younger than ``seconds``."""
    return 0 <= now - then < seconds * 1e9
