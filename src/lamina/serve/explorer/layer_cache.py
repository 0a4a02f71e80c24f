"""Indexes and checkpoints of layers, in a cache directory that never gets larger than its bound.

A layer is read once, verified, and its index is kept; the content of a file is then read through the blob, from the
nearest checkpoint. Both files are found by the digest of the blob, which the repository must have: a config may state
any diff_id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from lamina.errors import StoreDamaged, SystemFailure
from lamina.events import BlobProgress, Cancel, Event
from lamina.host.files import make_directory, remove, replace_file, reported
from lamina.light import TYPE_CHECKING
from lamina.settings import MAX_LAYER
from lamina.source.presence import HERE, Presence
from lamina.source.verify import is_plain, prove_diff_id, verified
from lamina.spec import mediatype

if TYPE_CHECKING:
    from lamina.layer.checkpoints.seekable import SeekableTar
    from lamina.layer.index import LayerIndex
    from lamina.source.protocols import Blob, Stream
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest

    OnBytes = Callable[[int], None]

ROOM = 2 << 30
"""Bytes that the files of a cache may have in total."""


def default_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory for caches of this user."""
    base = environ.get("XDG_CACHE_HOME") or environ.get("LOCALAPPDATA")
    if not base:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        base = "/var/cache" if root else os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "lamina", "explorer")


class LayerCache:
    """A directory of derived files, each written atomically. What was not used for the longest time is removed when
    ``room`` bytes are exceeded; those who read such a file keep it open."""

    def __init__(self, directory: str, *, room: int = ROOM, max_layer: int = MAX_LAYER) -> None:
        self.directory = directory
        self.max_layer = max_layer
        self._room = room
        self._guard = threading.Lock()

    def path(self, digest: Digest, kind: str) -> str:
        return os.path.join(self.directory, f"{digest.algorithm}-{digest.encoded}.{kind}")

    def write(self, digest: Digest, kind: str, pieces: list[bytes] | list[memoryview]) -> None:
        """Write a derived file, and remove others if there is too little room. Raises SystemFailure."""
        path = self.path(digest, kind)
        with reported(path):
            make_directory(self.directory)
            replace_file(path, pieces, mode=0o600, lasting=False)
        self._make_room(path)

    def used(self, digest: Digest) -> None:
        """Note that the files of a layer are in use."""
        for kind in ("index", "seek"):
            with suppress(OSError):
                os.utime(self.path(digest, kind))

    def _make_room(self, keep: str) -> None:
        with self._guard, suppress(OSError):
            found = []
            for entry in os.scandir(self.directory):
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found.append((state.st_mtime_ns, state.st_size, entry.path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self._room:
                    break
                if path != keep:
                    with suppress(SystemFailure, OSError):
                        remove(path)
                    total -= size


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

    def is_ready(self) -> bool:
        """Whether the index is at hand."""
        if self._index is None:
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
        with self._guard:
            if self._seekable is None:
                self._seekable = self._open_seekable()
            seekable = self._seekable
        with reported(str(self.descriptor.digest)):
            return seekable.open(start, end)

    def _open_seekable(self) -> SeekableTar:
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
        from lamina.layer.checkpoints.file import SniffingCheckpoints, dump
        from lamina.layer.codec import PlainDecoder
        from lamina.layer.decode import LayerReader

        descriptor, diff_id = self.descriptor, self.diff_id
        plain = is_plain(descriptor, diff_id)
        said = mediatype.compression(descriptor.media_type) or "none"
        decoder = PlainDecoder() if plain else SniffingCheckpoints(said, descriptor.size)
        layer = LayerReader(
            max_layer=self._cache.max_layer,
            what=f"layer {descriptor.digest}",
            algorithm=diff_id.algorithm,
            inflate=decoder,
        )
        for data in verified(_Sized(self._find_blob(), descriptor), on_event=self._told, cancel=self.cancel):
            for _ in layer.feed(data):
                pass
        summary = layer.finish()
        prove_diff_id(descriptor.digest, diff_id, summary.diff_id)
        index = summary.index
        if isinstance(decoder, SniffingCheckpoints):
            seek = dump(descriptor.digest, decoder.compression, summary.tar_size, decoder.checkpoints)
            self._cache.write(descriptor.digest, "seek", seek)
        self._cache.write(descriptor.digest, "index", summary.chunks())
        self._cache.write(descriptor.digest, "diffid", [str(diff_id).encode()])
        return index

    def _told(self, event: Event) -> None:
        if isinstance(event, BlobProgress):
            self.on_bytes(event.done)


class _Sized:
    """A blob with the descriptor of the manifest: its size is verified too."""

    def __init__(self, blob: Blob, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.origin = blob.origin
        self.open = blob.open
