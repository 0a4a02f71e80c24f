"""Unpacked trees that may not be on the disk yet.

A crash of the machine may leave files of a new tree empty. To wait for the disk would double the time until it can be
used, so a note beside the tree says in which boot it was made. One that was made in another, and was never seen to be
on the disk since, is not trusted. After a minute the system has written it by itself: then to make sure costs little.
"""

from __future__ import annotations

import os
import time

from lamina.files import remove, replace_file, sync_files
from lamina.store.roots import boot_id

_SURE = 60  # seconds; Linux writes what is older than half of that


def announce(tree: str) -> None:
    """Say that the directory ``tree`` is about to be made. Raises OSError."""
    replace_file(_note(tree), [boot_id().encode()])


def is_whole(tree: str) -> bool:
    """Whether the tree is there, and as it was made. Raises OSError."""
    if not os.path.isdir(tree):
        return False
    note = _note(tree)
    try:
        with open(note, "rb") as file:
            boot, age = file.read().decode("ascii", "replace"), time.time() - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return True
    if boot != boot_id():
        return False
    if age > _SURE:
        sync_files(tree)
        remove(note)
    return True


def _note(tree: str) -> str:
    return tree + ".fresh"
