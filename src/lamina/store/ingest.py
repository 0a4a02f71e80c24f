"""Ingest of blobs into the store: one pass hashes, decompresses, parses and writes the bytes of a blob.

A blob gets its place in the store only after all of it was verified. Two threads work on each layer, with a bounded
queue between them, because hashing and decompressing release the GIL.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lamina.errors import InvalidContent, SystemFailure
from lamina.events import Cancel, OnEvent, start_threads
from lamina.host import privileges
from lamina.host.files import WRITE_FLAGS, SharedRange, make_directory, remove, replace_file, reported, sync_directory
from lamina.host.lock import acquire, is_same
from lamina.host.spool import CHECK_EVERY, check_free_space
from lamina.host.temporary import Temporary, TemporaryDirectory
from lamina.layer.codec import layer_decoder
from lamina.layer.decode import LayerReader
from lamina.source.abilities import can_abort
from lamina.source.verify import is_plain, prove_diff_id, verified
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.blobs import Blobs
from lamina.store.derived import must_wait, note_written, sync_file
from lamina.store.direct_io import BLOCK, Appender
from lamina.store.fault import point
from lamina.store.paths import READ_ONLY, Paths
from lamina.store.unfinished import DiskDelay, Unfinished

if TYPE_CHECKING:
    from lamina.layer.checkpoints.checkpoint import CheckpointDecoder
    from lamina.source.protocols import Blob, Stream
    from lamina.store.batch import Batch

_QUEUED = 4  # chunks between the threads
_LARGE = 8 << 20  # bytes; from this size on, writing a blob around the page cache pays


class Ingest:
    """Bring one blob into the store. For a layer (``diff_id`` is given) also make its tar and its index on the
    way."""

    def __init__(
        self,
        paths: Paths,
        descriptor: Descriptor,
        diff_id: Digest | None,
        *,
        max_layer: int,
        on_event: OnEvent,
        cancel: Cancel | None,
        tar: bool = True,
        view: str = "",
        has_tar: bool = False,
        note_origin: Callable[[], None] | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        """``tar``: whether the layer's tar is kept. ``view``: how the layer will be shown, "" for the best view that
        works here. ``has_tar``: the layer's tar is in the store and correct, so the blob is only hashed.
        ``note_origin``: given if the blob itself is not kept; it notes where the blob can be fetched. ``unfinished``:
        records the files that are being made."""
        self._unfinished = unfinished or Unfinished()
        self._paths = paths
        self._descriptor = descriptor
        self._diff_id = None if has_tar else diff_id
        self._keeps_tar = tar
        self._view = view
        self._note_origin = note_origin
        apart = (
            tar and diff_id is not None and not is_plain(descriptor, diff_id)
        )  # later reads use the tar, not the blob
        self._cached = note_origin is not None or not apart or descriptor.size < _LARGE
        self._max_layer = max_layer
        self._on_event = on_event
        self._cancel = cancel

    def run(self, blob: Blob, path: str = "") -> bool:
        """Bring the blob in. Returns False if another process has brought it in meanwhile.

        Raises InvalidContent, SystemFailure, Cancelled, RemoteFailure. After an error only the part file is left; the
        next run resumes from it, after it has hashed these bytes again. ``path``: another part file, received
        elsewhere.
        """
        path = path or self._paths.part(self._descriptor.digest)
        self._unfinished.parts.add(path)
        with reported(path):
            part = self._lock_part(path)
            try:
                if Blobs(self._paths).has(self._descriptor):
                    remove(path)
                    return False
                point("ingest.part-created")
                try:
                    with reported(path):
                        layer = self._resume_or_start(blob, part)
                except BaseException as error:
                    # Remove the part file if the next run can't use it: its bytes are wrong, the disk is full or
                    # fails, or the source can be read again at no cost.
                    useless = isinstance(error, (InvalidContent, SystemFailure)) or not blob.origin
                    if useless or not os.fstat(part).st_size:
                        remove(path)
                    raise
                self._move_into_place(part, path, layer)
            finally:
                os.close(part)
        self._unfinished.parts.discard(path)
        return True

    def _lock_part(self, path: str) -> int:
        """The part file, open and locked. After the wait for its lock, check that the path still names this file."""
        while True:
            descriptor = os.open(path, WRITE_FLAGS, 0o600)
            acquire(descriptor, path)
            if is_same(descriptor, path):
                return descriptor
            os.close(descriptor)

    def _resume_or_start(self, blob: Blob, part: int) -> LayerFiles | None:
        """Resume from the bytes that an earlier run left. If they are wrong (a power cut can damage files), start
        over."""
        had = os.fstat(part).st_size
        if had > self._descriptor.size:
            os.ftruncate(part, 0)
        elif not self._cached:
            os.ftruncate(part, had // BLOCK * BLOCK)
        if os.fstat(part).st_size:
            try:
                return self._receive(ResumedBlob(blob, part), part)
            except InvalidContent:
                os.ftruncate(part, 0)
        return self._receive(blob, part)

    def _receive(self, blob: Blob, part: int) -> LayerFiles | None:
        layer = None
        if self._diff_id is not None:
            layer = LayerFiles(
                self._paths,
                self._descriptor,
                self._diff_id,
                self._max_layer,
                tar=self._keeps_tar,
                cached=not tars_are_mounted(self._view),
                lasting=self._note_origin is not None,
                delay=self._unfinished.delay,
            )
        try:
            self._pump(blob, part, layer)
            point("ingest.part-written")
            if self._note_origin is None:
                os.fsync(part)  # the other thread still works meanwhile
            point("ingest.part-synced")
            if layer is not None:
                layer.finish()
        except BaseException:
            if layer is not None:
                layer.discard()
            raise
        return layer

    def _pump(self, blob: Blob, part: int, layer: LayerFiles | None) -> None:
        """Read, hash and write the blob in this thread, while the other thread decompresses and parses it."""
        size, done, looked = self._descriptor.size, 0, 0
        had = os.fstat(part).st_size
        check_free_space(self._paths.root, size - had)
        if layer is not None:
            layer.start()
            self._unfinished.tars.add(layer.tar_path)
        file: Appender | None = None
        try:
            for data in verified(blob, on_event=self._on_event, cancel=self._cancel):
                if done >= had:  # before this, the bytes come from the part file
                    file = file or Appender(
                        part,
                        cached=self._cached,
                        at=had,
                        lasting=self._note_origin is None,
                        delay=self._unfinished.delay,
                    )
                    file.write(data)
                if layer is not None:
                    layer.feed(data)
                done += len(data)
                if done - looked >= CHECK_EVERY:
                    check_free_space(self._paths.root, size - done)
                    looked = done
        finally:  # also after an interruption: the next run resumes there
            if file is not None:
                try:
                    file.finish()
                finally:
                    file.close()

    def _move_into_place(self, part: int, path: str, layer: LayerFiles | None) -> None:
        """Move the files to their final names after all of them were verified; the blob comes last."""
        target = self._paths.blob(self._descriptor.digest)
        Blobs(self._paths).make_directory(self._descriptor.digest)
        if layer is not None:
            layer.move_into_place(blob=path)
            self._unfinished.tars.discard(layer.tar_path)
        if self._note_origin is not None:
            self._note_origin()
            point("ingest.origin-noted")
            remove(path)
            return
        if hasattr(os, "fchmod"):
            os.fchmod(part, READ_ONLY)
        os.replace(path, target)
        point("ingest.blob-renamed")
        sync_directory(os.path.dirname(target))


def add_to_batch(
    batch: Batch,
    paths: Paths,
    blob: Blob,
    diff_id: Digest | None,
    *,
    max_layer: int,
    on_event: OnEvent,
    cancel: Cancel | None,
    tar: bool,
    unfinished: Unfinished,
) -> None:
    """Bring in a small blob that may wait for the disk together with others; otherwise like ``Ingest``.

    ``diff_id``: given for a layer whose derived files are to be made. ``tar``: whether the layer gets a tar. Raises
    what ``Ingest.run`` raises; then no file is left.
    """
    descriptor = blob.descriptor
    check_free_space(paths.root, descriptor.size)
    data = b"".join(verified(blob, on_event=on_event, cancel=cancel))
    if diff_id is None:
        with batch.adding(descriptor.digest, data):
            return
    layer = LayerFiles(paths, descriptor, diff_id, max_layer, tar=tar, threaded=False)
    try:
        layer.start()
        unfinished.tars.add(layer.tar_path)
        layer.feed(data)
        layer.finish()
        linked = paths.tar(diff_id) if layer.is_link else ""
        with batch.adding(descriptor.digest, data, linked) as path:
            layer.move_into_place(blob=path, noted=not linked)
            unfinished.tars.discard(layer.tar_path)
    except BaseException:
        layer.discard()
        raise


class ResumedBlob:
    """A ``Blob`` whose first bytes are already in the part file: only the rest is read from its source."""

    def __init__(self, blob: Blob, part: int) -> None:
        self.descriptor = blob.descriptor
        self.origin = blob.origin
        self._blob = blob
        self._part = part

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        if start or end is not None:
            raise ValueError("a resumed blob is read once, from its start")
        return _PartThenRest(self._blob, self._part)


class _PartThenRest:
    """Read the part file, then the source. One piece never holds bytes of both, so the position of a piece tells
    which it is."""

    def __init__(self, blob: Blob, part: int) -> None:
        self._blob = blob
        self._had = os.fstat(part).st_size
        self._kept: SharedRange | None = SharedRange(self, part, 0, self._had)
        self._rest: Stream | None = None
        self._aborted = threading.Event()

    def read(self, size: int = -1, /) -> bytes:
        if self._kept is not None:
            data = self._kept.read(size)
            if data or size == 0:
                return data
            self._kept = None
            if self._had == self._blob.descriptor.size:
                return b""
            self._rest = self._blob.open(self._had)
            if self._aborted.is_set():
                self.abort()
        return b"" if self._rest is None else self._rest.read(size)

    def abort(self) -> None:
        self._aborted.set()
        rest: object = self._rest
        if can_abort(rest):
            rest.abort()

    def close(self) -> None:
        if self._rest is not None:
            self._rest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LayerFiles:
    """Make the derived files of one layer from the blob's bytes as they arrive: the index, and the tar or (if ``tar``
    is False) checkpoints.

    Call ``start``, then ``feed`` for each chunk, then ``finish`` (which verifies diff_id), then ``move_into_place``
    or ``discard``.
    """

    def __init__(
        self,
        paths: Paths,
        descriptor: Descriptor,
        diff_id: Digest,
        max_layer: int,
        *,
        tar: bool = True,
        cached: bool = True,
        lasting: bool = False,
        delay: DiskDelay | None = None,
        threaded: bool = True,
    ) -> None:
        """``tar``: whether a tar is made. ``cached``: whether the tar will soon be read through the page cache.
        ``lasting``: the blob is not kept, so the tar must be on the disk before it gets its name. ``threaded``:
        whether a separate thread takes the bytes; for a small layer a thread costs more time than it saves."""
        self._lasting = lasting or must_wait()
        self._delay = delay
        self._paths = paths
        self._diff_id = diff_id
        self._digest = descriptor.digest
        self._plain = is_plain(descriptor, diff_id)
        self._cached = cached
        self._checkpoint_decoder: CheckpointDecoder | None = None
        if not tar and not self._plain:
            from lamina.layer.checkpoints.file import SniffingCheckpoints

            said = mediatype.compression(descriptor.media_type) or "none"
            self._checkpoint_decoder = SniffingCheckpoints(said, descriptor.size)
        self._makes_tar = (
            not self._plain and self._checkpoint_decoder is None
        )  # else the blob is the tar, or there is none
        self._reader = LayerReader(
            max_layer=max_layer,
            what=f"layer {descriptor.digest}",
            algorithm=diff_id.algorithm,
            inflate=self._checkpoint_decoder or layer_decoder(descriptor, diff_id),
            hashes=not self._makes_tar,
        )
        self.tar_path = ""
        """The path of the temporary file of the tar, set by ``start``; "" if no tar is made."""
        self._index: list[memoryview] = []
        self._seek: list[bytes] = []
        self._tar: Appender | None = None
        self._file: Temporary | None = None
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._error: BaseException | None = None
        self._looked = 0  # size of the tar at the last check of free space
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._work, name="lamina-layer", daemon=True)

    def start(self) -> None:
        if self._makes_tar:
            self._file = Temporary(self._paths.ingest, f"{self._diff_id.short}.tar")
            self.tar_path = self._file.path
            self._tar = Appender(
                self._file.descriptor,
                cached=self._cached,
                hasher=self._reader.hasher,
                lasting=self._lasting,
                delay=self._delay,
            )
        if self._thread is not None:
            start_threads([self._thread])

    def feed(self, data: bytes) -> None:
        """Take the next chunk. Raises the error of an earlier chunk, if there was one."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._take(data)
        else:
            self._chunks.put(data)

    def finish(self) -> None:
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._tar is not None:
            self._tar.finish()
            self._tar.close()
        summary = self._reader.finish()
        prove_diff_id(self._digest, self._diff_id, summary.diff_id)
        self._index = summary.chunks()
        if self._checkpoint_decoder is not None:
            from lamina.layer.checkpoints.file import dump

            self._seek = dump(
                self._digest,
                self._checkpoint_decoder.compression,
                summary.tar_size,
                self._checkpoint_decoder.checkpoints,
            )
            self._checkpoint_decoder.checkpoints.clear()
        if self._file is not None:
            if hasattr(os, "fchmod"):
                os.fchmod(self._file.descriptor, READ_ONLY)
            if self._lasting:
                os.fsync(self._file.descriptor)

    @property
    def is_link(self) -> bool:
        """Whether the tar will be a hard link to the blob."""
        return self._plain

    def move_into_place(self, *, blob: str, noted: bool = True) -> None:
        """Give the tar and the index their final names.

        ``blob``: the file that an uncompressed tar is a hard link to. ``noted``: False if that file is not on the
        disk yet; the caller that syncs it then writes the note for the link. Only a tar without a kept blob is synced
        here (docs/decisions/0024-durable.md).
        """
        directory, tar, within = self._paths.layer(self._diff_id), self._paths.tar(self._diff_id), self._paths.ingest
        make_directory(directory)
        index = self._paths.layer_index(self._diff_id)
        replace_file(index, self._index, mode=READ_ONLY, within=within, lasting=False)
        self._index = []
        point("ingest.index-renamed")
        if self._checkpoint_decoder is not None:
            seek = self._paths.seek(self._diff_id)
            replace_file(seek, self._seek, mode=READ_ONLY, within=within, lasting=False)
            self._seek = []
            point("ingest.seek-renamed")
            return
        if self._file is None:
            linked = link_or_copy(blob, tar, within=within)
            if self._lasting and not linked:
                sync_file(tar)
            if noted or not linked:
                note_written(tar, within=within, on_disk=linked or self._lasting)
            point("ingest.tar-noted")
        else:
            note_written(tar, within=within, on_disk=self._lasting, state=os.fstat(self._file.descriptor))
            point("ingest.tar-noted")
            self._file.put(tar)
            self._close()
        if self._lasting:
            sync_directory(directory)
            sync_directory(os.path.dirname(directory))
        point("ingest.tar-renamed")

    def discard(self) -> None:
        """Stop, and remove all files of this layer."""
        self._error = self._error or InvalidContent("given up")
        while self._thread is not None and self._thread.is_alive():
            with suppress(queue.Full):
                self._chunks.put_nowait(None)
            self._thread.join(0.05)
        self._close()

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        while (data := self._chunks.get()) is not None:
            if self._error is not None:
                continue  # keep the queue moving until the feeder sees it
            try:
                self._take(data)
            except BaseException as error:  # noqa: BLE001  (it is raised again in the feeding thread)
                self._error = error

    def _take(self, data: bytes) -> None:
        with reported(self._paths.root):
            for piece in self._reader.feed(data):
                if self._tar is None:
                    continue
                self._tar.write(piece)
                if self._tar.written - self._looked >= CHECK_EVERY:
                    self._looked = self._tar.written
                    check_free_space(self._paths.root, 0)


def tars_are_mounted(view: str) -> bool:
    """Whether tars are likely to be mounted (view/erofs/attach). A mount reads them around the page cache; all other
    views soon read them through it."""
    if view not in ("", "erofs", "erofs-merged"):
        return False
    return privileges.is_root() and tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 12)


def link_or_copy(source: str, target: str, *, within: str) -> bool:
    """Put a hard link to ``source``, or a copy of it, at ``target``, and replace what is there. Returns False for a
    copy: the file system then has no hard links. ``within``: a directory on the same file system, for temporary
    files."""
    with suppress(OSError):
        os.link(source, target)
        return True
    linked = True
    with TemporaryDirectory(within, os.path.basename(target)) as scratch:
        made = os.path.join(scratch.path, "file")
        try:
            os.link(source, made)
        except OSError:
            import shutil

            shutil.copyfile(source, made)
            linked = False
        os.replace(made, target)
    return linked
