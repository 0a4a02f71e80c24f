"""Layers of the store: the derived tar and index of each diff_id, made again from the blob where they are gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from lamina.errors import StoreDamaged, SystemFailure, UsageError
from lamina.files import FileRange, failure, replace_file, reported
from lamina.layer.index import LayerIndex
from lamina.source import verified
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.blobs import Blobs
from lamina.store.fault import pieces, point
from lamina.store.lock import locked
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.layer.digests import LayerDigests

_HINT = "run `lamina fsck --repair`, then load or pull the image again"


class StoredLayer:
    """A ``LayerHandle`` of the store."""

    def __init__(self, layers: Layers, descriptor: Descriptor, diff_id: Digest) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self._layers = layers
        self._index: LayerIndex | None = None

    def index(self) -> LayerIndex:
        if self._index is None:
            self._index = self._layers.index(self.descriptor, self.diff_id)
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> FileRange:
        """Bytes of the uncompressed tar."""
        return self._layers.open_tar(self.descriptor, self.diff_id, start, end)

    def digests(self) -> LayerDigests:
        """The content digests of the regular files, made on first need. Raises as ``index``."""
        return self._layers.digests(lambda: self.descriptor, self.diff_id, self.index())


class Layers:
    def __init__(self, paths: Paths, max_layer: int) -> None:
        self._paths = paths
        self._max_layer = max_layer

    def get(self, descriptor: Descriptor, diff_id: Digest) -> StoredLayer:
        return StoredLayer(self, descriptor, diff_id)

    def index(self, descriptor: Descriptor, diff_id: Digest) -> LayerIndex:
        """Raises BlobNotFound, InvalidContent (the blob is not what it was), SystemFailure."""
        path = self._paths.layer_index(diff_id)
        try:
            return LayerIndex.load(path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            self.make(descriptor, diff_id)
        with reported(path):
            return LayerIndex.load(path)

    def kept_index(self, diff_id: Digest) -> LayerIndex | None:
        """The index where it is there and whole; nothing is made. Raises SystemFailure."""
        path = self._paths.layer_index(diff_id)
        try:
            return LayerIndex.load(path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            return None
        except OSError as error:
            raise failure(error, path) from error

    def open_tar(self, descriptor: Descriptor, diff_id: Digest, start: int = 0, end: int | None = None) -> FileRange:
        path = self._paths.tar(diff_id)
        try:
            return FileRange(path, start, end)
        except (FileNotFoundError, NotADirectoryError):
            self.make(descriptor, diff_id)
        with reported(path):
            return FileRange(path, start, end)

    def digests(self, descriptor: Callable[[], Descriptor], diff_id: Digest, index: LayerIndex) -> LayerDigests:
        """The content digests of the layer's regular files: read, or made in one pass over its tar and kept.
        ``descriptor`` is asked for only then. Raises as ``index``."""
        from lamina.layer.digests import LayerDigests

        path = self._paths.digests(diff_id)
        try:
            with open(path, "rb") as file:
                return LayerDigests(index, file.read(), path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            pass
        made = LayerDigests.make(index, partial(self.open_tar, descriptor(), diff_id))
        try:
            with reported(path):
                data = pieces([made.buffer], "digests.written")
                replace_file(path, data, temporary=self._paths.scratch(f"{diff_id.short}.digests"))
            point("digests.renamed")
        except SystemFailure as error:  # a store that is only read is looked into all the same
            import logging

            logging.getLogger("lamina.store").debug("%s", error)
        return made

    def make(self, descriptor: Descriptor, diff_id: Digest) -> None:
        """Derive tar and index from the blob, verified. Raises as ``index``."""
        from lamina.store.ingest import LayerFiles, look_at_free_space

        blob = self._paths.blob(descriptor.digest)
        with reported(self._paths.root):
            look_at_free_space(self._paths.root, descriptor.size)
            files = LayerFiles(self._paths, descriptor, diff_id, self._max_layer)
            try:
                files.start()
                for data in verified(Blobs(self._paths).get(descriptor), hint=_HINT):
                    files.feed(data)
                files.finish()
            except BaseException:
                files.discard()
                raise
            files.keep(blob=blob)

    def there(self, diff_id: Digest) -> bool:
        """Whether both derived files are there (not whether they are right: see fsck)."""
        return os.path.exists(self._paths.layer_index(diff_id)) and os.path.exists(self._paths.tar(diff_id))

    def note_origin(self, descriptor: Descriptor, diff_id: Digest, origin: str) -> None:
        """Remember the repository that has this blob of the layer: only its tar is here. Raises SystemFailure."""
        path = self._paths.origins(diff_id)
        with reported(path), locked(self._paths.lock):
            known = _read_origins(path)
            if known.get(descriptor.digest) == origin:
                return
            known[descriptor.digest] = origin
            text = "".join(f"{digest} {place}\n" for digest, place in known.items())
            replace_file(path, [text.encode()], temporary=self._paths.scratch(f"{diff_id.short}.origins"))

    def origins(self) -> dict[Digest, str]:
        """Of every layer blob that is not kept here but known by its tar: the repository that has it."""
        found: dict[Digest, str] = {}
        for diff_id in self.diff_ids():
            if self.there(diff_id):
                found.update(_read_origins(self._paths.origins(diff_id)))
        return found

    def diff_ids(self) -> list[Digest]:
        """All layers that have derived data."""
        found = []
        for algorithm in sorted(os.listdir(self._paths.layers)):
            directory = os.path.join(self._paths.layers, algorithm)
            found += [Digest(algorithm, encoded) for encoded in sorted(os.listdir(directory))]
        return found


def _read_origins(path: str) -> dict[Digest, str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(1 << 20).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    for line in lines:
        digest, _, place = line.partition(" ")
        try:
            found[Digest.parse(digest)] = place
        except UsageError:
            continue
    return found
