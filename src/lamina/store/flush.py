"""Writing to the disk early: what was written goes out while more comes in, so that the fsync at the end is short.

Only a hint. Linux has a call for it that Python lacks; elsewhere nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

EVERY = 16 << 20
"""Bytes between two hints."""
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, don't wait


def start_writing(descriptor: int, start: int, size: int) -> None:
    """Begin to write these bytes of an open file to its disk."""
    call = _call()
    if call is not None:
        call(descriptor, start, size, _WRITE)


@cache
def _call() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    from lamina.libc import libc

    try:
        call = libc().sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found
