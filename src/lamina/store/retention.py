"""Retention: apply the setting ``keep`` to the layers in the store (docs/decisions, "keep").

First make and verify the files that are to stay. Then take the lock, read names and roots again, and unlink files: a
tar only if the store has every blob of that layer that an image names; a blob only if the tar was verified and a
registry that has the blob is noted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from lamina.errors import BlobNotFound, LaminaError, StoreDamaged
from lamina.host.files import reported
from lamina.host.lock import locked
from lamina.layer.checkpoints.file import SeekIndex
from lamina.light import TYPE_CHECKING, replace
from lamina.source.select import read_config
from lamina.source.verify import is_plain
from lamina.source.walk import Classified, Known, classify, listed_documents, walk
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest
from lamina.store.derived import hash_of
from lamina.store.fault import point
from lamina.store.foreign_trees import disk_bytes
from lamina.store.layers import blob_stays
from lamina.store.mark import ANY_TYPE, container_holders, image_holders, mark, retry_if_names_change
from lamina.store.roots import GRACE
from lamina.text import counted

if TYPE_CHECKING:
    from lamina.store.refs import Entries
    from lamina.store.store import Store


@dataclass(frozen=True, slots=True)
class Kept:
    """``freed``: bytes of disk. ``removed``: blobs, and diff_ids of the layers whose tar was removed. ``notes``: what
    could not be done, one line each."""

    removed: tuple[Digest, ...] = ()
    freed: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class _Needed:
    """The compressed forms of each layer that images name, and the blobs that anything else names."""

    layers: dict[Digest, dict[Digest, Descriptor]] = field(default_factory=dict)
    others: set[Digest] = field(default_factory=set)


def apply_keep(
    store: Store, keep: str, *, remade_only: bool = False, dry_run: bool = False, grace: float = GRACE
) -> Kept:
    """Change every layer to what ``keep`` says, as far as possible. ``remade_only``: only remove tars that a mount
    has made for layers without one. With ``dry_run`` nothing changes. Raises StoreDamaged, InvalidContent (a blob is
    damaged), SystemFailure."""
    work = _Retention(store, grace)
    with reported(store.paths.root):
        if keep == "blob":
            return work.remove_tars(remade_only, dry_run)
        if keep == "tar":
            return work.remove_blobs(dry_run)
        return work.make_missing_tars(dry_run)


class _Retention:
    def __init__(self, store: Store, grace: float) -> None:
        self.store = store
        self.grace = grace
        self.removed: list[Digest] = []
        self.freed = 0

    def remove_tars(self, remade_only: bool, dry_run: bool) -> Kept:
        store = self.store

        def has_checkpoints(diff_id: Digest) -> bool:
            return _has_checkpoints(store, diff_id)

        wanted = [
            (diff_id, forms)
            for diff_id, forms in self._removable_tars()
            if has_checkpoints(diff_id) or not remade_only
        ]
        if not dry_run:
            for diff_id, forms in wanted:
                if not has_checkpoints(diff_id):
                    with _missing_ignored():
                        store.layers.make_derived(next(iter(forms.values())), diff_id, tar=False)
        ours = {diff_id for diff_id, _ in wanted}
        with locked(store.paths.lock):
            for diff_id, _ in self._removable_tars():
                if diff_id in ours and (dry_run or has_checkpoints(diff_id)):
                    self._remove(diff_id, store.paths.tar(diff_id), dry_run)
                    point("keep.tar-removed")
        return self._result(self._notes_about_kept_tars())

    def _notes_about_kept_tars(self) -> list[str]:
        store = self.store
        count = 0
        for diff_id, forms in needed_layers(store).layers.items():
            whole = all(store.blobs.has(form) for form in forms.values())
            count += not whole and store.layers.has_tar(diff_id)
        return [f"kept: {counted(count, 'tar')} with a blob that is in a registry only"] if count else []

    def _removable_tars(self) -> Iterator[tuple[Digest, dict[Digest, Descriptor]]]:
        """The layers whose tar can be removed now: all their blobs are here, and no process uses them."""
        store, protected = self.store, self._protected()
        for diff_id, forms in needed_layers(store).layers.items():
            plain = any(is_plain(form, diff_id) for form in forms.values())
            if plain or diff_id in protected or not store.layers.has_tar(diff_id):
                continue
            if all(store.blobs.has(form) for form in forms.values()):
                yield diff_id, forms

    def remove_blobs(self, dry_run: bool) -> Kept:
        store = self.store
        checked = []
        for diff_id, form, _ in self._removable_blobs():
            if not dry_run and diff_id not in checked:
                with _missing_ignored():
                    self._ensure_tar(diff_id, form)
            checked.append(diff_id)
        with locked(store.paths.lock):
            for diff_id, form, origin in list(self._removable_blobs()):
                if diff_id not in checked or not (dry_run or store.layers.tar_is_on_disk(diff_id)):
                    continue
                if not dry_run:
                    store.layers.note_origin_locked(form, diff_id, origin, kept=False)
                self._remove(form.digest, store.blobs.path(form.digest), dry_run)
                point("keep.blob-removed")
                if not dry_run:
                    self._remove_checkpoints(diff_id)
        return self._result(self._notes_about_kept_blobs())

    def _removable_blobs(self) -> Iterator[tuple[Digest, Descriptor, str]]:
        """The blobs of layers that can be removed now because a registry has them, with its repository."""
        store, protected, needed = self.store, self._protected(), needed_layers(self.store)
        for diff_id, forms in needed.layers.items():
            for digest, form in forms.items():
                if digest in protected or digest in needed.others or not store.blobs.has(form):
                    continue
                if blob_stays(form, diff_id):
                    continue
                origin = store.layers.origin(form, diff_id)
                if origin:
                    yield diff_id, form, origin

    def _notes_about_kept_blobs(self) -> list[str]:
        store = self.store
        count = size = 0
        for diff_id, forms in needed_layers(store).layers.items():
            for form in forms.values():
                if store.blobs.has(form) and not blob_stays(form, diff_id) and not store.layers.origin(form, diff_id):
                    count, size = count + 1, size + form.size
        return [f"{count} blobs ({size} bytes) stay: no registry is known to have them"] if count else []

    def _ensure_tar(self, diff_id: Digest, form: Descriptor) -> None:
        """Before the blob is removed: make sure that the tar exists, is correct, and is on the disk."""
        store = self.store
        path = store.paths.tar(diff_id)
        if not store.layers.has_tar(diff_id) or hash_of(path, diff_id.algorithm) != diff_id.encoded:
            store.layers.make_derived(form, diff_id)
        store.layers.sync_tar(diff_id)

    def make_missing_tars(self, dry_run: bool) -> Kept:
        """Make the missing tars. Missing blobs are not fetched: `rmi` and then `pull` does that."""
        store = self.store
        missing = 0
        for diff_id, forms in needed_layers(store).layers.items():
            here = [form for form in forms.values() if store.blobs.has(form)]
            missing += len(forms) - len(here)
            if here and not dry_run:
                with _missing_ignored():
                    store.layers.ensure_tar(here[0], diff_id)
                    self._remove_checkpoints(diff_id)
        gone = f"in registries only: {counted(missing, 'blob')}; `lamina push` and `save` get them from there"

        return self._result([gone] if missing else [])

    def _remove_checkpoints(self, diff_id: Digest) -> None:
        path = self.store.paths.seek(diff_id)
        if os.path.exists(path) and self.store.layers.has_tar(diff_id):
            self.freed += _unlink(path)

    def _protected(self) -> frozenset[Digest]:
        return self.store.roots.protected(grace=self.grace) | self.store.containers.digests()

    def _remove(self, digest: Digest, path: str, dry_run: bool) -> None:
        self.freed += disk_bytes(os.lstat(path)) if dry_run else _unlink(path)
        self.removed.append(digest)

    def _result(self, notes: list[str] | None = None) -> Kept:
        return Kept(tuple(self.removed), self.freed, tuple(notes or ()))


@contextmanager
def _missing_ignored() -> Iterator[None]:
    """Ignore missing files. A layer is prepared without the lock, so an `rmi` or another `prune` may remove its blob
    or its tar. The decision what to remove is made under the lock, where everything is checked again."""
    with suppress(BlobNotFound, FileNotFoundError):
        yield


def needed_layers(store: Store) -> _Needed:
    """The layers of all named and untagged images, and of containers. Raises StoreDamaged (what an image needs can't
    be read), SystemFailure."""
    return retry_if_names_change(store, lambda entries: _needed_layers(store, entries))


def _needed_layers(store: Store, entries: Entries) -> _Needed:
    found = _Needed()
    holders = [*image_holders(entries), *container_holders(store)]
    mark(store, holders)  # proves that all documents can be read
    tops = {
        digest: Descriptor(ANY_TYPE, digest, store.blobs.size(digest) or 0)
        for one in holders
        for digest in one.documents
    }

    def read(descriptor: Descriptor) -> Classified:
        size = store.blobs.size(descriptor.digest)
        return classify(store.blobs.read, replace(descriptor, size=size or 0), check_media_type=False)

    for one in walk(read, tops.values(), children=listed_documents, max_depth=None):
        if isinstance(one, Known) and isinstance(one.document, Manifest):
            _add(store, one.document, found)
    return found


def _add(store: Store, manifest: Manifest, found: _Needed) -> None:
    found.others.add(manifest.config.digest)
    try:
        diff_ids = read_config(store, manifest, str(manifest.descriptor.digest)).diff_ids
    except LaminaError:
        found.others.update(layer.digest for layer in manifest.layers)  # an artifact, or not usable as an image
        return
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        found.layers.setdefault(diff_id, {})[layer.digest] = layer


def _has_checkpoints(store: Store, diff_id: Digest) -> bool:
    try:
        return store.blobs.size(SeekIndex.load(store.paths.seek(diff_id)).blob) is not None
    except (FileNotFoundError, NotADirectoryError, StoreDamaged):
        return False


def _unlink(path: str) -> int:
    """Unlink a file; returns the bytes of disk that become free (0 while the file has another name)."""
    state = os.lstat(path)
    os.unlink(path)
    return disk_bytes(state) if state.st_nlink == 1 else 0
