"""Blobs by digest: verified, immutable, read-only files."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lamina.errors import BlobNotFound, InvalidContent, UsageError
from lamina.host.files import (
    FileRange,
    make_directory,
    names_of_directories,
    names_of_files,
    remove,
    replace_file,
    reported,
)
from lamina.light import TYPE_CHECKING
from lamina.source.verify import with_hint
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.paths import READ_ONLY, Paths

if TYPE_CHECKING:
    from lamina.source.protocols import Blob

DAMAGED = "run `lamina fsck --repair`, then load or pull the image again"
"""The hint for a damaged object of the store. Repair comes first: before that, a pull reports that the object is
already here."""


class StoredBlob:
    """A ``Blob`` of the store."""

    origin = ""
    damage_hint = DAMAGED

    def __init__(self, descriptor: Descriptor, path: str) -> None:
        self.descriptor = descriptor
        self._path = path

    def open(self, start: int = 0, end: int | None = None) -> FileRange:
        """Raises BlobNotFound."""
        try:
            return FileRange(self._path, start, end)
        except FileNotFoundError:
            raise BlobNotFound(
                f"blob {self.descriptor.digest} is not in the store", hint="load or pull the image again"
            ) from None


class Blobs:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def path(self, digest: Digest) -> str:
        return self._paths.blob(digest)

    def size(self, digest: Digest) -> int | None:
        """The size in bytes; None if the blob is not here."""
        try:
            return os.stat(self._paths.blob(digest), follow_symlinks=False).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def descriptor(self, digest: Digest) -> Descriptor:
        """The descriptor of a blob, as far as its digest tells. Raises BlobNotFound."""
        size = self.size(digest)
        if size is None:
            raise BlobNotFound(f"blob {digest} is not in the store", hint="leave --local out to ask the registry")
        return Descriptor("application/octet-stream", digest, size)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here with this size. Its bytes were verified when it came in; `fsck` verifies them
        again."""
        return self.size(descriptor.digest) == descriptor.size

    def get(self, descriptor: Descriptor) -> Blob:
        return StoredBlob(descriptor, self._paths.blob(descriptor.digest))

    def read(self, descriptor: Descriptor) -> bytes:
        """Read a small blob completely, and verify it. Raises BlobNotFound, InvalidContent."""
        with reported(self._paths.blob(descriptor.digest)), self.get(descriptor).open() as stream:
            data = stream.read(descriptor.size + 1)
        try:
            descriptor.check(data)
        except InvalidContent as error:
            raise with_hint(error, descriptor.digest, DAMAGED) from None
        return data

    def write(self, descriptor: Descriptor, data: bytes) -> None:
        """Verify and write a small blob; it appears with all its bytes or not at all. Raises InvalidContent,
        SystemFailure."""
        descriptor.check(data)
        path = self._paths.blob(descriptor.digest)
        with reported(path):
            self.make_directory(descriptor.digest)
            replace_file(path, [data], mode=READ_ONLY, within=self._paths.ingest)

    def delete(self, digest: Digest) -> bool:
        """Remove a blob that nothing needs; returns False if it is not here. Only ``gc`` knows what is needed:
        nothing else may call this while other processes use the store. Raises SystemFailure."""
        path = self._paths.blob(digest)
        with reported(path):
            return remove(path)

    def make_directory(self, digest: Digest) -> None:
        make_directory(os.path.dirname(self._paths.blob(digest)))

    def __iter__(self) -> Iterator[Digest]:
        """All blobs, in no order; files whose name is not a digest are left out."""
        for algorithm in names_of_directories(self._paths.blobs):
            for encoded in names_of_files(os.path.join(self._paths.blobs, algorithm)):
                try:
                    yield Digest.parse(f"{algorithm}:{encoded}")
                except UsageError:
                    continue
