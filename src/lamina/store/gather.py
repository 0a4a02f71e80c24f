"""Many images at once: what is small waits for the disk together, and the names are given together
(docs/decisions/0028-many-images.md).

A fsync after each file costs milliseconds, whatever the file holds; of 200 files at once hardly more. So a small blob
or document is verified and written to a directory in ``ingest/`` and stays there, without its place in ``blobs/``.
``settle`` syncs all of them, moves them to their places and syncs these directories; only then ``flush`` writes their
images' names into index.json. Whenever the process or the machine stops, a name is there with all of its bytes, or
not there.
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
from lamina.store.derived import note
from lamina.store.fault import point
from lamina.store.flush import sync_together
from lamina.store.paths import READ_ONLY, Paths

SMALL = 1 << 20
"""Bytes of the largest blob that waits: to sync a larger one takes time of its own."""
MOST = 192
"""Files that wait at once, of all sessions of the process. Each is open: a disk that fails to take one tells only who
has it open."""
_OF_OPEN_FILES = 5
"""And at most this part of the files that the process may have open."""
EVERY = 1.0
"""Seconds between two rewrites of index.json."""
_SHARE = 8
"""And at least so many times what the last one took: a rewrite costs more the more images there are."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

Names = list[tuple[str, Descriptor]]


@dataclass(frozen=True, slots=True)
class _File:
    """A verified blob that waits. ``tar``: the tar that is a second name of it, "" for none."""

    descriptor: int
    path: str
    size: int
    tar: str


class Gathering:
    """Blobs, documents and names of one session that are not on the disk yet. Safe from threads."""

    def __init__(self, paths: Paths, give: Callable[[Names], None]) -> None:
        """``give`` writes names into index.json."""
        self._paths = paths
        self._give = give
        self._files: dict[Digest, _File] = {}
        self._moved_to: set[str] = set()  # directories that are not synced yet
        self._names: Names = []
        self._directory: TemporaryDirectory | None = None
        self._count = 0
        self._due = time.monotonic() + EVERY
        self._closed = False
        self.failed = False
        """Whether the disk failed to take something that waited: then nothing here gets a name any more."""
        self._guard = threading.RLock()
        _open.add(self)

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob that waits; None where it does not."""
        found = self._files.get(digest)
        return None if found is None else found.size

    def read(self, digest: Digest) -> bytes | None:
        """The bytes of a blob that waits; None where it does not. Raises OSError."""
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
    def taking(self, digest: Digest, data: bytes, tar: str = "") -> Iterator[str]:
        """Write a verified blob to a file that waits; its path. It counts when the block has ended well, and is gone
        otherwise. ``tar``: what the block makes a second name of it. Raises OSError."""
        path = self._new_path(digest)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            write_all(descriptor, data)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, READ_ONLY)
            point("gather.written")
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
            if len(self._files) >= _most():
                self.settle()

    def settle(self) -> None:
        """Wait until all that waits is on the disk, and give it its place in ``blobs/``. Raises OSError; and at each
        later call SystemFailure: a second sync would not tell what the first has lost."""
        with self._guard:
            if self.failed:
                raise SystemFailure(
                    "the disk failed to take images that came in before",
                    hint="check the system log, and load them again",
                )
            if not (self._files or self._moved_to):
                return
            self.failed = True
            sync_together([file.descriptor for file in self._files.values()])
            point("gather.synced")
            for digest, file in list(self._files.items()):
                self._put(digest, file)
            for directory in sorted(self._moved_to):
                sync_directory(directory)
            self._moved_to.clear()
            self.failed = False
            point("gather.settled")

    def _put(self, digest: Digest, file: _File) -> None:
        target = self._paths.blob(digest)
        directory = os.path.dirname(target)
        if directory not in self._moved_to:
            make_directory(directory)
            self._moved_to.add(directory)
        os.replace(file.path, target)
        point("gather.blob-renamed")
        del self._files[digest]
        try:
            with suppress(OSError):  # without the note the tar is doubtful, and compared with its digest
                # meanwhile another process may have put a tar of its own there, which nobody has synced
                if file.tar and is_same(file.descriptor, file.tar):
                    note(file.tar, within=self._paths.ingest, on_disk=True)
        finally:
            os.close(file.descriptor)

    def name(self, name: str, descriptor: Descriptor) -> None:
        """Give ``name`` to a document that waits or is in its place: soon, and in the order of the calls. Raises as
        ``flush``."""
        self._names.append((name, descriptor))
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Give all names that are due. Raises as ``settle``, and what ``give`` raises."""
        self.settle()
        if not self._names:
            return
        began = time.monotonic()
        self._give(self._names)
        self._names = []
        ended = time.monotonic()
        self._due = ended + max(EVERY, _SHARE * (ended - began))

    def close(self) -> None:
        """Drop what still waits."""
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
            if self._closed:  # a thread that was left behind by an interrupt
                raise Cancelled("cancelled")
            if self._directory is None:
                self._directory = TemporaryDirectory(self._paths.ingest, "many")
            self._count += 1
            return os.path.join(self._directory.path, f"{self._count}-{digest.encoded}")


_open: set[Gathering] = set()
"""Those of this process: they share the files that it may have open."""


def _most() -> int:
    """Files that may wait at once in one gathering."""
    try:
        import resource
    except ImportError:  # Windows
        most = MOST
    else:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = MOST if limit == resource.RLIM_INFINITY else min(MOST, limit // _OF_OPEN_FILES)
    return max(1, most // max(1, len(_open)))
