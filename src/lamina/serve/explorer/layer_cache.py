"""The cache directory with the derived files of layers, which never gets larger than its bound.

The files of a layer are found by the digest of its blob, which the repository must have: a config may state any
diff_id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.host.files import make_directory, remove, replace_file, reported
from lamina.light import TYPE_CHECKING
from lamina.settings import MAX_LAYER

if TYPE_CHECKING:
    from lamina.spec.digest import Digest

ROOM = 2 << 30
"""Bytes that the files of a cache may have in total."""


def default_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory for caches of this user."""
    base = environ.get("XDG_CACHE_HOME") or environ.get("LOCALAPPDATA")
    if not base:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        base = "/var/cache" if root else os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "lamina", "explorer")


class LayerCache:
    """A directory of derived files, each written atomically. What was not used for the longest time is removed when
    ``room`` bytes are exceeded; those who read such a file keep it open."""

    def __init__(self, directory: str, *, room: int = ROOM, max_layer: int = MAX_LAYER) -> None:
        self.directory = directory
        self.max_layer = max_layer
        self.room = room
        self._guard = threading.Lock()

    def path(self, digest: Digest, kind: str) -> str:
        return os.path.join(self.directory, f"{digest.algorithm}-{digest.encoded}.{kind}")

    def write(self, digest: Digest, kind: str, pieces: list[bytes] | list[memoryview]) -> None:
        """Write a derived file, and remove others if there is too little room. Raises SystemFailure."""
        path = self.path(digest, kind)
        try:
            with reported(path):
                make_directory(self.directory)
                replace_file(path, pieces, mode=0o600, lasting=False)
        except SystemFailure as error:
            raise SystemFailure(
                f"the index of a layer can't be kept: {error.message}",
                hint="make the cache directory writable, or choose another (`lamina serve --explorer-cache`)",
            ) from None
        self._make_room(path)

    def used(self, digest: Digest) -> None:
        """Note that the files of a layer are in use."""
        for kind in ("index", "seek"):
            with suppress(OSError):
                os.utime(self.path(digest, kind))

    def _make_room(self, keep: str) -> None:
        with self._guard, suppress(OSError):
            found = []
            for entry in os.scandir(self.directory):
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found.append((state.st_mtime_ns, state.st_size, entry.path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.room:
                    break
                if path != keep:
                    with suppress(SystemFailure, OSError):
                        remove(path)
                    total -= size
