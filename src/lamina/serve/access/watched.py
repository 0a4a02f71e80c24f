"""A file that is read again when it changes: users, rules, keys."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from lamina.errors import LaminaError, UsageError
from lamina.host.files import failure, read_regular

T = TypeVar("T")
INTERVAL = 1.0  # seconds between two looks at the file
MAX_SIZE = 16 << 20
_log = logging.getLogger("lamina.serve")


class Watched(Generic[T]):
    """The value of a file, as ``parse(raw, path)`` makes it. At the start a broken file raises; later the old value
    stays, with a warning in the log."""

    def __init__(self, path: str, parse: Callable[[bytes, str], T]) -> None:
        """Read the file. Raises SystemFailure, or what ``parse`` raises."""
        self.path = os.path.abspath(path)
        self._parse = parse
        self._guard = threading.Lock()
        self._stale = False
        self._seen = self._signature()
        self._next = time.monotonic() + INTERVAL
        self._value = self._read()

    @property
    def value(self) -> T:
        """The current value. The file is looked at once a second at most."""
        if time.monotonic() >= self._next and self._guard.acquire(blocking=False):
            try:
                self._next = time.monotonic() + INTERVAL
                signature = self._signature()
                if self._stale or signature != self._seen:
                    self._stale = False
                    self._renew(signature)
            finally:
                self._guard.release()
        return self._value

    def reload(self) -> None:
        """Have the file read again at the next use, changed or not. Takes no lock: a signal handler may call it."""
        self._stale = True
        self._next = 0.0

    def _renew(self, signature: tuple[int, ...]) -> None:
        """``signature`` was taken before the file is read: a later change is seen at the next look."""
        self._seen = signature
        try:
            self._value = self._read()
        except LaminaError as error:
            _log.warning("%s; what was read before stays in force", error)
            return
        _log.info("%s was read again", self.path)

    def _signature(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _read(self) -> T:
        try:
            raw = read_regular(os.path.realpath(self.path), MAX_SIZE + 1)
        except OSError as error:
            raise failure(error, self.path) from None
        if len(raw) > MAX_SIZE:
            raise UsageError(f"{self.path} is larger than {MAX_SIZE} bytes", hint="check the path")
        return self._parse(raw, self.path)
