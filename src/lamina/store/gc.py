"""What is needed and what is not: marking, deleting images, pruning.

Nothing is deleted that a name, an untagged entry, or the root of a working process needs. Mark first, then again
under the lock with fresh names and roots, and only then unlink.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.errors import Conflict, InvalidContent, StoreDamaged, UsageError
from lamina.files import remove, reported
from lamina.lock import locked, unheld
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import Index, parse
from lamina.spec.reference import canonical
from lamina.store.fault import point
from lamina.store.refs import Entries, name_of, unnamed
from lamina.store.roots import GRACE
from lamina.store.trees import disk_bytes, freed_bytes, remove_tree
from lamina.temporary import is_temporary

if TYPE_CHECKING:
    from lamina.store.store import Store

_DERIVED = ("index", "tar")


@dataclass
class Marked:
    """What is needed: blobs, and the diff_ids of layers."""

    blobs: set[Digest] = field(default_factory=set)
    diff_ids: set[Digest] = field(default_factory=set)


@dataclass(frozen=True)
class Deleted:
    """``freed`` in bytes of disk; ``deleted`` blobs and layers' diff_ids."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[Digest, ...] = ()
    freed: int = 0


@dataclass(frozen=True, slots=True)
class _Needs:
    """What one document needs directly. It never changes: a digest's bytes don't."""

    documents: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    diff_ids: tuple[Digest, ...] = ()


_NOTHING = _Needs()
Known = dict[Digest, _Needs]
"""Documents that were read already: the second look, under the lock, reads only what is new."""


def mark(
    store: Store,
    tops: Iterable[Digest],
    protected: Iterable[Digest] = (),
    *,
    known: Known | None = None,
    damaged_ok: bool = False,
) -> Marked:
    """Everything that these documents need, and these blobs with what they need. What is not there needs nothing.

    Raises StoreDamaged where a document of ``tops`` is there and can't be understood (what it needs must not be
    taken for garbage), unless ``damaged_ok``; SystemFailure.
    """
    marked, known = Marked(), {} if known is None else known
    wanted = list(tops)  # these are documents; a protected digest may be any blob
    pending = [*wanted, *protected]
    documents, seen = set(wanted), set()
    while pending:
        digest = pending.pop()
        if digest in seen:
            continue
        seen.add(digest)
        marked.blobs.add(digest)
        needs = known.get(digest)
        if needs is None:
            try:
                needs = _needs(store, digest)
            except InvalidContent as error:
                if digest in documents and not damaged_ok:
                    raise StoreDamaged(
                        f"nothing was deleted: {digest} of a named image is damaged: {error.message}",
                        hint="run `lamina fsck`, then remove that image or bring it in again",
                    ) from None
                needs = _NOTHING
            else:
                known[digest] = needs
        marked.blobs.update(needs.blobs)
        marked.diff_ids.update(needs.diff_ids)
        documents.update(needs.documents)
        pending += needs.documents
    return marked


def _needs(store: Store, digest: Digest) -> _Needs:
    """What a blob needs if it is a document, and nothing if it is something else or not there.
    Raises InvalidContent where it is small and no document, or not what its digest says; SystemFailure."""
    size = store.blobs.size(digest)
    if size is None or size > MAX_DOCUMENT:
        return _NOTHING
    document = parse(store.blobs.read(Descriptor("application/octet-stream", digest, size)), what=str(digest))
    if isinstance(document, Index):
        return _Needs(documents=tuple(child.digest for child in document.manifests))
    blobs = (document.config.digest, *(layer.digest for layer in document.layers))
    if not document.is_image or not store.blobs.has(document.config):
        return _Needs(blobs=blobs)
    return _Needs(blobs=blobs, diff_ids=ImageConfig.parse(store.blobs.read(document.config)).diff_ids)


def delete_images(
    store: Store, names: Sequence[str], *, dry_run: bool = False, force: bool = False, keep_untagged: bool = False
) -> Deleted:
    """Remove names; with its last name an image goes, and what only it had (unless ``keep_untagged``). A name
    given as ID or digest means the image: refused where several names have it, unless ``force``.

    Raises ReferenceNotFound, Conflict, UsageError (an empty name). With ``dry_run`` nothing changes, and the answer
    is the same.
    """
    entries = store.refs.entries()
    gone_names: list[str] = []
    gone: set[Digest] = set()
    for name in names:
        if not name:  # which elsewhere means the only image
            raise UsageError("an empty image name", hint="say which image is to go")
        descriptor = store.resolve(name)
        has = [name_of(entry) for entry in entries if entry.digest == descriptor.digest]
        full = canonical(name)
        if full and full in has:
            gone_names.append(full)
        elif len([n for n in has if n]) > 1 and not force:
            raise Conflict(
                f"{name} has several names: {', '.join(sorted(has))}", hint="remove them by name, or use --force"
            )
        else:
            gone_names += [n for n in has if n]
            gone.add(descriptor.digest)
    gone_names = list(dict.fromkeys(gone_names))

    def change(entries: Entries) -> Entries:
        left = [e for e in entries if name_of(e) not in gone_names and (name_of(e) or e.digest not in gone)]
        if keep_untagged:
            left += unnamed([e for e in entries if name_of(e) in gone_names and e.digest not in gone], left)
        return left

    if dry_run:
        deleted, freed = _collect(store, change(entries), dry_run=True, grace=GRACE)
        return Deleted(tuple(gone_names), deleted, freed)
    store.refs.update(change)
    point("prune.refs-removed")
    done = collect(store)
    return Deleted(tuple(gone_names), done.deleted, done.freed)


