"""Object storage as a place of images: what verbs and the explorer read, and what a server opens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.errors import BlobNotFound, NotFound, ReferenceNotFound
from lamina.host.libc import share_memory_between_threads
from lamina.objects.address import open_bucket
from lamina.objects.blob import ObjectBlob
from lamina.objects.collecting import collecting
from lamina.objects.repositories import ObjectRepositories
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket
    from lamina.source.protocols import Blob
    from lamina.source.served import Repositories, WritableRepositories
    from lamina.spec.descriptor import Descriptor


def open_place(url: str, *, gc_every: float | None = None, redirect: bool = False) -> ObjectPlace:
    """Open object storage. Nothing is sent. Raises UsageError, Unsupported."""
    return ObjectPlace(open_bucket(url), gc_every=gc_every, redirect=redirect)


class ObjectPlace:
    """``Served`` over a bucket. ``gc_every``: a server that writes collects garbage every so many seconds;
    ``redirect``: blobs have URLs of the storage."""

    def __init__(self, bucket: Bucket, *, gc_every: float | None = None, redirect: bool = False) -> None:
        self.bucket = bucket
        self._gc_every, self._redirect = gc_every, redirect
        self.location = bucket.location
        self._open: ObjectRepositories | None = None

    @property
    def _repositories(self) -> ObjectRepositories:
        if self._open is None:
            self._open = ObjectRepositories(self.bucket, redirect=self._redirect)
        return self._open

    def reading(self) -> Repositories:
        share_memory_between_threads()
        return self._repositories

    @contextmanager
    def repositories(self) -> Iterator[WritableRepositories]:
        share_memory_between_threads()
        with collecting(self.bucket, self._gc_every):
            yield self._repositories
        self._repositories.close()
        self._open = None

    def names(self) -> Iterator[tuple[str, Descriptor]]:
        return self._repositories.tagged()

    def resolve(self, name: str) -> Descriptor:
        reference = Reference.parse(name).with_default_tag()
        try:
            return self._repositories.find(reference.repository, reference.digest or reference.tag or "latest")
        except NotFound:
            raise ReferenceNotFound(
                f"no image {reference} in {self.location}", hint="check the repository and the tag"
            ) from None

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._repositories.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        record = self._repositories.records.known(descriptor.digest)
        if record is None:
            raise BlobNotFound(f"no blob {descriptor.digest} in {self.location}", hint="check the digest")
        return ObjectBlob(self.bucket, descriptor.digest, record)
