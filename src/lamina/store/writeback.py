"""Writing to the disk early, so that the fsync at the end is short; syncing many small files at once; and measuring
how much of a file is not on the disk yet.

Everything but ``sync_together`` is a hint. Linux has system calls for it that Python lacks; on other systems nothing
happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache

EVERY = 16 << 20
"""Bytes between two hints."""
_AT_ONCE = 16  # syncs
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, don't wait
_CACHESTAT = 451  # the number of the system call, on every architecture but alpha


def start_writing(descriptor: int, start: int, size: int) -> None:
    """Start writing these bytes of an open file to its disk."""
    call = _call()
    if call is not None:
        call(descriptor, start, size, _WRITE)


def unwritten(path: str) -> int:
    """The bytes of the file that are only in the page cache (Linux from 6.5; otherwise 0). Raises OSError if it can't
    be opened."""
    if sys.platform != "linux":
        return 0
    import ctypes

    from lamina.host.files import READ_FLAGS
    from lamina.host.libc import libc

    descriptor = os.open(path, READ_FLAGS)
    try:
        whole = (ctypes.c_uint64 * 2)(0, 0)
        found = (ctypes.c_uint64 * 5)()  # pages: cached, dirty, being written, evicted, recently evicted
        if libc().syscall(ctypes.c_long(_CACHESTAT), ctypes.c_int(descriptor), whole, found, ctypes.c_uint(0)) != 0:
            return 0
        return (found[1] + found[2]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # there is no C library
        return 0
    finally:
        os.close(descriptor)


def sync_together(descriptors: Sequence[int]) -> None:
    """Wait until the disk has these open files. Several threads sync at once, because a file system handles many
    requests with one commit of its journal. After all are done, raises the first OSError."""
    import threading

    from lamina.events import join, start_threads

    for descriptor in descriptors:
        start_writing(descriptor, 0, 0)
    waiting, errors = list(descriptors), []

    def run() -> None:
        while True:
            try:
                descriptor = waiting.pop()
            except IndexError:
                return
            try:
                os.fsync(descriptor)
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=run, name="lamina-sync", daemon=True) for _ in descriptors[1:_AT_ONCE]]
    running = start_threads(threads, least=0)
    run()
    join(running)
    if errors:
        raise errors[0]


@cache
def _call() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    from lamina.host.libc import libc

    try:
        call = libc().sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found
