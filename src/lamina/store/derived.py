"""Notes about derived files and trees: each tells how far a file can be trusted, so that nothing waits for the disk.

A tar or an unpacked tree can be made again, so no command waits until the disk has it. If the host crashes before
that, the file may keep its name and lose its bytes. Therefore a note beside it (``PATH.written``) identifies the file
(inode, size, time) and tells how long to trust it: during the boot in which it was written, or always, because it was
synced. A file without a matching note is doubtful: compare it with its digest, or make it again. Because doubt is the
default, a crash may also lose a note: nothing waits for notes either.

Files that are verified when they are read (indexes, checkpoints and images of views have a checksum over the whole
file) need no note.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from lamina.host.files import CHUNK, READ_FLAGS, FileRange, remove, replace_file, sync_directory, sync_files
from lamina.host.process_identity import boot_id

WRITTEN_BACK_AFTER = 60.0
"""Seconds after which the kernel has written a file to the disk (Linux: data older than 30 s)."""
ON_DISK, IN_THIS_BOOT, DOUBTFUL = "on the disk", "in this boot", "doubtful"
_SUFFIX = ".written"
_DISK = "disk"


def must_wait() -> bool:
    """Whether derived files must be synced at once, because this system can't tell one boot from another."""
    return not boot_id()


def note_written(path: str, *, within: str, on_disk: bool = False, state: os.stat_result | None = None) -> None:
    """Note that ``path`` was written in this boot, or (``on_disk``) that it was synced. ``within``: the directory for
    the temporary file. ``state``: of the open file that will get this name. Raises OSError."""
    state = os.stat(path, follow_symlinks=False) if state is None else state
    how = _DISK if on_disk else boot_id() or "-"
    text = f"{how} {_identity(state)} {time.monotonic():.0f}\n"
    replace_file(path + _SUFFIX, [text.encode()], within=within, lasting=False)


def trust_level(path: str) -> str:
    """How far to trust ``path``: ON_DISK, IN_THIS_BOOT or DOUBTFUL. Raises OSError if it does not exist."""
    return _read(path)[0]


def is_written_back(path: str) -> bool:
    """Whether ``path`` was written in this boot, and so long ago that a sync takes no time."""
    how, age = _read(path)
    return how == IN_THIS_BOOT and age > WRITTEN_BACK_AFTER


def sync_and_note(path: str, *, within: str) -> None:
    """Wait until the file or tree ``path`` is on the disk, and note that (see ``note_written``). Raises OSError if
    the disk failed to store it; then it is doubtful."""
    try:
        if os.path.isdir(path):
            sync_files(path)
        else:
            sync_file(path)
            sync_directory(os.path.dirname(path))
    except OSError:
        drop_note(path)
        raise
    with suppress(OSError):  # the store may be read-only
        note_written(path, within=within, on_disk=True)


def sync_file(path: str) -> None:
    """Wait until the file is on the disk. Raises OSError."""
    descriptor = os.open(path, READ_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_note(path: str) -> None:
    """Remove the note: ``path`` is doubtful from now on."""
    remove(path + _SUFFIX)


def hash_of(path: str, algorithm: str) -> str:
    """The encoded part of a file's digest."""
    import hashlib

    hasher = hashlib.new(algorithm)
    with FileRange(path) as stream:
        while data := stream.read(CHUNK):
            hasher.update(data)
    return hasher.hexdigest()


def _read(path: str) -> tuple[str, float]:
    """How far to trust the file, and the seconds since it was written."""
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
    """The identity of a file, as three words. Without the device, whose number may change with each boot, and without
    ctime, which a new hard link changes. For a tree only the inode: code that makes a tree again calls ``drop_note``
    first."""
    if stat.S_ISDIR(state.st_mode):
        return f"{state.st_ino} - -"
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"
