"""The reserve: a file that occupies disk space. When the disk is full, index.json and the records of containers are
written in its place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from lamina.host.files import remove
from lamina.host.temporary import Temporary
from lamina.store.paths import Paths

_LEAST = 64 << 10  # bytes


def fill(paths: Paths, index_size: int) -> None:
    """Make the reserve large enough for an index.json of twice the size, as far as the disk has space."""
    wanted = max(_LEAST, 1 << (2 * index_size).bit_length())
    try:
        if os.stat(paths.reserve).st_size >= wanted:
            return
    except FileNotFoundError:
        pass
    with suppress(OSError), Temporary(paths.ingest, "reserve") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.descriptor, 0, wanted)
            file.put(paths.reserve)


def again(paths: Paths, error: OSError, work: Callable[[], None]) -> None:
    """Call ``work`` once more, with the space of the reserve, after it has failed because the disk is full. Raises
    ``error`` if it failed for another reason, or there is no reserve; OSError."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not release(paths):
        raise error
    work()


def release(paths: Paths) -> bool:
    """Remove the reserve; returns whether there was one."""
    return remove(paths.reserve)
