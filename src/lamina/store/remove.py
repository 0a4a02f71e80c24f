"""rmi: remove names of images, and each image with its last name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.errors import Conflict, StoreDamaged, UsageError
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.reference import canonical
from lamina.store.change_names import change_names
from lamina.store.fault import point
from lamina.store.gc import Deleted, collect, planned
from lamina.store.image_events import image_id, note_removal
from lamina.store.refs import Entries, name_of, untagged_entries
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.store.store import Store


def remove_images(
    store: Store, names: Sequence[str], *, dry_run: bool = False, force: bool = False, keep_untagged: bool = False
) -> Deleted:
    """Remove names. An image is deleted with its last name, together with what only that image needs (unless
    ``keep_untagged``). An ID or a digest means the image itself: refused if several names point to it, unless
    ``force``.

    Raises ReferenceNotFound, Conflict, UsageError (an empty name). With ``dry_run`` nothing changes; the result is
    the same.
    """
    entries = store.refs.entries()
    removed_names: list[str] = []
    removed: set[Digest] = set()
    pairs: set[tuple[str, Digest]] = set()  # a name may point to another image by then
    for name in names:
        if not name:  # in other commands an empty name means the only image
            raise UsageError("the image name is empty", hint="name the image to remove")
        descriptor = store.resolve(name)
        has = [name_of(entry) for entry in entries if entry.digest == descriptor.digest]
        full = canonical(name)
        if full and full in has:
            removed_names.append(full)
        elif len([n for n in has if n]) > 1 and not force:
            raise Conflict(
                f"{name} has several names: {', '.join(sorted(has))}", hint="remove them by name, or use --force"
            )
        else:
            pairs |= {(n, descriptor.digest) for n in has if n}
            removed.add(descriptor.digest)
    by_name = frozenset(removed_names)
    removed_names = list(dict.fromkeys([*removed_names, *sorted(name for name, _ in pairs)]))

    def is_removed(entry: Descriptor) -> bool:
        name = name_of(entry)
        return entry.digest in removed if not name else name in by_name or (name, entry.digest) in pairs

    def change(entries: Entries) -> Entries:
        left = [entry for entry in entries if not is_removed(entry)]
        if keep_untagged:
            left += untagged_entries(
                [e for e in entries if is_removed(e) and name_of(e) and e.digest not in removed], left
            )
        return left

    untagged = tuple(removed_names)
    if dry_run:
        return replace(_damage_as_note(lambda: planned(store, change, GRACE)), untagged=untagged)
    left = {entry.digest for entry in change(entries)}
    gone = [entry for entry in entries if is_removed(entry)]
    known = {entry.digest: image_id(store, entry) for entry in gone}
    change_names(store, change)
    point("prune.refs-removed")
    note_removal(store, [(known[entry.digest], False) for entry in gone if name_of(entry)])
    note_removal(store, [(identity, True) for digest, identity in known.items() if digest not in left])
    return replace(_damage_as_note(lambda: collect(store)), untagged=untagged)


def _damage_as_note(work: Callable[[], Deleted]) -> Deleted:
    """Run ``work``. If another image is damaged, report that as a note and not as an error: the names are removed
    already."""
    try:
        return work()
    except StoreDamaged as error:
        return Deleted(notes=(f"{error.message} ({error.hint})",))
