"""Removal of names from index.json, also when the disk is full."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.errors import DiskFull, StoreDamaged
from lamina.host.files import remove, reported
from lamina.store.gc import collect, find_garbage
from lamina.store.leftovers import leftovers
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.store.refs import Entries
    from lamina.store.store import Store


def change_names(store: Store, change: Callable[[Entries], Entries], *, grace: float = GRACE) -> None:
    """Rewrite index.json with the entries that ``change`` returns. If the disk is too full for that, first delete
    files that may be deleted before the names are. Raises DiskFull, SystemFailure."""
    for make_room in (_delete_unneeded, _delete_indexes):
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
            error.message, hint="free space outside the store: nothing in the store can be deleted"
        ) from None


def _delete_unneeded(store: Store, change: Callable[[Entries], Entries], grace: float) -> None:
    for _ in leftovers(store.paths, grace=0, take=True):
        pass
    remove(store.paths.layer_map)
    collect(store, grace=grace)


def _delete_indexes(store: Store, change: Callable[[Entries], Entries], grace: float) -> None:
    """Free space by removing files that can be made again from a blob or a tar: the indexes of the layers that go
    with these names, or of all layers if no layer goes. So the images stay complete until their names are removed."""
    layers = find_garbage(store, change(store.refs.entries()), grace).layers or store.layers.diff_ids()
    for diff_id in layers:
        remove(store.paths.digests(diff_id))
        remove(store.paths.layer_index(diff_id))
