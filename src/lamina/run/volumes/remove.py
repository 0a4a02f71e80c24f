"""Removing volumes: by name, those of a removed container, and those that no container has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from lamina.errors import Conflict, LaminaError, NotFound, StoreDamaged
from lamina.host import mountinfo
from lamina.host.files import failure, reported
from lamina.host.lock import unheld
from lamina.light import TYPE_CHECKING
from lamina.run.volumes.points import is_user, points_of
from lamina.store.fault import point
from lamina.store.foreign_trees import freed_bytes, remove_tree
from lamina.store.journal import note
from lamina.store.volumes import LOCAL, Volume, is_left
from lamina.view import kernel

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def remove_volume(store: Store, name: str) -> None:
    """Remove a volume with its data. Raises NotFound, Conflict (a container has it), StoreDamaged (a container's
    record can't be read, so its volumes are unknown), SystemFailure."""

    def check() -> None:
        for one in store.containers.every():
            if is_user(one, name):
                raise Conflict(
                    f"the volume {name} is in use by the container {one.name}",
                    hint=f"remove the container first: lamina rm {one.name}",
                )
            if not one.manifest:
                raise StoreDamaged(
                    f"the volume {name} was not removed: the record of the container {one.id[:12]} is damaged, so "
                    "its volumes are not known",
                    hint=f"run `lamina rm {one.id[:12]}` first",
                )
        path = store.volumes.path(name)
        while os.path.ismount(path):  # by its driver
            kernel.unmount(path)

    aside = store.volumes.set_aside(name, check)
    discard(aside)
    note(store.paths.root, "volume", "destroy", name, {"driver": LOCAL})


def discard(path: str) -> None:
    """Remove a volume that was set aside, or was never finished. Another process may remove it at the same time, as
    commands clear up what others have left. Raises SystemFailure."""
    with reported(path):
        if not os.path.isdir(path) or os.path.islink(path):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        for target in mountinfo.below(path):
            kernel.unmount(target)
    while os.path.lexists(path):
        try:
            remove_tree(path)
        except FileNotFoundError:
            continue  # another process has removed a part of it
        except OSError as error:
            raise failure(error, path) from error
    point("volume.removed")


def remove_anonymous(store: Store, container: Container) -> None:
    """Remove the anonymous volumes of a removed container that no other container has; none if its record is damaged.
    Raises SystemFailure."""
    try:
        mounts = points_of(container) or ()
    except StoreDamaged:
        return
    for mount in mounts:
        if mount.kind == "volume" and mount.anonymous:
            try:
                remove_volume(store, mount.source)
            except (NotFound, Conflict, StoreDamaged):
                pass  # another process has removed it, or a container has it, or may have it


def unused(store: Store) -> list[Volume]:
    """The volumes that no container has. Raises StoreDamaged, SystemFailure."""
    containers = store.containers.every()
    return [one for one in store.volumes.every() if not any(is_user(other, one.name) for other in containers)]


def prune(
    store: Store, chosen: Callable[[Volume], bool], on_removed: Callable[[str], object]
) -> tuple[int, list[LaminaError]]:
    """Remove the volumes that no container has and ``chosen`` accepts: the bytes that this frees, and the errors.
    ``on_removed`` is called with each name."""
    freed = 0
    failed: list[LaminaError] = []
    for one in unused(store):
        if not chosen(one):
            continue
        try:
            size = freed_bytes(store.volumes.path(one.name))
            remove_volume(store, one.name)
        except (NotFound, Conflict):
            continue  # it was removed, or is used, since
        except LaminaError as error:
            failed.append(error)
        else:
            freed += size
            on_removed(one.name)
    if freed or not failed:
        note(store.paths.root, "volume", "prune", "", {"reclaimed": str(freed)})
    return freed, failed


def clear_left(store: Store) -> Iterable[LaminaError]:
    """Remove volumes that were being made or removed when their process was killed; yield the errors."""
    top = store.volumes.top
    try:
        with reported(top):
            for name in os.listdir(top):
                if is_left(name):
                    path = os.path.join(top, name)
                    with unheld(path) as free:
                        if free:
                            discard(path)
        store.volumes.remove_stray_records()
    except LaminaError as error:
        yield error
