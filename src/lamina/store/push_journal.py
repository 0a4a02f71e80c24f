"""Upload sessions of pushes from this store, so that one that was killed goes on where it stopped.

A file a session below ``ingest``: addresses of sessions open them to whoever knows them, so the files are the
owner's alone. They are leftovers as any other there: ``prune`` removes what is old.
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
    """A journal: what goes where, and the address of the session."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    @contextmanager
    def note(self, key: str) -> Iterator[UploadNote | None]:
        """The note for ``key``, for this push alone; None where another push of the same thing has it."""
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
    """One line about the key, one with the session's address. Written in place: a torn one is no address."""

    def __init__(self, descriptor: int, key: str) -> None:
        self._descriptor = descriptor
        self._key = key

    def get(self) -> str:
        """ "" where there is none."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        text = os.read(self._descriptor, _MAX).decode("utf-8", "replace")
        known, _, value = text.partition("\n")
        return value.removesuffix("\n") if known == self._key and value.endswith("\n") else ""

    def set(self, value: str) -> None:
        os.ftruncate(self._descriptor, 0)
        if value:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            write_all(self._descriptor, f"{self._key}\n{value}\n".encode())
