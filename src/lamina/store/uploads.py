"""Uploads: blobs that clients of a registry server are sending. Each is a file in ``ingest/``, which survives a lost
connection and a restart of the server.

The bytes are hashed as they arrive, so that nothing is read again at the end. After a restart, or if another process
of the server has received the first bytes, the file is read once. A lock on the file excludes a second writer, in
whatever process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lamina.errors import Conflict, DigestMismatch, LimitExceeded, NotFound, RateLimited
from lamina.host.files import CHUNK, remove, reported, sync_directory, write_all
from lamina.host.lock import acquire, is_same, unheld
from lamina.host.spool import CHECK_EVERY, check_free_space
from lamina.light import pattern
from lamina.source.upload_limits import Opener, check_open_uploads, mark_of_client, new_ident
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import CANONICAL, Digest
from lamina.store import clock
from lamina.store.blobs import Blobs
from lamina.store.fault import point
from lamina.store.leftovers import KEEP_UPLOADS
from lamina.store.open_uploads import PREFIX, OpenUploads, mark_of
from lamina.store.paths import READ_ONLY, Paths
from lamina.store.writeback import EVERY, start_writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

ANY_TYPE = "application/octet-stream"
_SWEEP_EVERY = 3600.0
_KEEP_OF_MANY = 3600.0  # seconds without a byte after which an upload makes room for another one
_MAKE_ROOM_EVERY = 10.0
_PATIENCE = 2.0  # seconds until an upload that is locked is refused
_MOST_HASHED = 10_000
"""Uploads whose hash is remembered; the file of another one is read again."""
_IDENT = pattern(r"[0-9a-f]{32}")
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Uploads:
    """The uploads to the repositories of a store."""

    def __init__(self, paths: Paths, *, max_blob: int | None = None, keep_for: float = KEEP_UPLOADS) -> None:
        """``max_blob``: bytes that an upload may have. ``keep_for``: seconds without a byte after which an upload is
        removed."""
        self._paths = paths
        self._max = max_blob
        self._keep_for = keep_for
        self._guard = threading.Lock()
        self._hashed: dict[str, tuple[_Hash, int]] = {}
        self._swept = self._made_room = 0.0
        self._open_ones = OpenUploads(paths)

    def create(self, repository: str, opener: Opener | None = None) -> str:
        """Begin an upload. Raises RateLimited (too many are open), SystemFailure."""
        self._sweep_sometimes()
        client = mark_of_client(opener.name) if opener is not None else ""
        with reported(self._paths.ingest):
            self._check_count(repository, opener, client)
            self._open_ones.note(repository)
        ident = new_ident(client)
        path = self._path(repository, ident)
        with reported(path):
            os.close(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600))
        self._remember(path, _new(CANONICAL), 0)
        return ident

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        """The open uploads to this repository ("": to all), of all processes: by ident, the repository and the bytes
        received. Raises SystemFailure."""
        with reported(self._paths.ingest):
            return self._open_ones.received(repository)

    def _check_count(self, repository: str, opener: Opener | None, client: str) -> None:
        """Raises RateLimited, OSError."""
        try:
            check_open_uploads(self._open_ones.count(repository, client), opener)
        except RateLimited:
            with self._guard:
                now = time.monotonic()
                if self._made_room and now - self._made_room < _MAKE_ROOM_EVERY:
                    raise  # a refused request must not cost much
                self._made_room = now
            self.sweep(min(self._keep_for, _KEEP_OF_MANY))
            check_open_uploads(self._open_ones.count(repository, client), opener)

    def size(self, repository: str, ident: str) -> int:
        """The bytes received so far. Raises NotFound."""
        try:
            return os.stat(self._path(repository, ident), follow_symlinks=False).st_size
        except FileNotFoundError:
            raise _unknown(ident) from None

    def append(self, repository: str, ident: str, pieces: Iterable[bytes]) -> int:
        """Append bytes; returns the number of bytes received in all. Received bytes stay, also if ``pieces`` fails.
        Raises NotFound; LimitExceeded (the upload is removed then); DiskFull, SystemFailure."""
        path = self._path(repository, ident)
        with self._open(path, ident) as descriptor:
            hasher, done = self._hash_of(path, descriptor)
            looked = begun = done
            try:
                for piece in pieces:
                    if self._max is not None and done + len(piece) > self._max:
                        with reported(path):
                            remove(path)
                        raise LimitExceeded(
                            f"the blob has more than {self._max} bytes", hint="the limit is set by --max-blob"
                        )
                    if done >= looked:
                        check_free_space(self._paths.root, len(piece))
                        looked = done + CHECK_EVERY
                    with reported(path):
                        write_all(descriptor, piece)
                    hasher.update(piece)
                    done += len(piece)
                    if done - begun >= EVERY:
                        start_writing(descriptor, begun, done - begun)
                        begun = done
            finally:
                self._remember(path, hasher, done)
            return done

    @contextmanager
    def held(self, repository: str, ident: str) -> Iterator[None]:
        """Lock an upload, because only one request at a time may write to it. Raises Conflict if it is locked."""
        path = self._path(repository, ident)
        with self._open(path, ident) as descriptor:
            _lock(descriptor, path)
            if not is_same(descriptor, path):
                raise _unknown(ident)
            try:
                yield
            finally:
                if os.name == "nt":
                    from lamina.host.lock import release

                    release(descriptor, path)

    def finish(self, repository: str, ident: str, digest: Digest, protect: Callable[[], None]) -> Descriptor:
        """Verify the bytes and move them into ``blobs/``, durably; the upload is removed in any case. ``protect`` is
        called before the blob appears, or is found to be there. Raises NotFound, DigestMismatch, Unsupported."""
        path = self._path(repository, ident)
        with self._open(path, ident) as descriptor:
            try:
                size = os.fstat(descriptor).st_size
                found = self._digest_of(path, descriptor, digest)
                if found != digest:
                    raise DigestMismatch(f"the upload has the digest {found}, not {digest}", hint="send it again")
                protect()
                with reported(path):
                    self._move_into_place(path, ident, descriptor, digest, size)
            finally:
                with self._guard:
                    self._hashed.pop(path, None)
                remove(path)
            return Descriptor(ANY_TYPE, digest, size)

    def _move_into_place(self, path: str, ident: str, descriptor: int, digest: Digest, size: int) -> None:
        blobs = Blobs(self._paths)
        target = blobs.path(digest)
        if blobs.size(digest) != size:
            blobs.make_directory(digest)
            os.fsync(descriptor)
            point("upload.synced")
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, READ_ONLY)  # not before: after a kill a plain user could not go on
            try:
                os.replace(path, target)
            except FileNotFoundError:
                raise _unknown(ident) from None  # another request has removed it
            point("upload.blob-renamed")
        sync_directory(os.path.dirname(target))  # also if another process has just moved it there

    def cancel(self, repository: str, ident: str) -> None:
        """Remove the upload. Raises NotFound."""
        path = self._path(repository, ident)
        with self._guard:
            self._hashed.pop(path, None)
        with reported(path):
            if not remove(path):
                raise _unknown(ident)

    def sweep(self, keep_for: float) -> None:
        """Remove the uploads that got no byte for so many seconds. Raises OSError."""
        now = clock.now(self._paths)
        for path in self._open_ones.paths():
            with suppress(FileNotFoundError), unheld(path) as free:
                if free and not clock.is_younger(os.stat(path).st_mtime_ns, keep_for, now):
                    remove(path)
        self._open_ones.tidy(now)

    def _sweep_sometimes(self) -> None:
        with self._guard:
            if self._swept and time.monotonic() - self._swept < _SWEEP_EVERY:
                return
            self._swept = time.monotonic()
        with reported(self._paths.ingest):
            self.sweep(self._keep_for)

    @contextmanager
    def _open(self, path: str, ident: str) -> Iterator[int]:
        with reported(path):
            try:
                descriptor = os.open(path, _FLAGS)
            except FileNotFoundError:
                raise _unknown(ident) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _digest_of(self, path: str, descriptor: int, digest: Digest) -> Digest:
        """The digest of the bytes, by the algorithm of ``digest``. Raises Unsupported."""
        if digest.algorithm == CANONICAL:
            return Digest(CANONICAL, self._hash_of(path, descriptor)[0].hexdigest())
        digest.hasher()  # raises Unsupported
        return Digest(digest.algorithm, _hashed(descriptor, _new(digest.algorithm), 0)[0].hexdigest())

    def _hash_of(self, path: str, descriptor: int) -> tuple[_Hash, int]:
        """The hash of all bytes, and their number; the file's position is then at its end. What this process has not
        received is read."""
        with self._guard:
            hasher, done = self._hashed.pop(path, (None, 0))
        size = os.fstat(descriptor).st_size
        if hasher is None or done > size:
            hasher, done = _new(CANONICAL), 0
        if done == size:
            os.lseek(descriptor, 0, os.SEEK_END)
            return hasher, done
        return _hashed(descriptor, hasher, done)

    def _remember(self, path: str, hasher: _Hash, done: int) -> None:
        with self._guard:
            while len(self._hashed) >= _MOST_HASHED:
                del self._hashed[next(iter(self._hashed))]
            self._hashed[path] = (hasher, done)

    def _path(self, repository: str, ident: str) -> str:
        """The path of an upload's file, whether it exists or not. It belongs to one repository, so that nobody can
        reach it by the name of another one. Raises NotFound for a malformed ``ident``."""
        if not _IDENT.fullmatch(ident):
            raise _unknown(ident)
        return os.path.join(self._paths.ingest, f"{PREFIX}{ident}-{mark_of(repository)}")


def _new(algorithm: str) -> _Hash:
    import hashlib

    return hashlib.new(algorithm)


def _hashed(descriptor: int, hasher: _Hash, done: int) -> tuple[_Hash, int]:
    os.lseek(descriptor, done, os.SEEK_SET)
    while data := os.read(descriptor, CHUNK):
        hasher.update(data)
        done += len(data)
    return hasher, done


def _unknown(ident: str) -> NotFound:
    return NotFound(f"upload {ident[:64]!r} not found", hint="begin a new upload")


def _lock(descriptor: int, path: str) -> None:
    """Lock an upload, if it becomes free soon: prune holds each one for a moment, and a request whose client has gone
    ends a little later. Raises Conflict."""
    deadline = time.monotonic() + _PATIENCE
    while not acquire(descriptor, path, wait=False):
        if time.monotonic() > deadline:
            raise Conflict("another request writes to this upload", hint="wait until it ends")
        time.sleep(0.02)
