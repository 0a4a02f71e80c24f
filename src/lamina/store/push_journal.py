"""The journal of upload sessions of pushes from this store, so that a push that was killed can resume.

There is one file per session below ``ingest``. Anyone who knows the address of a session can write to it, so only the
owner can read these files. They are leftovers like any other: ``prune`` removes old ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.host.files import WRITE_FLAGS, remove, reported, write_all
from lamina.host.lock import acquire, release
from lamina.store.paths import Paths

_MAX = 64 << 10


class PushJournal:
    """Notes what is pushed where, and the address of the upload session."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    @contextmanager
    def note(self, key: str) -> Iterator[UploadNote | None]:
        """The note for ``key``, locked for this push; None if another push of the same thing holds it."""
        path = os.path.join(self._paths.ingest, f"push-{hashlib.sha256(key.encode()).hexdigest()}")
        with reported(path):
            descriptor = os.open(path, WRITE_FLAGS, 0o600)
            try:
                if not acquire(descriptor, path, wait=False):
                    yield None
                    return
                note = UploadNote(descriptor, key)
                try:
                    yield note
                finally:
                    if not note.get():
                        remove(path)
                    release(descriptor, path)
            finally:
                os.close(descriptor)


class UploadNote:
    """A line with the key and a line with the session's address. Written in place: a half-written line is not an
    address."""

    def __init__(self, descriptor: int, key: str) -> None:
        self._descriptor = descriptor
        self._key = key

    def get(self) -> str:
        """The address of the session; "" if there is none."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        text = os.read(self._descriptor, _MAX).decode("utf-8", "replace")
        known, _, value = text.partition("\n")
        return value.removesuffix("\n") if known == self._key and value.endswith("\n") else ""

    def set(self, value: str) -> None:
        os.ftruncate(self._descriptor, 0)
        if value:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            write_all(self._descriptor, f"{self._key}\n{value}\n".encode())
