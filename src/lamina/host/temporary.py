"""Temporary files and directories: the one place that makes them.

A name is random and is made exclusively, so that a planted file or symlink is never written to or removed. The maker
holds a lock on what it made until that is in its place or gone. Whoever finds one that nobody holds (``lock.unheld``)
knows that its maker was killed, and may remove it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lamina.host.lock import acquire, fcntl, is_same
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

SUFFIX = ".tmp"
_MAX_STEM = 200  # characters: with what is added, a name stays below the 255 bytes that file systems take
_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class _Made:
    """What this process has made and holds: at ``path``, until it is put in its place or closed."""

    def __init__(self) -> None:
        self.descriptor = -1
        self.path = ""

    def close(self) -> None:
        path, self.path = self.path, ""
        descriptor, self.descriptor = self.descriptor, -1
        try:
            if path:
                self._discard(path)
        except FileNotFoundError:
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _discard(self, path: str) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Temporary(_Made):
    """A new file in ``directory``, open for reading and writing, held by this process.

    ``put`` gives it its name, ``close`` ends it in any case: a file that was not put is removed. Raises OSError."""

    def __init__(self, directory: str, stem: str, *, mode: int = 0o600) -> None:
        """``stem``: how the name begins. ``mode``: before the umask."""
        super().__init__()
        while self.descriptor < 0:
            self.path = _name(directory, stem)
            self.descriptor = _hold(os.open(self.path, _FLAGS, mode), self.path)

    def put(self, target: str) -> None:
        """Move it to ``target``, in place of what is there. It stays open and held until ``close``."""
        os.replace(self.path, target)
        self.path = ""

    def put_new(self, target: str) -> bool:
        """Give it the name ``target`` unless that is taken; whether it got it."""
        try:
            os.link(self.path, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                return False
            self.put(target)
        return True

    def _discard(self, path: str) -> None:
        os.unlink(path)


class TemporaryDirectory(_Made):
    """A new, empty directory in ``directory`` (mode 0700), held by this process; as ``Temporary``."""

    def __init__(self, directory: str, stem: str, *, remove: Callable[[str], object] | None = None) -> None:
        """``remove``: removes it with all that is in it where it was not put (default: shutil.rmtree)."""
        super().__init__()
        self._remove = remove
        while self.descriptor < 0:
            self.path = _name(directory, stem)
            os.mkdir(self.path, 0o700)
            if not hasattr(os, "O_DIRECTORY"):  # Windows can't open a directory
                return
            try:
                descriptor = os.open(self.path, _DIRECTORY)
            except FileNotFoundError:
                continue  # somebody swept it before it was held
            self.descriptor = _hold(descriptor, self.path)

    def put(self, target: str) -> None:
        """Move it to ``target``, which must not be there or be an empty directory. It stays held until ``close``."""
        os.rename(self.path, target)
        self.path = ""

    def _discard(self, path: str) -> None:
        if self._remove is not None:
            self._remove(path)
            return
        import shutil

        shutil.rmtree(path)


def is_temporary(name: str) -> bool:
    """Whether a file or directory of this name was made here."""
    return name.endswith(SUFFIX)


def _name(directory: str, stem: str) -> str:
    stem = os.fsdecode(os.fsencode(stem)[:_MAX_STEM])
    return os.path.join(directory, f"{stem}.{os.urandom(6).hex()}{SUFFIX}")


def _hold(descriptor: int, path: str) -> int:
    """The descriptor with its lock, or -1 where a sweep came between: then it may be gone."""
    try:
        if fcntl is None or (acquire(descriptor, path, wait=False) and is_same(descriptor, path)):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return -1
