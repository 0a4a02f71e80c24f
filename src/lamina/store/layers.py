"""Layers of the store: the derived tar, index and checkpoints of each diff_id. Missing ones are made again from the
blob; the index also from the tar, if only that is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from lamina.errors import InvalidContent, StoreDamaged, SystemFailure, UsageError
from lamina.host.files import (
    CHUNK,
    FileRange,
    failure,
    make_directory,
    names_of_directories,
    remove,
    replace_file,
    reported,
)
from lamina.host.lock import locked
from lamina.light import TYPE_CHECKING
from lamina.settings import KEEP
from lamina.source.presence import HERE, Presence, elsewhere
from lamina.source.verify import damage_reported, is_plain, prove_diff_id, verified
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.store.blobs import Blobs
from lamina.store.fault import pieces, point
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.layer.checkpoints.seekable import SeekableTar
    from lamina.layer.file_digests import LayerDigests
    from lamina.layer.index import LayerIndex
    from lamina.source.protocols import Stream


def blob_stays(form: Descriptor, diff_id: Digest) -> bool:
    """Whether the blob must be kept: it is the tar itself, or registries may not have it (a foreign layer)."""
    return is_plain(form, diff_id) or mediatype.is_foreign(form.media_type)


def _has_digest(path: str, digest: Digest) -> bool:
    """Whether the file has these bytes; False if it can't be read. Raises FileNotFoundError."""
    from lamina.store.derived import hash_of

    try:
        return hash_of(path, digest.algorithm) == digest.encoded
    except SystemFailure:
        return False


def _load(path: str) -> LayerIndex:
    from lamina.layer.index import LayerIndex

    return LayerIndex.load(path)


IndexSource = Callable[[Descriptor, Digest], "bytes | None"]
"""Returns the index of a layer whose bytes are elsewhere, in the format of an index file; None if it has none. It
can't be compared with the layer, so it is only as trustworthy as its source."""


class StoredLayer:
    """The ``LayerHandle`` of the store."""

    def __init__(self, layers: Layers, descriptor: Descriptor, diff_id: Digest) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self._layers = layers
        self._index: LayerIndex | None = None
        self._seekable: SeekableTar | None = None

    def presence(self) -> Presence:
        return self._layers.presence(self.descriptor, self.diff_id)

    def index(self) -> LayerIndex:
        if self._index is None:
            self._index = self._layers.index(self.descriptor, self.diff_id)
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        """Bytes of the uncompressed tar: from its file or, if only the blob is kept, through the blob."""
        layers = self._layers
        if layers.has_tar(self.diff_id) or not layers.is_without_tar(self.descriptor, self.diff_id):
            return layers.open_tar(self.descriptor, self.diff_id, start, end)
        if self._seekable is None:
            self._seekable = layers.seekable_tar(self.descriptor, self.diff_id)
        try:
            return self._seekable.open(start, end)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            self._seekable = layers.seekable_tar(self.descriptor, self.diff_id, anew=True)
        with reported(layers.path(self.diff_id)):
            return self._seekable.open(start, end)

    def digests(self) -> LayerDigests:
        """The content digests of the regular files; made on first use. Raises what ``index`` raises."""
        return self._layers.digests(lambda: self.descriptor, self.diff_id, self.index())

    def kept_digests(self) -> LayerDigests | None:
        """Like ``digests``, but only if they were made before. Raises what ``index`` raises."""
        return self._layers.kept_digests(self.diff_id, self.index())


