"""Sessions of writing to the store. Every write belongs to a session; its root file protects new objects from gc
until they have a name.

Several sessions in one process are independent. Each has its own root file, which it holds with a lock, and its own
unfinished files. Like separate processes, they wait for each other only for the lock of a part file, and for the lock
of the store while index.json is replaced.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lamina.errors import BlobNotFound, DiskFull, InvalidContent, LaminaError, NotFound
from lamina.events import Cancel, OnEvent, Warned, ignore
from lamina.host.files import reported, sync_directory
from lamina.light import TYPE_CHECKING
from lamina.source.accepts import Accepts
from lamina.source.presence import ABSENT, HERE, Presence, elsewhere
from lamina.source.verify import check_stated_size, is_plain
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Manifest, parse
from lamina.spec.reference import Reference
from lamina.store.completeness import check_listed_size, fetched_children, first_missing
from lamina.store.fault import point
from lamina.store.layers import Layers, blob_stays
from lamina.store.paths import Paths
from lamina.store.read import StoreReader
from lamina.store.refs import Refs, name_for
from lamina.store.roots import Roots
from lamina.store.session_blobs import SessionBlobs
from lamina.store.unfinished import Unfinished

if TYPE_CHECKING:
    from lamina.layer.build_layer import BuiltLayer
    from lamina.source.protocols import Blob
    from lamina.store.batch import Batch
    from lamina.store.same_image import ImagesByConfig

ACCEPTS = Accepts()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session works with. ``max_layer`` in bytes; ``keep`` and ``view`` as in ``Store.open``."""

    paths: Paths
    refs: Refs
    layers: Layers
    roots: Roots
    max_layer: int
    keep: str
    view: str


@contextmanager
def open_session(parts: Parts, purpose: str) -> Iterator[StoreSession]:
    """Open a new session. ``purpose``: what its root file is for. Raises SystemFailure."""
    with reported(parts.paths.ingest):
        from lamina.store.leftovers import sweep_temporaries

        sweep_temporaries(parts.paths)
    with reported(parts.paths.roots):
        session = StoreSession(parts, purpose)
    try:
        yield session
    except BaseException as error:
        with suppress(OSError):
            # Part files could be resumed later; but if the disk is full, remove them to free space.
            session.unfinished.drop(parts=isinstance(error, DiskFull))
        raise
    finally:
        parts.refs.settle()
        with reported(parts.paths.roots):
            session.end()


