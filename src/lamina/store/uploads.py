"""Blobs on their way in: files below one directory, one a session, that outlive a cut connection and the server."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import BlobNotFound
from lamina.host.files import remove, reported, write_all
from lamina.light import TYPE_CHECKING
from lamina.serve.routes import ApiError
from lamina.spec.descriptor import Descriptor

if TYPE_CHECKING:
    from lamina.source.protocols import Stream

_ID = re.compile(r"[0-9a-f]{32}")


class Uploads:
    """``directory`` is on the file system that blobs come to rest on."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._busy: set[str] = set()
        self._guard = threading.Lock()

    def create(self) -> str:
        ident = os.urandom(16).hex()
        path = self.path(ident)
        with reported(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        return ident

    def size(self, ident: str) -> int:
        """Bytes received. Raises ApiError (404)."""
        try:
            return os.stat(self.path(ident), follow_symlinks=False).st_size
        except FileNotFoundError:
            raise _unknown(ident) from None

    def append(self, ident: str, pieces: Iterable[bytes]) -> int:
        """What came stays, also where ``pieces`` breaks off; bytes received in all."""
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
        """One request at a time on a session. Raises ApiError."""
        with self._guard:
            if ident in self._busy:
                raise ApiError(409, "BLOB_UPLOAD_INVALID", "another request writes to this upload")
            self._busy.add(ident)
        try:
            yield
        finally:
            with self._guard:
                self._busy.discard(ident)

    def path(self, ident: str) -> str:
        """Raises ApiError for what is no id."""
        if not _ID.fullmatch(ident):
            raise _unknown(ident)
        return os.path.join(self._directory, f"upload-{ident}")


class Gone:
    """A ``Blob`` that has nothing beyond the file that its bytes were received in."""

    origin = ""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        if self.descriptor.size == 0:
            return io.BytesIO()
        raise BlobNotFound(f"what was sent is not {self.descriptor.digest}", hint="send it again")


def _unknown(ident: str) -> ApiError:
    return ApiError(404, "BLOB_UPLOAD_UNKNOWN", f"no upload {ident[:64]!r}")
