"""Garbage collection: delete images, and prune what nothing needs.

Nothing is deleted that is needed by a name, an untagged entry, a container, or the root file of a running process.
First mark without the lock; then mark again under the lock, with fresh names and roots; only then unlink. Documents
are unlinked first, then derived data, then the other blobs: if this is interrupted, each remaining document still has
everything that it names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.errors import Conflict, DiskFull, StoreDamaged, UsageError
from lamina.host.files import names_of_files, remove, reported
from lamina.host.lock import locked
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import canonical
from lamina.store import clock, reserve
from lamina.store.fault import point
from lamina.store.foreign_trees import disk_bytes
from lamina.store.leftovers import leftovers
from lamina.store.mark import Holder, Memory, Needs, mark, of_containers, of_names, of_roots, state_of, steady
from lamina.store.refs import Entries, name_of, unnamed
from lamina.store.roots import GRACE
from lamina.store.unions import collect_unions

if TYPE_CHECKING:
    from lamina.store.store import Store


@dataclass(frozen=True)
class Deleted:
    """``freed``: bytes of disk. ``deleted``: blobs, and diff_ids of layers. ``notes``: what stays and why, one line
    each."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[Digest, ...] = ()
    freed: int = 0
    notes: tuple[str, ...] = ()

    def __add__(self, other: Deleted) -> Deleted:
        """Both together."""
        return Deleted(
            self.untagged + other.untagged,
            self.deleted + other.deleted,
            self.freed + other.freed,
            self.notes + other.notes,
        )


def delete_images(
    store: Store, names: Sequence[str], *, dry_run: bool = False, force: bool = False, keep_untagged: bool = False
) -> Deleted:
    """Remove names. An image is deleted with its last name, together with what only that image needs (unless
    ``keep_untagged``). An ID or a digest means the image itself: refused if several names point to it, unless
    ``force``.

    Raises ReferenceNotFound, Conflict, UsageError (an empty name). With ``dry_run`` nothing changes; the result is
    the same.
    """
    entries = store.refs.entries()
    gone_names: list[str] = []
    gone: set[Digest] = set()
    pairs: set[tuple[str, Digest]] = set()  # a name may point to another image by then
    for name in names:
        if not name:  # in other commands an empty name means the only image
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
            pairs |= {(n, descriptor.digest) for n in has if n}
            gone.add(descriptor.digest)
    by_name = frozenset(gone_names)
    gone_names = list(dict.fromkeys([*gone_names, *sorted(name for name, _ in pairs)]))

    def goes(entry: Descriptor) -> bool:
        name = name_of(entry)
        return entry.digest in gone if not name else name in by_name or (name, entry.digest) in pairs

    def change(entries: Entries) -> Entries:
        left = [entry for entry in entries if not goes(entry)]
        if keep_untagged:
            left += unnamed([e for e in entries if goes(e) and name_of(e) and e.digest not in gone], left)
        return left

    untagged = tuple(gone_names)
    if dry_run:
        return replace(_kept_where_damaged(lambda: _planned(store, change, GRACE)), untagged=untagged)
    _rename(store, change)
    point("prune.refs-removed")
    return replace(_kept_where_damaged(lambda: collect(store)), untagged=untagged)


def _kept_where_damaged(work: Callable[[], Deleted]) -> Deleted:
    """Run ``work``. If another image is damaged, report that as a note and not as an error: the names are removed
    already."""
    try:
        return work()
    except StoreDamaged as error:
        return Deleted(notes=(f"{error.message} ({error.hint})",))