class StoreSession:
    """The ``Session`` of the store."""

    accepts = ACCEPTS

    def __init__(self, parts: Parts, purpose: str) -> None:
        """Create the root file of the session. Raises OSError."""
        self._parts = parts
        self._purpose = purpose
        self._layers = parts.layers
        self._blobs = SessionBlobs(parts.paths)
        self.reader = StoreReader(parts.paths, self._blobs, parts.refs, parts.layers)
        """It also finds the blobs that still wait for the disk."""
        self.location = self.reader.location
        self.unfinished = Unfinished()
        self._batch: Batch | None = None
        self._images: ImagesByConfig | None = None
        self._warned_of_kept_blobs = False
        self._listing = threading.Lock()
        self._listed: set[Digest] = set()
        self._unsynced: set[str] = set()
        self._root: str | None = parts.roots.create(purpose)

    def end(self) -> None:
        """Remove the root file. Raises OSError."""
        with self._listing:
            name, self._root = self._root, None
        if name is not None:
            self._parts.roots.remove(name)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Bring the small blobs, documents and names of this block to the disk many at a time, the last ones when the
        block ends (also with an exception). Until then only this session sees them."""
        if self._batch is not None:
            yield
            return
        from lamina.store.batch import Batch

        def write_names(names: list[tuple[str, Descriptor]]) -> None:
            self._parts.refs.set_all(names, self._fetched)

        ingest = self._parts.paths.ingest
        batch = self._batch = self._blobs.batch = Batch(self._parts.paths, write_names)
        try:
            try:
                yield
            except BaseException:
                with suppress(LaminaError, OSError):
                    batch.commit_names()  # complete images get their names, as they do without a batch
                raise
            with reported(ingest):
                batch.commit_names()
        finally:
            self._batch = self._blobs.batch = None
            with reported(ingest):
                batch.close()

    def commit_names(self) -> None:
        """Write the names that wait, before something that may take long."""
        if self._batch is not None:
            with reported(self._parts.paths.ingest):
                self._batch.commit_names()

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> Presence:
        """Protect the blob first, then check whether it is here."""
        self._protect(descriptor.digest, *([diff_id] if diff_id else []))
        if self._blobs.has(descriptor) and (diff_id is None or self._has_derived(descriptor, diff_id)):
            return HERE
        return ABSENT if diff_id is None else elsewhere(self._layers.origin(descriptor, diff_id))

    def _has_derived(self, descriptor: Descriptor, diff_id: Digest) -> bool:
        """Whether the layer's derived files are here too: its tar, or what replaces the tar."""
        return self._layers.has_derived_files(diff_id) or self._layers.is_without_tar(descriptor, diff_id)

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        """Bring a blob in. If the layer's tar is here and correct (it came with another compression, or a killed
        process lost the blob), only the blob is fetched. With ``keep = tar`` not even the blob is fetched; its origin
        is noted."""
        self._protect(descriptor.digest, *([diff_id] if diff_id else []))
        if self._blobs.has(descriptor):
            if diff_id is not None and not self._has_derived(descriptor, diff_id):
                self._sync_batch()  # the derived files are made from the blob in its place
                self._layers.make_derived_again(descriptor, diff_id)
            return False
        has_tar = diff_id is not None and self._parts.keep != "blob" and not is_plain(descriptor, diff_id)
        has_tar = has_tar and diff_id is not None and self._layers.has_sound_tar(diff_id)
        note_origin = None
        if diff_id is not None and self._parts.keep == "tar":
            note_origin = self._origin_note(descriptor, diff_id, blob, on_event)
        if has_tar and note_origin is not None and diff_id is not None:
            with reported(self._layers.path(diff_id)):
                self._layers.sync_tar(diff_id)  # the tar is the only copy that is kept
            note_origin()
            return False
        new = self._ingest(descriptor, blob, diff_id, has_tar, note_origin, on_event, cancel)
        if diff_id is not None and blob.origin and note_origin is None:
            self._layers.note_origin(descriptor, diff_id, blob.origin, kept=True)
        return new

    def _ingest(
        self,
        descriptor: Descriptor,
        blob: Blob,
        diff_id: Digest | None,
        has_tar: bool,
        note_origin: Callable[[], None] | None,
        on_event: OnEvent,
        cancel: Cancel | None,
    ) -> bool:
        """Bring the blob in, alone or together with others. Returns False if another process brought it in."""
        from lamina.store.ingest import Ingest, add_to_batch

        if self._batch is not None and note_origin is None:
            from lamina.store.batch import SMALL

            if descriptor.size <= SMALL:
                with reported(self._parts.paths.ingest):
                    add_to_batch(
                        self._batch,
                        self._parts.paths,
                        blob,
                        None if has_tar else diff_id,
                        max_layer=self._parts.max_layer,
                        on_event=on_event,
                        cancel=cancel,
                        tar=self._parts.keep != "blob",
                        unfinished=self.unfinished,
                    )
                return True
        return Ingest(
            self._parts.paths,
            descriptor,
            diff_id,
            max_layer=self._parts.max_layer,
            on_event=on_event,
            cancel=cancel,
            tar=self._parts.keep != "blob",
            view=self._parts.view,
            has_tar=has_tar,
            note_origin=note_origin,
            unfinished=self.unfinished,
        ).run(blob)

    def _sync_batch(self) -> None:
        if self._batch is not None:
            with reported(self._parts.paths.ingest):
                self._batch.sync_and_move()

    def _origin_note(
        self, descriptor: Descriptor, diff_id: Digest, blob: Blob, on_event: OnEvent
    ) -> Callable[[], None] | None:
        """Return a function that notes where a blob that is not kept can be fetched; None if the blob must be
        kept."""
        if blob_stays(descriptor, diff_id):
            return None
        origin = blob.origin or self._layers.origin(descriptor, diff_id)
        if not origin:
            if not self._warned_of_kept_blobs:
                self._warned_of_kept_blobs = True
                on_event(Warned("keep=tar: blobs are kept that no registry is known to have"))
            return None
        return lambda: self._layers.note_origin(descriptor, diff_id, origin)

    def make_layer(
        self,
        fill: Callable[[Callable[[bytes], object]], object],
        *,
        compression: str,
        level: int | None = None,
        docker: bool = False,
        cancel: Cancel | None = None,
    ) -> BuiltLayer | None:
        """Write a new layer in one pass: ``fill`` gets a function that takes the tar as it is made. None, and nothing
        is read, where the store keeps no tars. Raises what ``fill`` raises, InvalidLayer, SystemFailure,
        Cancelled."""
        if self._parts.keep == "blob":
            return None
        from lamina.store.ingest import tars_are_mounted
        from lamina.store.new_layer import NewLayer

        with reported(self._parts.paths.root):
            layer = NewLayer(
                self._parts.paths,
                compression=compression,
                level=level,
                docker=docker,
                max_layer=self._parts.max_layer,
                cached=not tars_are_mounted(self._parts.view),
                cancel=cancel,
            )
            with layer:
                fill(layer.write)
                built = layer.finish()
                if not self.has(built.descriptor, built.diff_id):
                    layer.keep()
                    with self._listing:
                        self._unsynced.add(os.path.dirname(self._parts.paths.blob(built.descriptor.digest)))
        return built

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        """Store a manifest. Raises InvalidContent, also if it states a wrong size of a blob that is here;
        BlobNotFound if the config or a layer is missing."""
        descriptor.check(raw)
        self._sync_names()
        from lamina.source.walk import manifest_blobs

        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        if isinstance(document, Manifest):
            # A client of the registry may skip blobs that it found here: nothing has protected those yet.
            self._protect(descriptor.digest, *(one.digest for one in manifest_blobs(document)))
            if not all(map(self._blobs.has, document.layers)):
                self._protect_tars(document)
            missing = self._first_missing(document)
            if missing is not None:
                check_stated_size(descriptor.digest, missing, self._blobs.size(missing.digest))
                raise BlobNotFound(
                    f"manifest {descriptor.digest} needs blob {missing.digest}, which is not in the store",
                    hint="push the blob before the manifest",
                )
        else:
            for one in document.manifests:
                check_listed_size(descriptor.digest, one, self._blobs)
            self._protect(descriptor.digest)
        if not self._blobs.has(descriptor):
            self._blobs.write(descriptor, raw)
            point("manifest.written")

    def _sync_names(self) -> None:
        """Bring the names of new layers to the disk, before a document names them."""
        with self._listing:
            directories, self._unsynced = self._unsynced, set()
        for directory in directories:
            with reported(directory):
                sync_directory(directory)

    def _protect_tars(self, manifest: Manifest) -> None:
        """Protect the tars of the layers whose blob is not kept here."""
        from lamina.spec.image_config import ImageConfig

        if not manifest.is_image or manifest.config.size > MAX_DOCUMENT:
            return
        with suppress(NotFound, InvalidContent):
            self._protect(*ImageConfig.parse(self._blobs.read(manifest.config)).diff_ids)

    def same_image(self, manifest: Manifest, name: str) -> Descriptor | None:
        """Find the image of the store that ``docker save`` has written as this manifest, so that it is not stored a
        second time."""
        from lamina.source.walk import Known, classify, manifest_blobs
        from lamina.store.same_image import ImagesByConfig

        self._protect(manifest.config.digest)
        if not self._blobs.has(manifest.config):
            return None
        if self._images is None:
            self._images = ImagesByConfig(self._blobs, self._parts.refs.names())
        reference = str(Reference.parse(name).with_default_tag()) if name else ""
        for known, top, descriptor in self._images.having(manifest.config.digest, reference):
            self._protect(top.digest, descriptor.digest)
            found = classify(self._blobs.read, descriptor)  # the document may have been removed meanwhile
            if not isinstance(found, Known) or not isinstance(found.document, Manifest) or not self._blobs.has(top):
                continue
            document = found.document
            self._protect(*(one.digest for one in manifest_blobs(document)))
            self._protect_tars(document)
            if len(document.layers) == len(manifest.layers) and self._first_missing(document) is None:
                return top if known == reference else descriptor
        return None

    def _first_missing(self, manifest: Manifest) -> Descriptor | None:
        return first_missing(manifest, self._blobs, self._layers)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Give the document a name, in any form that docker accepts. Raises UsageError, Conflict (the name contains
        another digest), BlobNotFound (no such document here)."""
        full = name_for(name, descriptor)
        if self._images is not None:
            self._images.note(full, descriptor)
        if self._batch is not None:
            with reported(self._parts.paths.ingest):
                self._batch.queue_name(full, descriptor)
            return
        # Checked under the lock: another process may have removed the image since it was found.
        self._parts.refs.set(full, descriptor, self._fetched)

    def _fetched(self, top: Descriptor, known: frozenset[str]) -> str:
        return fetched_children(top, known, self._blobs, self._layers)

    def _protect(self, *digests: Digest) -> None:
        with self._listing:
            if self._root is None:
                raise RuntimeError("this session has ended: open another one")
            new = [digest for digest in digests if digest not in self._listed]
            if new:
                with reported(self._parts.paths.roots):
                    self._parts.roots.extend(self._root, new)
                self._listed.update(new)
