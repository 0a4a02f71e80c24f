"""The reserve: a file that occupies disk space, so that index.json can be rewritten when the disk is full."""

from __future__ import annotations

import os
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


def release(paths: Paths) -> bool:
    """Remove the reserve; returns whether there was one."""
    return remove(paths.reserve)