def prune(store: Store, *, all: bool = False, dry_run: bool = False, grace: float = GRACE) -> Deleted:
    """Delete untagged images (``all``: also every named one), blobs and derived data that nothing needs, and the
    leftovers of interrupted work. Temporary files are removed at once; leftovers that can be resumed are removed
    after ``grace`` seconds (``all``: at once). What a container or a running process needs stays.

    Raises StoreDamaged (what an image needs can't be read; only leftovers were removed), DiskFull.
    """
    grace = 0 if all else grace
    entries = store.refs.entries()

    def change(entries: Entries) -> Entries:
        return [] if all else [entry for entry in entries if name_of(entry)]

    names = tuple(name_of(entry) for entry in entries if name_of(entry)) if all else ()
    with reported(store.paths.root):
        if not dry_run:
            store.roots.drop_dead(grace=grace)
        left = list(leftovers(store.paths, grace=grace, take=not dry_run))
        freed = sum(one.size for one in left if one.due)
        notes = _stay(store, sum(one.size for one in left if not one.due), grace)
    point("prune.parts-removed")
    if dry_run:
        done = _planned(store, change, grace)
    else:
        _rename(store, change, grace=grace)
        point("prune.refs-removed")
        try:
            done = collect(store, grace=grace)
        except StoreDamaged as error:
            if not freed:
                raise
            what = f"{error.message}; {freed} bytes of interrupted work were removed"
            raise StoreDamaged(what, hint=error.hint) from None
    return Deleted(names, done.deleted, done.freed + freed, notes)


def _stay(store: Store, size: int, grace: float) -> tuple[str, ...]:
    """The note about interrupted work that can still be resumed."""
    ended = sum(not root.alive for root in store.roots.counting(grace=grace))
    what = [f"{size} bytes of interrupted downloads"] * bool(size)
    what += [f"the objects of interrupted commands ({ended})"] * bool(ended)
    return (f"kept for an hour, so that the next pull can resume: {' and '.join(what)}",) if what else ()


def _rename(store: Store, change: Callable[[Entries], Entries], *, grace: float = GRACE) -> None:
    """Rewrite index.json. If the disk is too full for that, first delete files that can be deleted before the names
    are."""
    for make_room in (_drop_unneeded, _drop_indexes):
        try:
            store.refs.update(change)
            return
        except DiskFull:
            with reported(store.paths.root), suppress(StoreDamaged):  # the damaged image may be one to remove
                make_room(store, change, grace)
    try:
        store.refs.update(change)
    except DiskFull as error:
        raise DiskFull(
            error.message, hint="free some space outside of the store: nothing in it is unneeded"
        ) from None


def _drop_unneeded(store: Store, change: Callable[[Entries], Entries], grace: float) -> None:
    for _ in leftovers(store.paths, grace=0, take=True):
        pass
    remove(store.paths.members)
    collect(store, grace=grace)


def _drop_indexes(store: Store, change: Callable[[Entries], Entries], grace: float) -> None:
    """Free space by removing files that can be made again from a blob or a tar: the indexes of the layers that go
    with these names, or of all layers if no layer goes. So the images stay complete until their names are removed."""
    layers = _garbage(store, change(store.refs.entries()), grace).layers or store.layers.diff_ids()
    for diff_id in layers:
        remove(store.paths.digests(diff_id))
        remove(store.paths.layer_index(diff_id))


def collect(store: Store, *, grace: float = GRACE) -> Deleted:
    """Delete everything that no name, container or root needs. Safe while other processes pull. Raises StoreDamaged,
    SystemFailure."""
    with reported(store.paths.root):
        memory: Memory = {}
        began = clock.now(store.paths)
        # Remember the documents that were read completely. Do not report damaged or missing ones yet (strict=False):
        # another process may be removing or replacing them; the second mark, under the lock, decides.
        mark(store, _holders(store, store.refs.entries(), grace), memory=memory, strict=False)
        point("gc.marked")
        with locked(store.paths.lock):
            point("gc.locked")
            garbage = _garbage(store, store.refs.entries(), grace, memory=memory, began=began)
            freed = _delete(store, garbage, dry_run=False)
        point("gc.done")
        reserve.fill(store.paths, os.stat(store.paths.index).st_size)
    return Deleted((), garbage.digests, freed)


