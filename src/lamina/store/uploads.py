"""Uploads: blobs that clients of a registry server are sending. Each is a file, which survives a lost connection and
a restart of the server."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import BlobNotFound, Conflict, NotFound
from lamina.host.files import remove, reported, write_all
from lamina.light import TYPE_CHECKING, pattern
from lamina.spec.descriptor import Descriptor
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.source.protocols import Stream

_IDENT = pattern(r"[0-9a-f]{32}")


class Uploads:
    """The unfinished uploads, each a file."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._busy: set[str] = set()
        self._guard = threading.Lock()

    def create(self) -> str:
        ident = os.urandom(16).hex()
        path = self.path(ident)
        with reported(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        return ident

    def size(self, ident: str) -> int:
        """The bytes received so far. Raises NotFound."""
        try:
            return os.stat(self.path(ident), follow_symlinks=False).st_size
        except FileNotFoundError:
            raise _unknown(ident) from None

    def append(self, ident: str, pieces: Iterable[bytes]) -> int:
        """Append bytes; returns the number of bytes received in all. Received bytes stay, also if ``pieces`` fails.
        Raises NotFound, SystemFailure."""
        path = self.path(ident)
        try:
            flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise _unknown(ident) from None
        with reported(path):
            try:
                for piece in pieces:
                    write_all(descriptor, piece)
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)

    def cancel(self, ident: str) -> None:
        if not remove(self.path(ident)):
            raise _unknown(ident)

    @contextmanager
    def held(self, ident: str) -> Iterator[None]:
        """Lock an upload, because only one request at a time may write to it. Raises Conflict if it is locked."""
        with self._guard:
            if ident in self._busy:
                raise Conflict("another request writes to this upload", hint="wait until it ends")
            self._busy.add(ident)
        try:
            yield
        finally:
            with self._guard:
                self._busy.discard(ident)

    def path(self, ident: str) -> str:
        """The path of an upload's file, whether it exists or not. Raises NotFound for a malformed ``ident``."""
        if not _IDENT.fullmatch(ident):
            raise _unknown(ident)
        return os.path.join(self._paths.ingest, f"upload-{ident}")


class Received:
    """A ``Blob`` whose bytes are all in the file that received them; nothing more can be read from its source."""

    origin = ""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        if self.descriptor.size == 0:
            return io.BytesIO()
        raise BlobNotFound(f"the upload does not match the digest {self.descriptor.digest}", hint="send it again")


def _unknown(ident: str) -> NotFound:
    return NotFound(f"upload {ident[:64]!r} not found", hint="begin a new upload")
