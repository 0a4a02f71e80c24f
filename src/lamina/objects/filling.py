"""Bytes of a part that arrive, before they are sent to the storage: in memory as long as all uploads of the server
together keep to a budget, the others in a temporary file. Slow clients then cost no memory, and hold up nobody."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

_STEP = 1 << 20


class Budget:
    """Bytes that may be in memory at once."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._guard = threading.Lock()

    def take(self, size: int) -> bool:
        """Take so many bytes; False if there are not so many left."""
        with self._guard:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        with self._guard:
            self._left += size

    @property
    def left(self) -> int:
        return self._left


class Filling:
    """Bytes in the order in which they came. One thread adds, then one takes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._parts: list[bytes | int] = []  # bytes, or the length of bytes in the file
        self._file: IO[bytes] | None = None
        self._filed = 0
        self._taken = 0  # of the budget
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._file is None and self._budget.take(len(piece)):
            self._taken += len(piece)
            self._parts.append(piece)
        elif self._written(piece):
            self._parts.append(len(piece))
        else:
            self._parts.append(piece)

    def pieces(self) -> Iterator[bytes]:
        """Take out the bytes."""
        at = 0
        for number, part in enumerate(self._parts):
            if isinstance(part, bytes):
                self._parts[number] = 0
                yield part
                continue
            end = at + part
            while at < end:
                assert self._file is not None
                piece = os.pread(self._file.fileno(), min(_STEP, end - at), at)
                if not piece:
                    raise OSError("a temporary file is shorter than what was written to it")
                at += len(piece)
                yield piece
        self.drop()

    def drop(self) -> None:
        """Forget the bytes, and give the memory back."""
        self._parts = []
        self.size = self._filed = 0
        taken, self._taken = self._taken, 0
        self._budget.give_back(taken)
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _written(self, piece: bytes) -> bool:
        """Write to the file; False if there is no room on the disk: memory has to do then."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            if os.pwrite(self._file.fileno(), piece, self._filed) != len(piece):
                return False
        except OSError:
            return False
        self._filed += len(piece)
        return True
