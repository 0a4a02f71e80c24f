"""A layer that is made on this host: one pass writes its tar, its index and its compressed blob into the store.

A layer that comes from elsewhere is verified (``store.ingest``). Here nothing is read back: the digests are those of
the bytes that were written.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import ExitStack, suppress

from lamina.events import Cancel
from lamina.host.files import make_directory, replace_file, sync_directory, write_all
from lamina.host.spool import CHECK_EVERY, check_free_space
from lamina.host.temporary import Temporary
from lamina.layer.build_layer import BuiltLayer
from lamina.layer.codec import encoder
from lamina.layer.decode import LayerReader
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import CANONICAL, Digest, new_hasher
from lamina.spec.mediatype import layer_type
from lamina.store.blobs import Blobs
from lamina.store.derived import must_wait, note_written
from lamina.store.direct_io import Appender
from lamina.store.fault import point
from lamina.store.ingest import link_or_copy
from lamina.store.paths import READ_ONLY, Paths

_PIECE = 256 << 10
"""The tar is compressed in pieces of exactly this many bytes: the output depends on where the input is cut."""
_SMALL = 1 << 20
"""A thread costs a layer of fewer bytes more time than it saves."""
_QUEUED = 4


class NewLayer:
    """Call ``write`` with the tar as it is made, then ``finish``, then ``keep``. Leaving the block removes what was
    not kept. Raises OSError, and the errors of the tar parser."""

    def __init__(
        self,
        paths: Paths,
        *,
        compression: str,
        level: int | None,
        docker: bool,
        max_layer: int,
        cached: bool,
        cancel: Cancel | None = None,
    ) -> None:
        """``cached``: whether the tar will soon be read through the page cache."""
        self._paths = paths
        self._type = layer_type(compression, docker)
        self._packer = None if compression == "none" else encoder(compression, level)
        self._reader = LayerReader(max_layer=max_layer, what="the new layer", hashes=False)
        self._lasting = must_wait()
        self._cancel = cancel
        self._files = ExitStack()
        self._held: list[bytes] = []
        self._waiting = 0
        self._size = self._packed = self._looked = 0
        self._hasher = new_hasher(CANONICAL)
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._index: list[memoryview] = []
        self._cached = cached
        self._built: BuiltLayer | None = None

    def __enter__(self) -> NewLayer:
        within = self._paths.ingest
        try:
            self._tar = self._files.enter_context(Temporary(within, "layer.tar"))
            self._blob = self._tar
            if self._packer is not None:
                self._blob = self._files.enter_context(Temporary(within, "layer.blob"))
            self._appender = Appender(
                self._tar.descriptor,
                cached=self._cached,
                hasher=self._reader.hasher,
                lasting=self._lasting or self._packer is None,
            )
            self._files.callback(self._appender.close)
            self._files.callback(self._end)
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tar."""
        self._held.append(data)
        self._waiting += len(data)
        if self._waiting >= _PIECE:
            held = memoryview(b"".join(self._held))
            whole = len(held) // _PIECE * _PIECE
            self._held, self._waiting = [bytes(held[whole:])], len(held) - whole
            for at in range(0, whole, _PIECE):
                self._hand_on(bytes(held[at : at + _PIECE]))

    def finish(self) -> BuiltLayer:
        """The tar is complete: what was made."""
        if self._waiting:
            self._hand_on(b"".join(self._held))
            self._held, self._waiting = [], 0
        self._end()
        self._check()
        if self._packer is not None:
            self._take_packed(self._packer.flush())
        self._appender.finish()
        self._appender.close()
        summary = self._reader.finish()
        self._index = summary.chunks()
        if self._packer is None:
            descriptor = Descriptor(self._type, summary.diff_id, self._size)
        else:
            descriptor = Descriptor(self._type, Digest(CANONICAL, self._hasher.hexdigest()), self._packed)
        self._built = BuiltLayer(descriptor, summary.diff_id, summary.tar_size)
        return self._built

    def keep(self) -> None:
        """Give the files their names in the store, the blob last. Only the blob is synced: the others can be made
        from it (docs/decisions/0024-durable.md). Its name is on the disk when its directory has been synced, which
        the caller does before a document names the blob."""
        built = self._built
        assert built is not None
        paths, within = self._paths, self._paths.ingest
        directory, tar = paths.layer(built.diff_id), paths.tar(built.diff_id)
        target = paths.blob(built.descriptor.digest)
        point("ingest.part-written")
        for file in {self._tar, self._blob}:
            os.fchmod(file.descriptor, READ_ONLY)
        os.fsync(self._blob.descriptor)
        if self._lasting:
            os.fsync(self._tar.descriptor)
        point("ingest.part-synced")
        make_directory(directory)
        replace_file(paths.layer_index(built.diff_id), self._index, mode=READ_ONLY, within=within, lasting=False)
        self._index = []
        point("ingest.index-renamed")
        Blobs(paths).make_directory(built.descriptor.digest)
        if self._blob is self._tar:
            linked = link_or_copy(self._tar.path, tar, within=within)
            note_written(tar, within=within, on_disk=linked)
        else:
            note_written(tar, within=within, on_disk=self._lasting, state=os.fstat(self._tar.descriptor))
            self._tar.put(tar)
        if self._lasting:
            sync_directory(directory)
        point("ingest.tar-renamed")
        self._blob.put(target)
        point("ingest.blob-renamed")

    def _hand_on(self, piece: bytes) -> None:
        self._check()
        if self._cancel is not None:
            self._cancel.check()
        self._size += len(piece)
        if self._thread is None and self._size > _SMALL:
            thread = threading.Thread(target=self._work, name="lamina-new-layer", daemon=True)
            with suppress(RuntimeError):  # no more threads: this one does the work
                thread.start()
                self._thread = thread
        if self._thread is None:
            self._take(piece)
        else:
            self._pieces.put(piece)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._error is not None:
                continue  # keep the queue moving until the writer sees it
            try:
                self._take(piece)
            except BaseException as error:  # noqa: BLE001  (the writer raises it)
                self._error = error

    def _take(self, piece: bytes) -> None:
        self._appender.write(piece)
        if self._packer is not None:
            self._take_packed(self._packer.compress(piece))
        for _ in self._reader.feed(piece):
            pass
        if self._appender.written - self._looked >= CHECK_EVERY:
            self._looked = self._appender.written
            check_free_space(self._paths.root, 0)

    def _take_packed(self, data: bytes) -> None:
        if data:
            self._hasher.update(data)
            self._packed += len(data)
            write_all(self._blob.descriptor, data)
