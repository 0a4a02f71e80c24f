"""Directories with trees that may belong to other ids: count their bytes, and remove them.

What an unprivileged user unpacks, or what their container writes, may belong to ids of the user's namespace, in
directories that the user may not enter. Root of such a user namespace then does the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lamina.host import privileges

_SHALLOW = 4


def tree_bytes(directory: str) -> int:
    """Bytes on the disk of all files below, counting each inode once, without mounts. Raises SystemFailure."""
    return _or_as_root(lambda: _bytes(directory, whole=False))


def freed_bytes(directory: str) -> int:
    """Bytes on the disk that become free if the directory is removed: a file with another hard link outside does not
    count."""
    return _or_as_root(lambda: _bytes(directory, whole=True))


def remove_tree(directory: str) -> None:
    """Remove a directory with its contents; symlinks are not followed. Raises OSError, SystemFailure."""

    def gone() -> int:
        if not hasattr(os, "O_DIRECTORY") or not _gone(directory, None, _SHALLOW):
            import shutil

            shutil.rmtree(directory)
        return 0

    _or_as_root(gone)


def _gone(name: str, above: int | None, depth: int) -> bool:
    """Remove a directory up to a limited depth. Returns False if it is deeper and something is left; shutil then
    removes that, at the cost of loading four more modules."""
    opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        with os.scandir(opened) as entries:
            found = list(entries)
        for one in found:
            if not one.is_dir(follow_symlinks=False):
                os.unlink(one.name, dir_fd=opened)
            elif depth == 0 or not _gone(one.name, opened, depth - 1):
                return False
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=above)
    return True


def disk_bytes(state: os.stat_result) -> int:
    """The bytes that a file takes on the disk."""
    blocks: int | None = getattr(state, "st_blocks", None)
    return state.st_size if blocks is None else blocks * 512


def _or_as_root(work: Callable[[], int]) -> int:
    try:
        return work()
    except PermissionError:
        if not hasattr(os, "geteuid") or privileges.may_mount():
            raise
        import shutil  # noqa: F401  (not in the forked child: another thread may be importing it at the fork)

        number: int = privileges.as_root(work)
        return number


def _bytes(directory: str, *, whole: bool) -> int:
    found: dict[tuple[int, int], tuple[int, int]] = {}  # inode -> its bytes, names not seen yet
    device = os.lstat(directory).st_dev if os.path.isdir(directory) else -1
    for where, below, names in os.walk(directory, onerror=_raise):
        below[:] = [name for name in below if _is_on(device, os.path.join(where, name))]
        for name in names:
            try:
                state = os.lstat(os.path.join(where, name))
            except FileNotFoundError:
                continue
            key = (state.st_dev, state.st_ino)
            size, left = found.get(key, (disk_bytes(state), state.st_nlink))
            found[key] = (size, left - 1)
    return sum(size for size, left in found.values() if not (whole and left > 0))


def _is_on(device: int, directory: str) -> bool:
    """Whether a directory is on this file system, and not a mount of another one."""
    try:
        return os.lstat(directory).st_dev == device
    except FileNotFoundError:
        return False


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
