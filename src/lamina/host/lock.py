"""Locks between processes: flock, or an exclusively created file where there is no flock. The only user of fcntl's
flock.

A lock belongs to an open file, so the kernel drops it when the process ends, however it ends. A lock that is held
therefore means that its holder is alive, in any pid namespace and whatever the clock says.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

_POLL = 0.02  # seconds; only used where there is no flock
LOOK = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
) | getattr(os, "O_NONBLOCK", 0)  # do not block on a FIFO that somebody put there
"""The flags with which a file is opened to be locked, if it exists."""


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, which is created if it does not exist; wait until it is free. Raises
    OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        acquire(descriptor, path)
        try:
            yield
        finally:
            release(descriptor, path)
    finally:
        os.close(descriptor)


@contextmanager
def locked_for_now(path: str, pause: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file that exists only while somebody holds it or waits for it. ``pause``: called
    again and again while somebody else holds it; without it, the kernel waits. Raises OSError, and what ``pause``
    raises."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            while not acquire(descriptor, path, wait=pause is None):
                if pause is not None:
                    pause()
            if is_same(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous holder has removed the file
    try:
        yield
    finally:
        if fcntl is not None:
            with suppress(FileNotFoundError):
                os.unlink(path)
        release(descriptor, path)
        os.close(descriptor)


@contextmanager
def locked_directory(path: str) -> Iterator[None]:
    """Hold an exclusive lock on an existing directory, without a lock file in it. Does nothing where there is no
    flock. Raises OSError."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def acquire(descriptor: int, path: str, *, wait: bool = True) -> bool:
    """Lock an open file exclusively until it is released or closed. Returns False if it is locked and ``wait`` is
    False."""
    if fcntl is not None:
        return _flock(descriptor, fcntl.LOCK_EX, wait=wait)
    while True:
        try:
            os.close(os.open(path + ".held", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            if not wait:
                return False
            time.sleep(_POLL)
        else:
            return True


def share(descriptor: int, *, wait: bool = True) -> bool:
    """Take a shared lock on an open file; wait while it is locked exclusively. Returns False if it is and ``wait`` is
    False. Does nothing where there is no flock."""
    return fcntl is None or _flock(descriptor, fcntl.LOCK_SH, wait=wait)


def release(descriptor: int, path: str) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        os.unlink(path + ".held")


@contextmanager
def unheld(path: str) -> Iterator[bool]:
    """Yield whether nobody holds a lock on the file or directory ``path``; nobody can take one while the block runs.
    Yields False as well if the path does not exist or was replaced meanwhile. Raises OSError (permission denied)."""
    try:
        descriptor = os.open(path, LOOK)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        # a shared lock keeps holders out too, and needs no write permission
        if fcntl is not None:
            free = _flock(descriptor, fcntl.LOCK_SH, wait=False)
        else:
            free = not os.path.exists(path + ".held")
        yield free and is_same(descriptor, path)
    finally:
        os.close(descriptor)


def is_same(descriptor: int, path: str) -> bool:
    """Whether ``path`` still names this open file: after waiting for a lock it may have been replaced or removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _flock(descriptor: int, kind: int, *, wait: bool) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True
