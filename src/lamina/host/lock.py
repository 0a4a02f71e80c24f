"""Locks between processes: flock where there is one, else a file made exclusively. The only user of fcntl's flock.

A lock belongs to an open file, so the kernel drops it with the process, however that ends: a lock that is held means
a living holder, in any pid namespace and whatever the clock says.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

_POLL = 0.02  # seconds; only where there is no flock
_LOOK = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
) | getattr(os, "O_NONBLOCK", 0)  # a planted FIFO must not make us wait


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold ``path`` (made where missing) exclusively; waits for whoever has it. Raises OSError."""
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
def locked_for_now(path: str) -> Iterator[None]:
    """As ``locked``, of a file that is there only as long as somebody holds it or waits for it. Raises OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            acquire(descriptor, path)
            if is_same(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it
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
    """As ``locked``, of a directory that is there, in which no file is made for it. Where there is no flock, nobody
    is kept out. Raises OSError."""
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
    """Lock an open file until it is released or closed. False where it is taken and ``wait`` is not wanted."""
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


def share(descriptor: int) -> bool:
    """Lock an open file together with others who share it; waits for who holds it alone. True. Where there is no
    flock, nobody is kept out."""
    return fcntl is None or _flock(descriptor, fcntl.LOCK_SH, wait=True)


def release(descriptor: int, path: str) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        os.unlink(path + ".held")


@contextmanager
def unheld(path: str) -> Iterator[bool]:
    """Whether nobody holds the file or directory ``path``; nobody can take it while the block runs. False as well
    where it is not there, or was replaced meanwhile. Raises OSError (no permission to open it)."""
    try:
        descriptor = os.open(path, _LOOK)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        # shared: it keeps holders out as well, and needs no right to write
        if fcntl is not None:
            free = _flock(descriptor, fcntl.LOCK_SH, wait=False)
        else:
            free = not os.path.exists(path + ".held")
        yield free and is_same(descriptor, path)
    finally:
        os.close(descriptor)


def is_same(descriptor: int, path: str) -> bool:
    """Whether ``path`` still names this open file: after a wait for its lock it may be another one, or gone."""
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
