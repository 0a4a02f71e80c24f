"""The blobs that a session sees: those of the store, and its own blobs that still wait for the disk."""

from __future__ import annotations

from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.blobs import Blobs
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.source.protocols import Blob
    from lamina.store.batch import Batch


class SessionBlobs(Blobs):
    """Blobs in the store, and those in ``batch``, which are not in their place yet."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self.batch: Batch | None = None

    def size(self, digest: Digest) -> int | None:
        batch = self.batch  # read once: another thread may end the batch meanwhile
        size = None if batch is None else batch.size(digest)
        return super().size(digest) if size is None else size

    def get(self, descriptor: Descriptor) -> Blob:
        batch = self.batch
        if batch is not None:
            with reported(self._paths.ingest):
                data = batch.read(descriptor.digest)
            if data is not None:
                return BytesBlob(descriptor, data)
        return super().get(descriptor)

    def write(self, descriptor: Descriptor, data: bytes) -> None:
        batch = self.batch
        if batch is None:
            super().write(descriptor, data)
            return
        descriptor.check(data)
        with reported(self.path(descriptor.digest)), batch.adding(descriptor.digest, data):
            pass
