"""Checks whether an EROFS image of the store is complete: the kernel would mount a truncated one, which fails only
when it is read.

The whole image is checked, which takes a millisecond for each MB. A note beside it records that this was done since
the last boot, with the identity of the file's inode: only a crash of the host leaves truncated files.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.errors import StoreDamaged
from lamina.host.files import replace_file
from lamina.host.process_identity import boot_id

_NOTE = "whole"
_SETTLED = 0.05  # seconds; a file that changes again within a tick of the kernel's clock keeps the same times


def lengths(path: str) -> list[range] | None:
    """Return the range of valid sizes for each file that the image at ``path`` refers to; None if the image does not
    exist or is not complete."""
    try:
        state = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    head = f"{boot_id()} {state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    note = os.path.join(os.path.dirname(path), _NOTE)
    try:
        with open(note, encoding="utf-8") as file:
            said = file.read().split("\n")
        if said[0] == head and said[-1] == "end":
            return [range(int(first), int(end)) for first, end in (line.split() for line in said[1:-1])]
    except (OSError, ValueError):
        pass
    return _looked_at(path, note, head, time.time() - state.st_ctime)


def _looked_at(path: str, note: str, head: str, age: float) -> list[range] | None:
    from lamina.view.erofs.read import ErofsImage
    from lamina.view.erofs.write import BLOCK

    try:
        devices = ErofsImage.load(path).devices
    except (FileNotFoundError, StoreDamaged):
        return None
    found = [range((blocks - 1) * BLOCK + 1, blocks * BLOCK + 1) for blocks, _ in devices]
    if age > _SETTLED:
        lines = [head, *(f"{one.start} {one.stop}" for one in found), "end"]
        with suppress(OSError):  # a read-only store: the image is checked again next time
            replace_file(note, ["\n".join(lines).encode()], lasting=False)
    return found
