"""Locks between processes: flock where there is one, else a file made exclusively. The only user of fcntl."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

_POLL = 0.02  # seconds; only where there is no flock


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


def acquire(descriptor: int, path: str, *, wait: bool = True) -> bool:
    """Lock an open file until it is released or closed. False where it is taken and ``wait`` is not wanted."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return False
            raise
        return True
    while True:
        try:
            os.close(os.open(path + ".held", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            if not wait:
                return False
            time.sleep(_POLL)
        else:
            return True


def release(descriptor: int, path: str) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        os.unlink(path + ".held")