def _planned(store: Store, change: Callable[[Entries], Entries], grace: float) -> Deleted:
    """The result of ``collect`` if ``change`` were made to the names; nothing is deleted."""

    def plan(entries: Entries) -> Deleted:
        garbage = _garbage(store, change(entries), grace)
        return Deleted((), garbage.digests, _delete(store, garbage, dry_run=True))

    with reported(store.paths.root):
        return steady(store, plan)


def _holders(store: Store, entries: Entries, grace: float) -> list[Holder]:
    return [*of_names(entries), *of_containers(store), *of_roots(store, grace)]


@dataclass(frozen=True, slots=True)
class _Garbage:
    """What will be deleted, in the order of deletion. ``needed``: the layers that stay."""

    documents: tuple[Digest, ...]
    layers: tuple[Digest, ...]
    blobs: tuple[Digest, ...]
    needed: frozenset[Digest]

    @property
    def digests(self) -> tuple[Digest, ...]:
        return tuple(dict.fromkeys([*self.documents, *self.blobs, *self.layers]))


def _garbage(
    store: Store, entries: Entries, grace: float, *, memory: Memory | None = None, began: int | None = None
) -> _Garbage:
    """Find what nothing needs. With ``began`` (when the first mark began) skip everything that changed after that
    time."""
    marked = mark(store, _holders(store, entries, grace), memory=memory)
    blobs = {one: _changed([store.blobs.path(one)]) for one in store.blobs if one not in marked.blobs}
    layers = {one: _changed(_files(store, one)) for one in store.layers.diff_ids() if one not in marked.diff_ids}
    now = clock.now(store.paths)  # read last: a file that has just changed must not have a date after it

    def old(changes: Sequence[int]) -> bool:
        return began is None or not any(began < change <= now for change in changes)

    unneeded = [one for one, changes in blobs.items() if old(changes)]
    documents = {one: None for one in unneeded if _is_document(store, one)}
    return _Garbage(
        tuple(documents),
        tuple(one for one, changes in layers.items() if old(changes)),
        tuple(one for one in unneeded if one not in documents),
        frozenset(marked.diff_ids),
    )


def _is_document(store: Store, digest: Digest) -> bool:
    with suppress(OSError), open(store.blobs.path(digest), "rb") as file:
        if file.read(64).lstrip()[:1] == b"{":
            return isinstance(state_of(store, digest), Needs)
    return False


def _files(store: Store, diff_id: Digest) -> list[str]:
    directory = store.paths.layer(diff_id)
    return [os.path.join(directory, name) for name in names_of_files(directory)]


def _changed(paths: Sequence[str]) -> list[int]:
    """The ctime of each file: when it got its name or its bytes. No program can set it back."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(os.lstat(path).st_ctime_ns)
    return found


def _delete(store: Store, garbage: _Garbage, *, dry_run: bool) -> int:
    """Unlink the garbage; returns the bytes of disk that become free."""
    links: dict[tuple[int, int], int] = {}
    freed = 0
    for digest in garbage.documents:
        freed += _unlink(store.blobs.path(digest), links, dry_run)
        point("gc.document-removed")
    freed += collect_unions(store, set(garbage.needed), dry_run=dry_run)
    for diff_id in garbage.layers:
        for path in _files(store, diff_id):
            freed += _unlink(path, links, dry_run)
        if not dry_run:
            _remove_empty(store.paths.layer(diff_id))
        point("gc.layer-removed")
    for digest in garbage.blobs:
        freed += _unlink(store.blobs.path(digest), links, dry_run)
        point("gc.blob-removed")
    return freed


def _remove_empty(directory: str) -> None:
    """Remove the directory if it is empty. A process that still reads the image may just have put a file there; the
    next gc removes that."""
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _unlink(path: str, links: dict[tuple[int, int], int], dry_run: bool) -> int:
    """Unlink a file; returns the bytes of disk that become free (0 while the file has another name)."""
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
