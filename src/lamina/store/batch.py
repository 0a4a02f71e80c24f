"""A batch: small blobs, documents and names of many images, which become durable together
(docs/decisions/0028-many-images.md).

A fsync after each file costs milliseconds, whatever its size; one sync of 200 files costs hardly more. So a small
blob or document is verified, written to a directory in ``ingest/`` and kept there, outside ``blobs/``.
``sync_and_move`` syncs all of these files, moves them to their places and syncs the directories; only then
``commit_names`` writes the names of their images into index.json. Whenever the process or the host stops, a name
either exists with all of its bytes, or does not exist.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lamina.errors import Cancelled, SystemFailure
from lamina.host.files import make_directory, remove, sync_directory, write_all
from lamina.host.lock import is_same
from lamina.host.temporary import TemporaryDirectory
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.derived import note_written
from lamina.store.fault import point
from lamina.store.paths import READ_ONLY, Paths
from lamina.store.writeback import sync_together

SMALL = 1 << 20
"""Size in bytes of the largest blob that joins a batch; the sync of a larger blob takes time of its own."""
MOST = 192
"""Number of files that wait at once, in all sessions of the process. Each is kept open, because the kernel reports a
failed write only to those who have the file open."""
_OF_OPEN_FILES = 5
"""The files that wait take at most this part (1/5) of the files that the process may have open."""
EVERY = 1.0
"""Seconds between two rewrites of index.json."""
_SHARE = 8
"""The time between two rewrites is at least this many times the duration of the last one: a rewrite takes longer the
more images there are."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

Names = list[tuple[str, Descriptor]]


@dataclass(frozen=True, slots=True)
class _File:
    """A verified blob that waits for the disk. ``tar``: the tar that is a hard link to it, "" for none."""

    descriptor: int
    path: str
    size: int
    tar: str


class Batch:
    """The blobs, documents and names of one session that are not on the disk yet. Thread-safe."""

    def __init__(self, paths: Paths, write_names: Callable[[Names], None]) -> None:
        """``write_names`` writes names into index.json."""
        self._paths = paths
        self._write_names = write_names
        self._files: dict[Digest, _File] = {}
        self._moved_to: set[str] = set()  # directories that are not synced yet
        self._names: Names = []
        self._directory: TemporaryDirectory | None = None
        self._count = 0
        self._next_commit = time.monotonic() + EVERY
        self._closed = False
        self.failed = False
        """Whether the disk failed to store a file that waited: from then on no name is written."""
        self._guard = threading.RLock()
        _open.add(self)

    def size(self, digest: Digest) -> int | None:
        """The size of a blob that waits; None if it does not wait here."""
        found = self._files.get(digest)
        return None if found is None else found.size

    def read(self, digest: Digest) -> bytes | None:
        """The bytes of a blob that waits; None if it does not wait here. Raises OSError."""
        with self._guard:
            found = self._files.get(digest)
            if found is None:
                return None
            os.lseek(found.descriptor, 0, os.SEEK_SET)
            pieces = []
            while piece := os.read(found.descriptor, SMALL):
                pieces.append(piece)
            return b"".join(pieces)

    @contextmanager
    def adding(self, digest: Digest, data: bytes, tar: str = "") -> Iterator[str]:
        """Write a verified blob to a file that waits for the disk, and yield its path. The file is removed if the
        block fails. ``tar``: the hard link to it that the block makes. Raises OSError."""
        path = self._new_path(digest)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            write_all(descriptor, data)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, READ_ONLY)
            point("batch.written")
            yield path
        except BaseException:
            os.close(descriptor)
            remove(path)
            raise
        with self._guard:
            if digest in self._files:  # another thread has brought it in meanwhile
                os.close(descriptor)
                remove(path)
                return
            self._files[digest] = _File(descriptor, path, len(data), tar)
            if len(self._files) >= _most_waiting():
                self.sync_and_move()

    def sync_and_move(self) -> None:
        """Sync all files that wait, and move them to their places in ``blobs/``.

        Raises OSError if that fails, and SystemFailure at each later call: a second sync would not report what the
        first one lost.
        """
        with self._guard:
            if self.failed:
                raise SystemFailure(
                    "the disk failed to store images of this batch that were written before",
                    hint="check the system log for errors of the disk, then load the images again",
                )
            if not (self._files or self._moved_to):
                return
            self.failed = True
            sync_together([file.descriptor for file in self._files.values()])
            point("batch.synced")
            for digest, file in list(self._files.items()):
                self._move(digest, file)
            for directory in sorted(self._moved_to):
                sync_directory(directory)
            self._moved_to.clear()
            self.failed = False
            point("batch.moved")

    def _move(self, digest: Digest, file: _File) -> None:
        target = self._paths.blob(digest)
        directory = os.path.dirname(target)
        if directory not in self._moved_to:
            make_directory(directory)
            self._moved_to.add(directory)
        os.replace(file.path, target)
        point("batch.blob-renamed")
        del self._files[digest]
        try:
            with suppress(OSError):  # without the note the tar is doubtful: it is compared with its digest
                # Another process may have put its own tar there meanwhile, and nobody has synced that one.
                if file.tar and is_same(file.descriptor, file.tar):
                    note_written(file.tar, within=self._paths.ingest, on_disk=True)
        finally:
            os.close(file.descriptor)

    def queue_name(self, name: str, descriptor: Descriptor) -> None:
        """Queue ``name`` for a document that waits or is in its place. Names are written soon, and in the order of
        the calls. Raises what ``commit_names`` raises."""
        self._names.append((name, descriptor))
        if time.monotonic() >= self._next_commit:
            self.commit_names()

    def commit_names(self) -> None:
        """Sync and move all files that wait, then write the queued names. Raises what ``sync_and_move`` and
        ``write_names`` raise."""
        self.sync_and_move()
        if not self._names:
            return
        began = time.monotonic()
        self._write_names(self._names)
        self._names = []
        ended = time.monotonic()
        self._next_commit = ended + max(EVERY, _SHARE * (ended - began))

    def close(self) -> None:
        """Drop the files that still wait."""
        _open.discard(self)
        with self._guard:
            self._closed = True
            for file in self._files.values():
                os.close(file.descriptor)
            self._files.clear()
            directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    def _new_path(self, digest: Digest) -> str:
        with self._guard:
            if self._closed:  # this thread was left running by an interrupt
                raise Cancelled("cancelled")
            if self._directory is None:
                self._directory = TemporaryDirectory(self._paths.ingest, "many")
            self._count += 1
            return os.path.join(self._directory.path, f"{self._count}-{digest.encoded}")


_open: set[Batch] = set()
"""All batches of this process: they share the number of files that it may have open."""


def _most_waiting() -> int:
    """The number of files that may wait at once in one batch."""
    try:
        import resource
    except ImportError:  # Windows
        most = MOST
    else:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = MOST if limit == resource.RLIM_INFINITY else min(MOST, limit // _OF_OPEN_FILES)
    return max(1, most // max(1, len(_open)))
