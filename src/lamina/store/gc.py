"""Garbage collection: delete the objects that nothing needs.

Nothing is deleted that is needed by a name, an untagged entry, a container, or the root file of a running process,
or that a client of a registry server has just pushed. First mark without the lock; then mark again under the lock,
with fresh names and roots; only then unlink. Documents are unlinked first, then derived data, then the other blobs:
if this is interrupted, each remaining document still has everything that it names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.host.files import names_of_files, remove, reported
from lamina.host.lock import locked
from lamina.spec.digest import Digest
from lamina.store import clock, reserve
from lamina.store.fault import point
from lamina.store.foreign_trees import disk_bytes
from lamina.store.mark import (
    Holder,
    Memory,
    Needs,
    container_holders,
    image_holders,
    mark,
    pushed_holders,
    retry_if_names_change,
    root_holders,
    state_of,
)
from lamina.store.members import Members
from lamina.store.roots import GRACE
from lamina.store.unions import collect_unions

if TYPE_CHECKING:
    from lamina.store.refs import Entries
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
            garbage = find_garbage(store, store.refs.entries(), grace, memory=memory, began=began)
            freed = _delete(store, garbage, dry_run=False)
        point("gc.done")
        if os.path.isdir(store.paths.repositories):
            Members(store.paths).clean(lambda digest: store.blobs.size(digest) is not None)
        reserve.fill(store.paths, os.stat(store.paths.index).st_size)
    return Deleted((), garbage.digests, freed)


def planned(store: Store, change: Callable[[Entries], Entries], grace: float) -> Deleted:
    """The result of ``collect`` if ``change`` were made to the names; nothing is deleted."""

    def plan(entries: Entries) -> Deleted:
        garbage = find_garbage(store, change(entries), grace)
        return Deleted((), garbage.digests, _delete(store, garbage, dry_run=True))

    with reported(store.paths.root):
        return retry_if_names_change(store, plan)


def _holders(store: Store, entries: Entries, grace: float) -> list[Holder]:
    return [
        *image_holders(entries),
        *container_holders(store),
        *root_holders(store, grace),
        *pushed_holders(store),
    ]


@dataclass(frozen=True, slots=True)
class Garbage:
    """What will be deleted, in the order of deletion. ``needed``: the layers that stay."""

    documents: tuple[Digest, ...]
    layers: tuple[Digest, ...]
    blobs: tuple[Digest, ...]
    needed: frozenset[Digest]

    @property
    def digests(self) -> tuple[Digest, ...]:
        return tuple(dict.fromkeys([*self.documents, *self.blobs, *self.layers]))


def find_garbage(
    store: Store, entries: Entries, grace: float, *, memory: Memory | None = None, began: int | None = None
) -> Garbage:
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
    return Garbage(
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


def _delete(store: Store, garbage: Garbage, *, dry_run: bool) -> int:
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
