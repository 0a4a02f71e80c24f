"""Which derived files and trees can be believed: a note beside each says so, and nobody waits for the disk.

A tar or an unpacked tree can be made again. So no command waits until the disk has it. If the machine crashes before
that, the file may keep its name and lose its bytes. Therefore a note beside it (``PATH.written``) says of exactly
which file it speaks (inode, size, time) and how far that can be believed: in the boot in which it was written, or for
good, because it was synced. A file without a note that fits is doubtful: compare it with its digest, or make it
again. Because doubt is the default, a note may get lost in a crash as well: notes are never waited for.

Files that prove themselves when they are read (a checksum over all of it: indexes, checkpoints, images of views) need
no note.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from lamina.host.files import CHUNK, READ_FLAGS, FileRange, remove, replace_file, sync_directory, sync_files
from lamina.store.roots import boot_id

SURE = 60.0
"""Seconds after which the system has written what it was given (Linux: what is older than 30 s)."""
ON_DISK, IN_THIS_BOOT, DOUBTFUL = "on the disk", "in this boot", "doubtful"
_SUFFIX = ".written"
_DISK = "disk"


def must_wait() -> bool:
    """Whether derived files have to be synced at once, because nothing here tells one boot from another."""
    return not boot_id()


def note(path: str, *, within: str, on_disk: bool = False, state: os.stat_result | None = None) -> None:
    """Say that ``path`` was written in this boot, or (``on_disk``) that it was synced. ``within``: the directory for
    the temporary file. ``state``: of the open file that is about to get this name. Raises OSError."""
    state = os.stat(path, follow_symlinks=False) if state is None else state
    how = _DISK if on_disk else boot_id() or "-"
    text = f"{how} {_identity(state)} {time.monotonic():.0f}\n"
    replace_file(path + _SUFFIX, [text.encode()], within=within, lasting=False)


def trust(path: str) -> str:
    """ON_DISK, IN_THIS_BOOT or DOUBTFUL. Raises OSError where ``path`` is not there."""
    return _read(path)[0]


def is_due(path: str) -> bool:
    """Whether ``path`` was written in this boot, and so long ago that a sync takes no time any more."""
    how, age = _read(path)
    return how == IN_THIS_BOOT and age > SURE


def settle(path: str, *, within: str) -> None:
    """Wait until the file or tree ``path`` is on the disk, and note that (as ``note``). Raises OSError where the disk
    failed to take it: then it is doubtful."""
    try:
        if os.path.isdir(path):
            sync_files(path)
        else:
            sync_file(path)
            sync_directory(os.path.dirname(path))
    except OSError:
        forget(path)
        raise
    with suppress(OSError):  # a store that is only read
        note(path, within=within, on_disk=True)


def sync_file(path: str) -> None:
    """Wait until the file is on the disk. Raises OSError."""
    descriptor = os.open(path, READ_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget(path: str) -> None:
    """Remove the note: ``path`` is doubtful from now on."""
    remove(path + _SUFFIX)


def hash_of(path: str, algorithm: str) -> str:
    """The digits of a file's digest."""
    import hashlib

    hasher = hashlib.new(algorithm)
    with FileRange(path) as stream:
        while data := stream.read(CHUNK):
            hasher.update(data)
    return hasher.hexdigest()


def _read(path: str) -> tuple[str, float]:
    """How far it is believed, and the seconds since it was written."""
    state = os.stat(path, follow_symlinks=False)
    try:
        with open(path + _SUFFIX, encoding="utf-8", errors="replace") as file:
            words = file.read(200).split(" ")
    except OSError:
        return DOUBTFUL, 0.0
    if len(words) != 5 or " ".join(words[1:4]) != _identity(state):
        return DOUBTFUL, 0.0
    if words[0] == _DISK:
        return ON_DISK, 0.0
    if words[0] != boot_id():
        return DOUBTFUL, 0.0
    try:
        return IN_THIS_BOOT, time.monotonic() - float(words[4])
    except ValueError:
        return DOUBTFUL, 0.0


def _identity(state: os.stat_result) -> str:
    """Three words. Not the device, whose number may change with each boot; not ctime: a further name changes it. Of
    a tree only its inode: whoever makes it anew calls ``forget`` first."""
    if stat.S_ISDIR(state.st_mode):
        return f"{state.st_ino} - -"
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"
