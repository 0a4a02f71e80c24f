"""Writing to the store. Everything runs in a session, whose root keeps gc away from what is not named yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from lamina.errors import BlobNotFound, Conflict, DiskFull, InvalidContent, NotFound
from lamina.events import Cancel, OnEvent, Warned, ignore
from lamina.files import remove, reported
from lamina.light import TYPE_CHECKING
from lamina.source import Blob, is_plain
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, Manifest, parse
from lamina.spec.mediatype import is_foreign
from lamina.spec.reference import Reference
from lamina.store.fault import point
from lamina.store.layers import blob_stays

if TYPE_CHECKING:
    import threading

    from lamina.store.blobs import Blobs
    from lamina.store.layers import Layers
    from lamina.store.paths import Paths
    from lamina.store.refs import Refs
    from lamina.store.roots import Roots
    from lamina.store.unfinished import Unfinished


class StoreWriter:
    """``Writer`` of the store."""

    takes_indexes = True
    takes_sparse = True
    reads_back = True
    takes_foreign = True

    blobs: Blobs
    layers: Layers
    refs: Refs
    roots: Roots
    paths: Paths
    max_layer: int
    keep: str
    view: str
    _told: str | None = None
    _session: str | None
    _unfinished: Unfinished | None = None
    _purpose: str = ""
    _guard: threading.Lock
    _listing: threading.Lock

    @contextmanager
    def session(self, purpose: str) -> Iterator[None]:
        """One at a time in a Store object; others wait."""
        with self._guard:
            with reported(self.paths.ingest):
                from lamina.store.leftovers import sweep_temporaries

                sweep_temporaries(self.paths)
            with reported(self.paths.roots):
                self._session, self._purpose = self.roots.create(purpose), purpose
            from lamina.store.unfinished import Unfinished

            unfinished = self._unfinished = Unfinished()
            try:
                yield
            except BaseException as error:
                with suppress(OSError):
                    # what could be gone on with is of no use where it fills the disk
                    unfinished.drop(parts=isinstance(error, DiskFull))
                raise
            finally:
                name, self._session = self._session, None
                with reported(self.paths.roots):
                    self.roots.remove(name)

    def has(self, descriptor: Descriptor, diff_id: Digest | None = None) -> bool:
        """Protects the blob first, then looks."""
        self._protect(descriptor.digest, *([diff_id] if diff_id else []))
        return self.blobs.has(descriptor) and (diff_id is None or self._has_derived(descriptor, diff_id))

    def _has_derived(self, descriptor: Descriptor, diff_id: Digest) -> bool:
        """Whether the layer's tar, or what stands for it, is there too."""
        return self.layers.there(diff_id) or self.layers.without_tar(descriptor, diff_id)

    def put_blob(
        self,
        descriptor: Descriptor,
        blob: Blob,
        *,
        diff_id: Digest | None = None,
        on_event: OnEvent = ignore,
        cancel: Cancel | None = None,
    ) -> bool:
        """Of a layer whose tar is here and sound (it came under another compression, or a kill took the blob) only
        the blob is fetched; with ``keep = tar`` not even that: its origin is noted."""
        self._protect(descriptor.digest, *([diff_id] if diff_id else []))
        if self.blobs.has(descriptor):
            if diff_id is not None and not self._has_derived(descriptor, diff_id):
                self.layers.make_again(descriptor, diff_id)
            return False
        known = diff_id is not None and self.keep != "blob" and not is_plain(descriptor, diff_id)
        known = known and diff_id is not None and self.layers.is_sound(diff_id)
        unkept = self._unkept(descriptor, diff_id, blob, on_event) if diff_id and self.keep == "tar" else None
        if known and unkept is not None and diff_id is not None:
            with reported(self.layers.path(diff_id)):
                self.layers.settle(diff_id)  # it is all that is kept
            unkept()
            return False
        from lamina.store.ingest import Ingest

        new = Ingest(
            self.paths,
            descriptor,
            diff_id,
            max_layer=self.max_layer,
            on_event=on_event,
            cancel=cancel,
            tar=self.keep != "blob",
            view=self.view,
            known=known,
            unkept=unkept,
            unfinished=self._unfinished,
        ).run(blob)
        if diff_id is not None and blob.origin and unkept is None:
            self.layers.note_origin(descriptor, diff_id, blob.origin, kept=True)
        return new

    def _unkept(
        self, descriptor: Descriptor, diff_id: Digest, blob: Blob, on_event: OnEvent
    ) -> Callable[[], None] | None:
        """Notes where a blob is to be had that is not kept here; None where it has to be."""
        if blob_stays(descriptor, diff_id):
            return None
        origin = blob.origin or self.layers.origin(descriptor, diff_id)
        if not origin:
            if self._session != self._told:
                self._told = self._session
                on_event(Warned("keep=tar: blobs stay that no registry is known to have"))
            return None
        return lambda: self.layers.note_origin(descriptor, diff_id, origin)

    def put_file(self, descriptor: Descriptor, path: str, rest: Blob) -> bool:
        """As ``put_blob``, of bytes that were received in a file on the store's own file system: it is verified and
        becomes the blob. What it lacks is asked of ``rest``. Raises as ``put_blob``; the file is gone then."""
        self._protect(descriptor.digest)
        from lamina.store.ingest import Ingest

        ingest = Ingest(self.paths, descriptor, None, max_layer=self.max_layer, on_event=ignore, cancel=None)
        try:
            return ingest.run(rest, path)
        except BaseException:
            with reported(path):
                remove(path)
            raise

    def put_manifest(self, descriptor: Descriptor, raw: bytes) -> None:
        """Raises InvalidContent; BlobNotFound where config or a layer is missing."""
        descriptor.check(raw)
        from lamina.documents import blobs

        document = parse(raw, descriptor.media_type, str(descriptor.digest))
        if isinstance(document, Manifest):
            # a registry's client may ask for a blob and not send it again: nothing has protected that yet
            self._protect(descriptor.digest, *(one.digest for one in blobs(document)))
            if not all(map(self.blobs.has, document.layers)):
                self._protect_tars(document)
            lacking = self.lacking(document)
            if lacking is not None:
                raise BlobNotFound(
                    f"manifest {descriptor.digest} needs blob {lacking.digest}, which is not in the store",
                    hint="blobs are written before the manifest",
                )
        else:
            self._protect(descriptor.digest)
        if not self.blobs.has(descriptor):
            self.blobs.write(descriptor, raw)
            point("manifest.written")

    def _protect_tars(self, manifest: Manifest) -> None:
        """A layer whose blob is elsewhere lives on its tar."""
        from lamina.spec.image_config import ImageConfig

        if not manifest.is_image or manifest.config.size > MAX_DOCUMENT:
            return
        with suppress(NotFound, InvalidContent):
            self._protect(*ImageConfig.parse(self.blobs.read(manifest.config)).diff_ids)

    def same_image(self, manifest: Manifest, name: str) -> Descriptor | None:
        """What ``docker save`` wrote of an image that is here is that image, and not a second one."""
        from lamina.documents import Known, blobs, listed, look, walk

        self._protect(manifest.config.digest)
        if not self.blobs.has(manifest.config):
            return None
        reference = str(Reference.parse(name).with_default_tag()) if name else ""
        entries = sorted(self.refs.names(), key=lambda entry: entry[0] != reference)  # what has the name, first
        for known, top in entries:
            for found in walk(lambda one: look(self.blobs.read, one), [top], into=listed, deepest=None):
                if not isinstance(found, Known) or not isinstance(found.document, Manifest):
                    continue
                document = found.document
                if document.config.digest != manifest.config.digest or not document.is_image:
                    continue
                self._protect(top.digest, found.descriptor.digest, *(one.digest for one in blobs(document)))
                self._protect_tars(document)
                if len(document.layers) == len(manifest.layers) and self.lacking(document) is None:
                    return top if known == reference else found.descriptor
        return None

    def lacking(self, manifest: Manifest) -> Descriptor | None:
        """The first thing that the manifest names and that is neither here nor known to be elsewhere."""
        from lamina.documents import blobs  # who only looks has no need of it

        elsewhere: Mapping[Digest, str] | None = None
        for needed in blobs(manifest):
            if self.blobs.has(needed) or is_foreign(needed.media_type):
                continue
            elsewhere = self.layers.origins() if elsewhere is None else elsewhere
            if needed.digest not in elsewhere or needed is manifest.config:
                return needed
        return None

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """``name`` in any form that docker takes. Raises UsageError, BlobNotFound (no such document here)."""
        reference = Reference.parse(name).with_default_tag() if name else None
        if reference is not None and reference.digest not in (None, descriptor.digest):
            raise Conflict(f"{reference} can't name {descriptor.digest}", hint="leave the digest out of the target")
        # looked at under the lock: another process may have removed the image since it was found
        self.refs.set(str(reference or ""), descriptor, lambda known: self._fetched(descriptor, known))

    def _fetched(self, top: Descriptor, known: frozenset[str]) -> str:
        """The children of an index that are here with all that they need, at any depth, and those here that are
        ``known`` to have been so. An image may bring in a child of its own index as a layer: that one was not
        fetched. Raises BlobNotFound where the document itself is not here, InvalidContent where it is damaged."""
        from lamina.documents import Absent, Known, listed, look, walk

        found = list(walk(lambda one: look(self.blobs.read, one), [top], into=listed, deepest=None))
        if isinstance(found[0], Absent):
            raise BlobNotFound(f"{top.digest} is not in the store", hint="write it before you name it")
        if not isinstance(found[0], Known):
            raise found[0].error

        def is_whole(document: Manifest | Index) -> bool:
            return not isinstance(document, Manifest) or self.lacking(document) is None

        here = [(str(one.descriptor.digest), one.document) for one in found[1:] if isinstance(one, Known)]
        return ",".join(digest for digest, document in here if digest in known or is_whole(document))

    def protect_only(self, digests: Iterable[Digest]) -> None:
        """Let the session's root list only these: what else it listed has a name by now, or is given up. Where that
        can't be written (a full disk), the root lists more than it need."""
        with self._listing, suppress(OSError):
            if self._session is not None:
                self._session = self.roots.renew(self._session, self._purpose, list(digests))

    def _protect(self, *digests: Digest) -> None:
        with self._listing:
            if self._session is None:
                raise RuntimeError("the store is written to inside `with store.session(...)`")
            with reported(self.paths.roots):
                self.roots.extend(self._session, list(digests))
