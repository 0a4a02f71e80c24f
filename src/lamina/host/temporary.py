"""Temporary files and directories: the only place that creates them.

Names are random and created exclusively, so that lamina never writes to or removes a file or symlink that somebody
planted. The creator holds a lock until the file is moved into place or removed. A temporary file that nobody holds
(``lock.unheld``) was left by a killed process and may be removed at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lamina.host.lock import acquire, fcntl, is_same
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

SUFFIX = ".tmp"
_MAX_STEM = 200  # characters: with suffix and random part, a name stays within the 255 bytes that file systems allow
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
    """A file or directory at ``path``, created and locked by this process until it is moved into place or closed."""

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
    """A new file in ``directory``, open for reading and writing, locked by this process.

    ``put`` moves it to its final name. ``close`` removes it if it was not moved. Raises OSError.
    """

    def __init__(self, directory: str, stem: str, *, mode: int = 0o600) -> None:
        """Create the file. Its name begins with ``stem``; ``mode`` is reduced by the umask."""
        super().__init__()
        while self.descriptor < 0:
            self.path = _name(directory, stem)
            self.descriptor = _hold(os.open(self.path, _FLAGS, mode), self.path)

    def put(self, target: str) -> None:
        """Move it to ``target``, replacing what is there. It stays open and locked until ``close``."""
        os.replace(self.path, target)
        self.path = ""

    def put_new(self, target: str) -> bool:
        """Give it the name ``target`` if that does not exist. Returns whether it did."""
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
    """A new, empty directory in ``directory`` (mode 0700), locked by this process; otherwise like ``Temporary``."""

    def __init__(self, directory: str, stem: str, *, remove: Callable[[str], object] | None = None) -> None:
        """Create the directory. ``remove`` deletes it with its content if not moved (default: shutil.rmtree)."""
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
                continue  # a cleanup removed it before it was locked
            self.descriptor = _hold(descriptor, self.path)

    def put(self, target: str) -> None:
        """Move it to ``target``, which must not exist or be an empty directory. It stays locked until ``close``."""
        os.rename(self.path, target)
        self.path = ""

    def _discard(self, path: str) -> None:
        if self._remove is not None:
            self._remove(path)
            return
        import shutil

        shutil.rmtree(path)


def is_temporary(name: str) -> bool:
    """Whether this is the name of a temporary file or directory of lamina."""
    return name.endswith(SUFFIX)


def _name(directory: str, stem: str) -> str:
    stem = os.fsdecode(os.fsencode(stem)[:_MAX_STEM])
    return os.path.join(directory, f"{stem}.{os.urandom(6).hex()}{SUFFIX}")


def _hold(descriptor: int, path: str) -> int:
    """Lock the descriptor and return it; return -1 if a cleanup locked it first and may have removed it."""
    try:
        if fcntl is None or (acquire(descriptor, path, wait=False) and is_same(descriptor, path)):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return -1
