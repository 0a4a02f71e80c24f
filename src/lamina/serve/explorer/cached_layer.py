"""Layers of any place, read through their blobs: once as a whole for the index, then from the nearest checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lamina.errors import StoreDamaged
from lamina.events import Cancel
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.serve.explorer.derived_files import make_files
from lamina.source.presence import HERE, Presence
from lamina.source.verify import is_plain

if TYPE_CHECKING:
    from lamina.layer.checkpoints.seekable import SeekableTar
    from lamina.layer.index import LayerIndex
    from lamina.serve.explorer.derived_files import OnBytes
    from lamina.serve.explorer.layer_cache import LayerCache
    from lamina.source.protocols import Blob, Stream
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest

SMALL = 4 << 20
"""A layer up to this many bytes is read in this process: starting another takes longer."""


class CachedLayer:
    """A ``LayerHandle`` over a blob. ``on_bytes`` is called with the bytes read while the index is made."""

    def __init__(
        self, cache: LayerCache, descriptor: Descriptor, diff_id: Digest, find_blob: Callable[[], Blob]
    ) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.on_bytes: OnBytes = lambda done: None
        self.cancel: Cancel | None = None
        self._cache = cache
        self._find_blob = find_blob
        self._guard = threading.Lock()
        self._index: LayerIndex | None = None
        self._seekable: SeekableTar | None = None

    def presence(self) -> Presence:
        return HERE

    @property
    def is_large(self) -> bool:
        """Whether it is read by a process of its own."""
        return self.descriptor.size > SMALL

    def is_ready(self) -> bool:
        """Whether the index is at hand. Raises NotFound if the place does not have the blob: the index may have been
        made for another repository."""
        if self._index is None:
            self._find_blob()
            self._index = self._kept()
        return self._index is not None

    def index(self) -> LayerIndex:
        with self._guard:
            if not self.is_ready():
                self._index = self._make()
            assert self._index is not None
            return self._index

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """The bytes of the uncompressed tar."""
        if is_plain(self.descriptor, self.diff_id):
            return self._find_blob().open(start, self.index().tar_size if end is None else end)
        seekable = self._opened_tar()
        try:
            return seekable.open(start, end)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):  # the cache had no room for it
            seekable = self._opened_tar(instead_of=seekable)
        with reported(str(self.descriptor.digest)):
            return seekable.open(start, end)

    def _opened_tar(self, instead_of: SeekableTar | None = None) -> SeekableTar:
        with self._guard:
            if self._seekable is None or self._seekable is instead_of:
                self._seekable = self._seekable_tar()
            return self._seekable

    def _seekable_tar(self) -> SeekableTar:
        from lamina.layer.checkpoints.file import SeekIndex
        from lamina.layer.checkpoints.seekable import SeekableTar

        path = self._cache.path(self.descriptor.digest, "seek")
        try:
            seek = SeekIndex.load(path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            self._index = self._make()
            with reported(path):
                seek = SeekIndex.load(path)
        blob = self._find_blob()
        return SeekableTar(seek, str(self.descriptor.digest), blob.open)

    def _kept(self) -> LayerIndex | None:
        from lamina.layer.index import LayerIndex

        try:
            index = LayerIndex.load(self._cache.path(self.descriptor.digest, "index"))
        except (OSError, StoreDamaged):
            return None
        if self._proof() != str(self.diff_id):
            return None  # another config states another diff_id for this blob: one of them is wrong
        self._cache.used(self.descriptor.digest)
        return index

    def _proof(self) -> str:
        """The diff_id that the blob was found to have."""
        try:
            with open(self._cache.path(self.descriptor.digest, "diffid"), encoding="ascii", errors="replace") as file:
                return file.read(200)
        except OSError:
            return ""

    def _make(self) -> LayerIndex:
        """Make the derived files: of a large layer in another process. Raises NotFound, InvalidContent,
        SystemFailure."""
        blob = Sized(self._find_blob(), self.descriptor)
        if self.is_large:
            from lamina.serve.explorer.index_process import make_apart

            made = make_apart(self._cache, blob, self.diff_id, on_bytes=self.on_bytes, cancel=self.cancel)
            if made:
                index = self._kept()
                if index is not None:
                    return index
        return make_files(self._cache, blob, self.diff_id, on_bytes=self.on_bytes, cancel=self.cancel)


class Sized:
    """A blob with the descriptor of the manifest: its size is verified too."""

    def __init__(self, blob: Blob, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.origin = blob.origin
        self.open = blob.open