def prune(store: Store, *, all: bool = False, dry_run: bool = False, grace: float = GRACE) -> Deleted:
    """Delete untagged images (``all``: also every named one that no container uses: all of them, as there are no
    containers yet), blobs and derived data that nothing needs, leftovers of interrupted work older than ``grace``
    seconds."""
    entries = store.refs.entries()

    def change(entries: Entries) -> Entries:
        return [] if all else [entry for entry in entries if name_of(entry)]

    names = tuple(name_of(entry) for entry in entries if name_of(entry)) if all else ()
    if dry_run:
        deleted, freed = _collect(store, change(entries), dry_run=True, grace=grace)
        return Deleted(names, deleted, freed + _leftovers(store, grace, dry_run=True))
    store.roots.drop_dead(grace=grace)
    store.refs.update(change)
    point("prune.refs-removed")
    freed = _leftovers(store, grace, dry_run=False)
    point("prune.parts-removed")
    done = collect(store, grace=grace)
    return Deleted(names, done.deleted, done.freed + freed)


def collect(store: Store, *, grace: float = GRACE) -> Deleted:
    """Delete what neither a name nor a root needs. Safe while others pull."""
    with reported(store.paths.root):
        known: Known = {}
        tops = [entry.digest for entry in store.refs.entries()]
        mark(store, tops, _protected(store, grace), known=known)
        point("gc.marked")
        with locked(store.paths.lock):
            point("gc.locked")
            deleted, freed = _collect(store, store.refs.entries(), dry_run=False, grace=grace, known=known)
        point("gc.done")
    return Deleted((), deleted, freed)


def _protected(store: Store, grace: float) -> frozenset[Digest]:
    """What no name needs to point to: work in progress, and containers."""
    return store.roots.protected(grace=grace) | store.containers.digests()


def _collect(
    store: Store, entries: Entries, *, dry_run: bool, grace: float, known: Known | None = None
) -> tuple[tuple[Digest, ...], int]:
    protected = _protected(store, grace)
    needed = mark(store, [entry.digest for entry in entries], protected, known=known)
    needed.diff_ids |= protected  # a layer on its way in has derived data before any manifest names it
    deleted: list[Digest] = []
    freed = 0
    links: dict[tuple[int, int], int] = {}
    for digest in list(store.blobs):
        if digest not in needed.blobs:
            freed += _unlink(store.blobs.path(digest), links, dry_run)
            deleted.append(digest)
            point("gc.blob-removed")
    for diff_id in store.layers.diff_ids():
        if diff_id not in needed.diff_ids:
            directory = store.paths.layer(diff_id)
            for name in sorted(os.listdir(directory)):
                freed += _unlink(os.path.join(directory, name), links, dry_run)
            if not dry_run:
                os.rmdir(directory)
            if diff_id not in deleted:
                deleted.append(diff_id)
            point("gc.layer-removed")
    freed += _collect_unions(store, needed.diff_ids, dry_run)
    return tuple(deleted), freed


def _collect_unions(store: Store, diff_ids: set[Digest], dry_run: bool) -> int:
    """What was derived from a stack of layers goes with the first of them."""
    freed = 0
    for key in sorted(os.listdir(store.paths.unions)):
        directory = store.paths.union(key)
        try:
            with open(os.path.join(directory, "layers"), encoding="utf-8") as file:
                layers = {Digest.parse(line) for line in file.read().split()}
        except (OSError, UsageError):
            layers = set()
        if layers and layers <= diff_ids:
            continue
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if os.path.isdir(path) and not os.path.islink(path):
                if not os.path.ismount(path):
                    freed += freed_bytes(path)
                    if not dry_run:
                        remove_tree(path)
                continue
            freed += _unlink(path, {}, dry_run)
        if not dry_run and not os.listdir(directory):
            os.rmdir(directory)
    return freed


def _unlink(path: str, links: dict[tuple[int, int], int], dry_run: bool) -> int:
    """Unlink a file; the bytes of disk that come free (with the last of its names)."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return 0
    key = (state.st_dev, state.st_ino)
    links.setdefault(key, state.st_nlink)
    links[key] -= 1
    if not dry_run:
        remove(path)
    return disk_bytes(state) if links[key] == 0 else 0


def _leftovers(store: Store, grace: float, *, dry_run: bool) -> int:
    """Temporary files whose maker is gone, and part files of interrupted downloads that nobody holds and that are
    older than ``grace`` seconds."""
    freed, now = 0, time.time()
    for name in sorted(os.listdir(store.paths.ingest)):
        path = os.path.join(store.paths.ingest, name)
        with unheld(path) as free:
            try:
                state = os.lstat(path)
                if not free or not stat.S_ISREG(state.st_mode):
                    continue  # what fsck moved aside is people's data
                if not is_temporary(name) and now - state.st_mtime < grace:
                    continue
                freed += disk_bytes(state)
                if not dry_run:
                    remove(path)
            except FileNotFoundError:
                continue
    return freed