class Layers:
    def __init__(self, paths: Paths, max_layer: int, keep: str = KEEP, view: str = "") -> None:
        self._paths = paths
        self._max_layer = max_layer
        self._keep = keep
        self._view = view
        self._verified: set[Digest] = set()
        self.index_source: IndexSource = lambda descriptor, diff_id: None
        """Called for the index of a layer whose bytes are elsewhere."""

    def path(self, diff_id: Digest) -> str:
        """The directory of a layer's derived data."""
        return self._paths.layer(diff_id)

    def tar_path(self, diff_id: Digest) -> str:
        """The path of a layer's tar, whether it exists or not."""
        return self._paths.tar(diff_id)

    def get(self, descriptor: Descriptor, diff_id: Digest) -> StoredLayer:
        return StoredLayer(self, descriptor, diff_id)

    def unpacked(self, descriptor: Descriptor, diff_id: Digest) -> StoredLayer | None:
        """The layer, if its index and its tar are here; nothing is made."""
        if not self.has_tar(diff_id) or self.kept_index(diff_id) is None:
            return None
        return self.get(descriptor, diff_id)

    def index(self, descriptor: Descriptor, diff_id: Digest) -> LayerIndex:
        """The index of a layer; made if it is missing. Raises BlobNotFound, InvalidContent (the blob is damaged),
        SystemFailure."""
        path = self._paths.layer_index(diff_id)
        try:
            return _load(path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            if not self._index_from_elsewhere(descriptor, diff_id):
                self.make_derived_again(descriptor, diff_id)
        with reported(path):
            return _load(path)

    def _index_from_elsewhere(self, descriptor: Descriptor, diff_id: Digest) -> bool:
        """Keep the index that ``index_source`` returns for a layer whose bytes are elsewhere; returns whether it
        returned one. Raises StoreDamaged if it is not an index."""
        presence = self.presence(descriptor, diff_id)
        data = self.index_source(descriptor, diff_id) if presence.origin else None
        if data is None:
            return False
        from lamina.layer.index import LayerIndex

        LayerIndex(data, f"the index of layer {descriptor.digest}, which does not come from the layer itself")
        path = self._paths.layer_index(diff_id)
        with reported(path):
            make_directory(self._paths.layer(diff_id))
            replace_file(path, [data], mode=0o444, within=self._paths.ingest, lasting=False)
        return True

    def presence(self, descriptor: Descriptor, diff_id: Digest) -> Presence:
        """Whether the bytes of a layer are here, in its blob or its tar. Does not check that they are correct."""
        if self.has_tar(diff_id) or Blobs(self._paths).has(descriptor):
            return HERE
        return elsewhere(self.origin(descriptor, diff_id))

    def kept_index(self, diff_id: Digest) -> LayerIndex | None:
        """The index, if it exists and is complete; it is not made. Raises SystemFailure."""
        path = self._paths.layer_index(diff_id)
        try:
            return _load(path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            return None
        except OSError as error:
            raise failure(error, path) from error

    def has_tar(self, diff_id: Digest) -> bool:
        return os.path.exists(self._paths.tar(diff_id))

    def has_sound_tar(self, diff_id: Digest) -> bool:
        """Whether the tar exists and can be trusted: it was written in this boot, or is known to be on the disk, or
        its digest, computed now, is correct. Raises SystemFailure if the disk failed to store it."""
        from lamina.store.derived import DOUBTFUL, is_written_back, sync_and_note, trust_level

        path = self._paths.tar(diff_id)
        if diff_id in self._verified:
            return os.path.exists(path)

        try:
            level = trust_level(path)
            if level == DOUBTFUL:
                if not _has_digest(path, diff_id):
                    return False
                with suppress(OSError):
                    sync_and_note(path, within=self._paths.ingest)
            elif is_written_back(path):
                self.sync_tar(diff_id)
        except (FileNotFoundError, NotADirectoryError):
            return False
        self._verified.add(diff_id)
        return True

    def sync_tar(self, diff_id: Digest) -> None:
        """Wait until the tar is on the disk; return at once if that is known. Raises SystemFailure if the disk failed
        to store it, and removes it then; FileNotFoundError."""
        from lamina.store.derived import ON_DISK, sync_and_note, trust_level

        path = self._paths.tar(diff_id)
        if trust_level(path) == ON_DISK:
            return
        try:
            sync_and_note(path, within=self._paths.ingest)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._verified.discard(diff_id)
            remove(path)
            raise SystemFailure(
                f"{path}: the disk failed to store the tar of layer {diff_id}: {error.strerror}; it was removed",
                hint="check the system log, then try again: the tar is made again from the blob",
            ) from error

    def tar_is_on_disk(self, diff_id: Digest) -> bool:
        """Whether the tar exists and is known to survive a crash."""
        from lamina.store.derived import ON_DISK, trust_level

        try:
            return trust_level(self._paths.tar(diff_id)) == ON_DISK
        except (FileNotFoundError, NotADirectoryError):
            return False

    def ensure_tar(self, descriptor: Descriptor, diff_id: Digest) -> None:
        """Make the tar if it is missing or damaged: mounts point into it. Raises what ``index`` raises."""
        if not self.has_sound_tar(diff_id):
            self.make_derived(descriptor, diff_id)

    def is_without_tar(self, descriptor: Descriptor, diff_id: Digest) -> bool:
        """Whether a layer is meant to have no tar: it came in as a blob only, or the setting says so."""
        if is_plain(descriptor, diff_id):
            return False
        return self._keep == "blob" or os.path.exists(self._paths.seek(diff_id))

    def seekable_tar(self, descriptor: Descriptor, diff_id: Digest, *, anew: bool = False) -> SeekableTar:
        """The tar, read through a blob that is here. Makes the checkpoints if they are missing or (``anew``) were
        found to be wrong. Raises what ``index`` raises."""
        from lamina.layer.checkpoints.file import SeekIndex
        from lamina.layer.checkpoints.seekable import SeekableTar

        path = self._paths.seek(diff_id)
        if not anew:
            try:
                index = SeekIndex.load(path)
                if os.path.exists(self._paths.blob(index.blob)):
                    return SeekableTar(index, self._paths.blob(index.blob))
            except (FileNotFoundError, NotADirectoryError, StoreDamaged):
                pass  # make them again, like any derived data
        self.make_derived(descriptor, diff_id, tar=False)
        with reported(path):
            return SeekableTar(SeekIndex.load(path), self._paths.blob(descriptor.digest))

    def open_tar(self, descriptor: Descriptor, diff_id: Digest, start: int = 0, end: int | None = None) -> FileRange:
        path = self._paths.tar(diff_id)
        self.ensure_tar(descriptor, diff_id)
        try:
            return FileRange(path, start, end)
        except (FileNotFoundError, NotADirectoryError):
            self.make_derived(descriptor, diff_id)
        with reported(path):
            return FileRange(path, start, end)

    def digests(self, descriptor: Callable[[], Descriptor], diff_id: Digest, index: LayerIndex) -> LayerDigests:
        """The content digests of the layer's regular files: read from their file, or computed in one pass over the
        tar and kept. ``descriptor`` is called only to compute them. Raises what ``index`` raises."""
        from lamina.layer.file_digests import LayerDigests

        kept = self.kept_digests(diff_id, index)
        if kept is not None:
            return kept
        path = self._paths.digests(diff_id)
        made = LayerDigests.make(index, self.get(descriptor(), diff_id).open)
        try:
            with reported(path):
                data = pieces([made.buffer], "digests.written")
                replace_file(path, data, within=self._paths.ingest, lasting=False)
            point("digests.renamed")
        except SystemFailure as error:  # the store may be read-only: the digests are then not kept
            import logging

            logging.getLogger("lamina.store").debug("%s", error)
        return made

    def kept_digests(self, diff_id: Digest, index: LayerIndex) -> LayerDigests | None:
        """The content digests, if their file exists and is complete; they are not computed. Raises SystemFailure."""
        path = self._paths.digests(diff_id)
        try:
            with open(path, "rb") as file:
                from lamina.layer.file_digests import LayerDigests

                return LayerDigests(index, file.read(), path)
        except (FileNotFoundError, NotADirectoryError, StoreDamaged):
            return None
        except OSError as error:
            raise failure(error, path) from error

    def make_derived_again(self, descriptor: Descriptor, diff_id: Digest) -> None:
        """Make the derived files of the layer that are to be kept, verified. Raises what ``index`` raises."""
        if self.has_tar(diff_id):
            try:
                self._index_of_tar(descriptor, diff_id)
                return
            except (InvalidContent, SystemFailure):
                if not Blobs(self._paths).has(descriptor):
                    raise
        self.make_derived(
            descriptor, diff_id, tar=self.has_tar(diff_id) or not self.is_without_tar(descriptor, diff_id)
        )

    def _index_of_tar(self, descriptor: Descriptor, diff_id: Digest) -> None:
        from lamina.layer.decode import LayerReader

        path = self._paths.tar(diff_id)
        with reported(path), FileRange(path) as tar:
            reader = LayerReader(
                "none", max_layer=self._max_layer, what=f"layer {diff_id}", algorithm=diff_id.algorithm
            )
            while data := tar.read(CHUNK):
                for _ in reader.feed(data):
                    pass
            summary = reader.finish()
            prove_diff_id(descriptor.digest, diff_id, summary.diff_id)
            index = self._paths.layer_index(diff_id)
            replace_file(index, summary.chunks(), mode=0o444, within=self._paths.ingest, lasting=False)

    def make_derived(self, descriptor: Descriptor, diff_id: Digest, *, tar: bool = True) -> None:
        """Make the index, and the tar or (if ``tar`` is False) checkpoints, from the blob, verified. Raises what
        ``index`` raises."""
        from lamina.host.spool import check_free_space
        from lamina.store.ingest import LayerFiles, tars_are_mounted

        blob = self._paths.blob(descriptor.digest)
        with reported(self._paths.root):
            check_free_space(self._paths.root, descriptor.size)
            files = LayerFiles(
                self._paths, descriptor, diff_id, self._max_layer, tar=tar, cached=not tars_are_mounted(self._view)
            )
            stored = Blobs(self._paths).get(descriptor)
            try:
                with damage_reported(stored):
                    files.start()
                    for data in verified(stored):
                        files.feed(data)
                    files.finish()
            except BaseException:
                files.discard()
                raise
            files.move_into_place(blob=blob)
            self._verified.add(diff_id)

    def has_derived_files(self, diff_id: Digest) -> bool:
        """Whether both derived files exist. Does not check that they are correct: fsck does."""
        return os.path.exists(self._paths.layer_index(diff_id)) and os.path.exists(self._paths.tar(diff_id))

    def note_origin(self, descriptor: Descriptor, diff_id: Digest, origin: str, *, kept: bool = False) -> None:
        """Note the repository that has this blob of the layer, because only its tar is here; or (``kept``) the blob
        is here too, and may be removed later. Raises SystemFailure."""
        with reported(self._paths.origins(diff_id)), locked(self._paths.lock):
            self.note_origin_locked(descriptor, diff_id, origin, kept=kept)

    def note_origin_locked(self, descriptor: Descriptor, diff_id: Digest, origin: str, *, kept: bool) -> None:
        """Like ``note_origin``; the caller holds the store's lock."""
        path = self._paths.origins(diff_id)
        known = _read_origins(path)
        if known.get(descriptor.digest) == (origin, kept):
            return
        known[descriptor.digest] = (origin, kept)
        text = "".join(f"{digest} {place}{_KEPT * here}\n" for digest, (place, here) in known.items()).encode()
        # While the blob is here, this is only a hint, and a power cut may lose it.
        lasting = not all(here for _, here in known.values())
        replace_file(path, [text], within=self._paths.ingest, lasting=lasting)

    def origin(self, descriptor: Descriptor, diff_id: Digest) -> str:
        """The repository that is known to have this blob, whether it is kept here or not; "" if none is known."""
        return _read_origins(self._paths.origins(diff_id)).get(descriptor.digest, ("", False))[0]

    def origins(self, *, kept: bool = False) -> dict[Digest, str]:
        """The repository of every layer blob that is not kept here but whose layer has its tar here. ``kept``: of all
        blobs whose repository was noted, whether they are here or lost."""
        found: dict[Digest, str] = {}
        for diff_id in self.diff_ids():
            if kept or self.has_tar(diff_id):
                known = _read_origins(self._paths.origins(diff_id))
                found.update({digest: place for digest, (place, here) in known.items() if kept or not here})
        return found

    def diff_ids(self) -> list[Digest]:
        """The diff_ids of all layers that have derived data."""
        found = []
        for algorithm in names_of_directories(self._paths.layers):
            for encoded in names_of_directories(os.path.join(self._paths.layers, algorithm)):
                with suppress(UsageError):
                    found.append(Digest.parse(f"{algorithm}:{encoded}"))
        return found


_KEPT = " kept"


def _read_origins(path: str) -> dict[Digest, tuple[str, bool]]:
    """For each blob its repository, and whether the blob was here too when that was noted."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(1 << 20).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    for line in lines:
        digest, _, place = line.partition(" ")
        try:
            found[Digest.parse(digest)] = (place.removesuffix(_KEPT), place.endswith(_KEPT))
        except UsageError:
            continue
    return found
