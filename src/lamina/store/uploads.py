"""Upload sessions of pushes from this store, so that one that was killed goes on where it stopped.

A file a session below ``ingest``: addresses of sessions open them to whoever knows them, so the files are the
owner's alone. They are leftovers as any other there: ``prune`` removes what is old.
"""

from __future__ import annotations

import hashlib
import os

from lamina.files import remove, replace_file, reported
from lamina.store.paths import Paths

_MAX = 64 << 10


class Uploads:
    """A journal of (what, where) pairs."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def get(self, key: str) -> str | None:
        try:
            with open(self._path(key), encoding="utf-8") as file:
                known, _, value = file.read(_MAX).partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return value if known == key and value else None

    def set(self, key: str, value: str) -> None:
        path = self._path(key)
        with reported(path):
            replace_file(path, [f"{key}\n{value}".encode()], mode=0o600)

    def drop(self, key: str) -> None:
        with reported(self._paths.ingest):
            remove(self._path(key))

    def _path(self, key: str) -> str:
        return os.path.join(self._paths.ingest, f"push-{hashlib.sha256(key.encode()).hexdigest()}")
