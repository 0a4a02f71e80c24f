"""A file that holds some room of the disk, so that names can be rewritten where no byte is free."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.host.files import remove
from lamina.host.temporary import Temporary
from lamina.store.paths import Paths

_LEAST = 64 << 10  # bytes


def fill(paths: Paths, index_size: int) -> None:
    """Let the reserve hold at least what an index.json twice as large takes, as far as there is room."""
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
    """Give the room back; whether there was any."""
    return remove(paths.reserve)
