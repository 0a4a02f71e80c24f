"""Wait until files change (inotify(7), which Python lacks)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (
    0x2, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800,
)  # fmt: skip
_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF


class Watch:
    """Becomes readable (``fileno``) when something in the watched directories changes. Where the kernel refuses it
    (no inotify, too many instances), ``works`` is False, and the caller looks from time to time."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._watched: set[str] = set()
        with suppress(OSError, AttributeError):
            from lamina.host.libc import libc

            self._libc = libc()
            self._descriptor = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)

    @property
    def works(self) -> bool:
        return self._descriptor >= 0

    def add(self, paths: Iterable[str]) -> bool:
        """Returns whether all of them are watched."""
        for path in paths:
            if path not in self._watched and self.works:
                number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _CHANGES)
                if number < 0:
                    return False
                self._watched.add(path)
        return self.works

    def fileno(self) -> int:
        return self._descriptor

    def clear(self) -> None:
        """Forget the changes up to now."""
        with suppress(BlockingIOError):
            while self.works and os.read(self._descriptor, 1 << 16):
                pass

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
