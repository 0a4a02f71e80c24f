"""Writing to the store. Everything runs in a session, whose root keeps gc away from what is not named yet."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from lamina.errors import BlobNotFound, Conflict, DiskFull, InvalidContent, LaminaError, NotFound
from lamina.events import Cancel, OnEvent, Warned, ignore
from lamina.host.files import remove, reported
from lamina.light import TYPE_CHECKING
from lamina.source.verify import is_plain
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

    from lamina.source.protocols import Blob
    from lamina.store.blobs import Blobs
    from lamina.store.gather import Gathering
    from lamina.store.layers import Layers
    from lamina.store.paths import Paths
    from lamina.store.refs import Refs
    from lamina.store.roots import Roots
    from lamina.store.unfinished import Unfinished

Images = dict[Digest, list[tuple[str, Descriptor, Descriptor]]]
"""By the digest of a config: the name, what it points to, and in that the manifest with this config."""


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
    _gathering: Gathering | None = None
    _joined: int | None = None
    _listed: set[Digest]
    _images: Images | None = None
    _purpose: str = ""
    _guard: threading.Lock
    _listing: threading.Lock

    @contextmanager
    def session(self, purpose: str) -> Iterator[None]:
        """One at a time in a Store object; others wait. In ``together``: that one."""
        if self._joined == get_ident():
            yield
            return
        with self._guard:
            with reported(self.paths.ingest):
                from lamina.store.leftovers import sweep_temporaries

                sweep_temporaries(self.paths)
            with reported(self.paths.roots):
                self._session, self._purpose = self.roots.create(purpose), purpose
            self._listed, self._images = set(), None
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

    @contextmanager
    def together(self, purpose: str) -> Iterator[None]:
        """One session in which everything is ``gathering``; what this thread does in the block joins it."""
        with self.session(purpose), self.gathering():
            self._joined = get_ident()
            try:
                yield
            finally:
                self._joined = None

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Inside a session: small blobs, documents and names that come in the block are brought to the disk many at
        a time; at the latest at its end, also with an exception. Until then only this session sees them."""
        if self._gathering is not None:
            yield
            return
        from lamina.store.gather import Gathering

        def give(names: list[tuple[str, Descriptor]]) -> None:
            self.refs.set_all(names, self._fetched)

        gathering = self._gathering = self.blobs.waiting = Gathering(self.paths, give)
        try:
            try:
                yield
            except BaseException:
                with suppress(LaminaError, OSError):
                    gathering.flush()  # what is complete has its name, as without this: but for what the disk lost
                raise
            with reported(self.paths.ingest):
                gathering.flush()
        finally:
            self._gathering = self.blobs.waiting = None
            with reported(self.paths.ingest):
                gathering.close()

    def give_names(self) -> None:
        """Give the names that wait: what comes next may take long."""
        if self._gathering is not None:
            with reported(self.paths.ingest):
                self._gathering.flush()

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
                self._settle()  # they are made of the blob in its place
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
        new = self._taken(descriptor, blob, diff_id, known, unkept, on_event, cancel)
        if diff_id is not None and blob.origin and unkept is None:
            self.layers.note_origin(descriptor, diff_id, blob.origin, kept=True)
        return new

    def _taken(
        self,
        descriptor: Descriptor,
        blob: Blob,
        diff_id: Digest | None,
        known: bool,
        unkept: Callable[[], None] | None,
        on_event: OnEvent,
        cancel: Cancel | None,
    ) -> bool:
        """Bring the blob in: alone, or together with others; whether no other process did."""
        from lamina.store.ingest import Ingest, gather

        if self._gathering is not None and unkept is None:
            from lamina.store.gather import SMALL
            from lamina.store.unfinished import Unfinished

            if descriptor.size <= SMALL:
                with reported(self.paths.ingest):
                    gather(
                        self._gathering,
                        self.paths,
                        blob,
                        None if known else diff_id,
                        max_layer=self.max_layer,
                        on_event=on_event,
                        cancel=cancel,
                        tar=self.keep != "blob",
                        unfinished=self._unfinished or Unfinished(),
                    )
                return True
        return Ingest(
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

    def _settle(self) -> None:
        if self._gathering is not None:
            with reported(self.paths.ingest):
                self._gathering.settle()

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
        from lamina.source.walk import blobs

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
        from lamina.source.walk import Known, blobs, look

        self._protect(manifest.config.digest)
        if not self.blobs.has(manifest.config):
            return None
        if self._images is None:
            self._images = {}
            for known, top in self.refs.names():
                self._note_images(self._images, known, top)
        reference = str(Reference.parse(name).with_default_tag()) if name else ""
        images = sorted(self._images.get(manifest.config.digest, ()), key=lambda image: image[0] != reference)
        for known, top, descriptor in images:  # what has the name, first
            self._protect(top.digest, descriptor.digest)
            found = look(self.blobs.read, descriptor)  # it may have gone meanwhile
            if not isinstance(found, Known) or not isinstance(found.document, Manifest) or not self.blobs.has(top):
                continue
            document = found.document
            self._protect(*(one.digest for one in blobs(document)))
            self._protect_tars(document)
            if len(document.layers) == len(manifest.layers) and self.lacking(document) is None:
                return top if known == reference else descriptor
        return None

    def _note_images(self, images: Images, name: str, top: Descriptor) -> None:
        from lamina.source.walk import Known, listed, look, walk

        for found in walk(lambda one: look(self.blobs.read, one), [top], into=listed, deepest=None):
            if isinstance(found, Known) and isinstance(found.document, Manifest) and found.document.is_image:
                images.setdefault(found.document.config.digest, []).append((name, top, found.descriptor))

    def lacking(self, manifest: Manifest) -> Descriptor | None:
        """The first thing that the manifest names and that is neither here nor known to be elsewhere."""
        from lamina.source.walk import blobs  # who only looks has no need of it

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
        if self._images is not None:
            self._note_images(self._images, str(reference or ""), descriptor)
        if self._gathering is not None:
            with reported(self.paths.ingest):
                self._gathering.name(str(reference or ""), descriptor)
            return
        # looked at under the lock: another process may have removed the image since it was found
        self.refs.set(str(reference or ""), descriptor, self._fetched)

    def _fetched(self, top: Descriptor, known: frozenset[str]) -> str:
        """The children of an index that are here with all that they need, at any depth, and those here that are
        ``known`` to have been so. An image may bring in a child of its own index as a layer: that one was not
        fetched. Raises BlobNotFound where the document itself is not here, InvalidContent where it is damaged."""
        from lamina.source.walk import Absent, Known, listed, look, walk

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
                self._listed = set()
                self._session = self.roots.renew(self._session, self._purpose, list(digests))

    def _protect(self, *digests: Digest) -> None:
        with self._listing:
            if self._session is None:
                raise RuntimeError("the store is written to inside `with store.session(...)`")
            new = [digest for digest in digests if digest not in self._listed]
            if new:
                with reported(self.paths.roots):
                    self.roots.extend(self._session, new)
                self._listed.update(new)
