"""What a container changed, from its upper directory: as a list, as a layer of a new image, and as one tar with
its image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lamina.edit.append import append, with_parents
from lamina.edit.changes import Change, changes, real_items
from lamina.layer.entry import Kind
from lamina.layer.tar_write import Item
from lamina.run import writable
from lamina.run.container.ending import settle
from lamina.run.container.events import note_event
from lamina.run.runtime import MACHINE
from lamina.scan.directory import OnWarning
from lamina.scan.overlay_upper import scan_upper
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.store.containers import Container, Use
from lamina.store.image_events import image_id, note_image
from lamina.view.owners import Owners, kept_mode

if TYPE_CHECKING:
    from lamina.edit.publish import Revision
    from lamina.layer.tar_write import Write
    from lamina.store.store import Store


@contextmanager
def readable(store: Store, container: Container) -> Iterator[None]:
    """Nobody removes the container while the block runs, and what it wrote can be read. Raises NotFound, Conflict (a
    machine that runs), SystemFailure."""
    with use_of_ended(store, container):
        yield


def use_of_ended(store: Store, container: Container) -> Use:
    """A shared lock on the container; of a machine, its processes have ended. Raises as ``readable``."""
    if container.runtime != MACHINE:
        return store.containers.using(container, shared=True)
    with store.containers.using(container):
        container = store.containers.get(container.id)
        if not store.containers.is_running(container):
            settle(store, container)
    use = store.containers.using(container, shared=True)
    try:
        from lamina.run.machine.upper import check_ended

        check_ended(store, container)
    except BaseException:
        use.close()
        raise
    return use


def container_changes(store: Store, stack: Stack, container: Container) -> list[Change]:
    """The changes, as ``edit.changes.changes`` returns them. Raises SystemFailure, NotFound (the container was
    removed)."""
    with readable(store, container):
        return changes(stack.tree(), _items(store, container), _made(container))


def container_items(
    store: Store, stack: Stack, container: Container, on_warning: OnWarning = lambda text: None
) -> list[Item]:
    """The changes as entries of a layer on top of its image. Read them in a block of ``readable``. Raises
    SystemFailure."""
    return real_items(stack.tree(), _items(store, container, on_warning), _made(container))


def commit(
    store: Store,
    stack: Stack,
    container: Container,
    name: str,
    revision: Revision,
    *,
    on_warning: OnWarning = lambda text: None,
) -> Descriptor:
    """Make an image from the container's image and its changes, named ``name``. The history says the
    container's command. Raises as ``edit.append``."""
    with readable(store, container):  # nobody may remove it meanwhile
        made = append(
            stack,
            with_parents(container_items(store, stack, container, on_warning), stack),
            store,
            name,
            replace(revision, created_by=" ".join(container.command)),
        )
    if name:
        note_image(store, "tag", made, name)
    root, identity = store.paths.root, image_id(store, made)
    note_event(root, container, "commit", comment=revision.comment, imageID=identity, imageRef=name)
    return made


def export_container(
    store: Store, stack: Stack, container: Container, write: Write, *, on_warning: OnWarning = lambda text: None
) -> int:
    """Write the container's whole file system as one tar, without volumes; the number of entries, as ``edit.export``
    returns it. ``stack``: its image. Raises SystemFailure, UsageError (it changed meanwhile)."""
    from lamina.edit.export import export

    with readable(store, container):
        count = export(stack, write, container_items(store, stack, container, on_warning))
    note_event(store.paths.root, container, "export")
    return count


def _items(store: Store, container: Container, on_warning: OnWarning = lambda text: None) -> list[Item]:
    if container.runtime == MACHINE:
        from lamina.run.machine.upper import machine_items

        return list(machine_items(store, container, on_warning))
    found = scan_upper(writable.path(store, container, writable.UPPER), on_warning=on_warning)
    owners = Owners(container.users, container.groups)
    if not owners:
        return list(found)
    items = []
    for entry, opened in found:
        uid, gid = owners.inside(entry.uid, entry.gid)
        user, group = owners.has_outside(entry.uid, entry.gid)
        mode = entry.mode if entry.kind == Kind.DIRECTORY else kept_mode(entry.mode, user=user, group=group)
        items.append((replace(entry, uid=uid, gid=gid, mode=mode), opened))
    return items


def _made(container: Container) -> frozenset[bytes]:
    return frozenset(os.fsencode(path.strip("/")) for path in container.made)
