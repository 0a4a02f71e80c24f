"""The audit log: one line of JSON for each request that reads, changes or is refused. It is only appended to."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import UTC, datetime

from lamina.errors import SystemFailure
from lamina.host.files import failure

_LOOK = 1.0  # seconds between two looks whether the file was moved away
_log = logging.getLogger("lamina.serve")


class AuditLog:
    """Appends to ``path``. Each record is written by one call, so that several servers can share the file. When the
    file was renamed (rotation), a new one is begun: within a second, or at once by ``reopen``."""

    def __init__(self, path: str) -> None:
        """Open the file. Raises SystemFailure."""
        self.path = os.path.abspath(path)
        self._guard = threading.Lock()
        self._lost = 0
        self._next = 0.0
        try:
            self._descriptor = self._opened()
        except OSError as error:
            raise failure(error, self.path) from None

    def write(self, **fields: str | int | None) -> None:
        """Append a record; fields that are None or "" are left out. A failure is logged, and the number of lost
        records stands in the next one: the request goes on."""
        record: dict[str, str | int] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        record.update({key: value for key, value in fields.items() if value not in (None, "")})
        with self._guard:
            try:
                self._follow()
                if self._lost:
                    record["lost"] = self._lost
                line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
                if os.write(self._descriptor, line) != len(line):
                    raise SystemFailure(f"{self.path}: a record was written in part")
            except (OSError, SystemFailure) as error:
                if not self._lost:
                    _log.error("the audit log can't be written: %s", error)
                self._lost += 1
            else:
                self._lost = 0

    def reopen(self) -> None:
        """Have the file opened by its name again for the next record. Takes no lock: a signal handler may call it."""
        self._next = 0.0

    def close(self) -> None:
        with self._guard:
            os.close(self._descriptor)
            self._descriptor = -1

    def _follow(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK
        own = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path)
            if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                return
        except FileNotFoundError:
            pass
        fresh = self._opened()
        os.close(self._descriptor)
        self._descriptor = fresh

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        return os.open(self.path, flags, 0o600)
