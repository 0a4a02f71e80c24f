"""prune: delete untagged images, what nothing needs, and the leftovers of interrupted work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, StoreDamaged
from lamina.host.files import reported
from lamina.host.lock import locked
from lamina.store.change_names import change_names
from lamina.store.fault import point
from lamina.store.gc import Deleted, collect, planned
from lamina.store.image_events import image_id, note_removal
from lamina.store.leftovers import leftovers
from lamina.store.members import Members
from lamina.store.refs import Entries, name_of
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.spec.descriptor import Descriptor
    from lamina.store.store import Store


def prune(
    store: Store,
    *,
    all: bool = False,
    dry_run: bool = False,
    grace: float = GRACE,
    spare: Callable[[Descriptor], bool] = lambda entry: False,
) -> Deleted:
    """Delete untagged images (``all``: also every named one; but none that ``spare`` accepts), blobs and derived data
    that nothing needs, and the leftovers of interrupted work. Temporary files are removed at once; leftovers that can
    be resumed are removed after ``grace`` seconds (``all``: at once). What a container or a running process needs is
    kept.

    Raises StoreDamaged (what an image needs can't be read; only leftovers were removed), DiskFull.
    """
    grace = 0 if all else grace
    entries = store.refs.entries()

    def change(entries: Entries) -> Entries:
        return [entry for entry in entries if (name_of(entry) and not all) or spare(entry)]

    kept = {name_of(entry) for entry in change(entries)}
    names = tuple(name_of(entry) for entry in entries if name_of(entry) and name_of(entry) not in kept)
    with reported(store.paths.root):
        if not dry_run:
            store.roots.remove_ended(grace=grace)
        found = list(leftovers(store.paths, grace=grace, take=not dry_run))
        freed = sum(one.size for one in found if one.due)
        notes = _note_about_leftovers(store, sum(one.size for one in found if not one.due), grace)
    point("prune.parts-removed")
    left = {entry.digest for entry in change(entries)}
    known = {} if dry_run else {one.digest: image_id(store, one) for one in entries if one.digest not in left}
    if dry_run:
        done = planned(store, change, grace)
    else:
        change_names(store, change, grace=grace)
        point("prune.refs-removed")
        note_removal(store, [(known[one.digest], False) for one in entries if name_of(one) and one.digest in known])
        note_removal(store, [(identity, True) for identity in known.values()])
        try:
            done = collect(store, grace=grace)
        except StoreDamaged as error:
            if not freed:
                raise
            what = f"{error.message}; {freed} bytes of interrupted work were removed"
            raise StoreDamaged(what, hint=error.hint) from None
        if all and os.path.isdir(store.paths.repositories):
            _drop_empty_repositories(store)
    return Deleted(names, done.deleted, done.freed + freed, notes)


def _drop_empty_repositories(store: Store) -> None:
    with reported(store.paths.repositories), locked(store.paths.lock):
        named = set(store.refs.repositories())
        Members(store.paths).drop_empty(named.__contains__)


def _note_about_leftovers(store: Store, size: int, grace: float) -> tuple[str, ...]:
    """The note about interrupted work that can still be resumed; none if there is none."""
    ended = sum(not root.alive for root in store.roots.effective(grace=grace))
    what = [f"{size} bytes of interrupted downloads"] * bool(size)
    what += [f"the objects of interrupted commands ({ended})"] * bool(ended)
    return (f"kept for an hour, so that the next pull can resume: {' and '.join(what)}",) if what else ()


def of_containers(store: Store) -> Callable[[Descriptor], bool]:
    """Whether a container has an image, or one of an index: a ``spare`` for ``prune``."""
    from lamina.spec.manifest import Manifest, parse

    used = {one.manifest for one in store.containers.every()}

    def is_used(entry: Descriptor) -> bool:
        if not used or str(entry.digest) in used:
            return bool(used)
        try:
            document = parse(store.manifest(entry), entry.media_type)
        except LaminaError:
            return False
        return not isinstance(document, Manifest) and any(str(one.digest) in used for one in document.manifests)

    return is_used
