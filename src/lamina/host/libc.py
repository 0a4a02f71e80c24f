"""The C library, for calls that Python lacks. Import this module where it is used: ctypes takes longer to load than
most calls."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_ARENA_MAX = -8  # mallopt(3)
_DEATH_SIGNAL, _SIGKILL = 1, 9  # prctl(2), signal(7)


@cache
def libc() -> ctypes.CDLL:
    """Return the C library, set up to keep errno. Raises as ``ctypes.CDLL`` in a program without one."""
    return ctypes.CDLL(None, use_errno=True)


def failed(path: str | None = None) -> OSError:
    """Return an OSError for the C call that just failed, from its errno; ``path`` is the file that it was about."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def die_with(parent: int) -> None:
    """Have the kernel kill this process, which ``parent`` has just forked, when that ends; end at once if it has."""
    libc().prctl(_DEATH_SIGNAL, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Undo ``die_with``."""
    libc().prctl(_DEATH_SIGNAL, 0, 0, 0, 0)


def share_memory_between_threads() -> None:
    """Have threads take their memory from two heaps. Otherwise there are up to eight for each core, and a server with
    large buffers in many threads keeps much more memory. Does nothing where the C library has no such setting."""
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 2)
