"""Where a container's writable layer is: in its own directory; in memory, if the store's file system can't hold one;
or in the directory of the settings.

A layer in memory lives as long as its mount: until the container is removed or the host shuts down. A plain user's
mount ends with the process that made it, so only containers that are removed at their end can have one.
"""

from __future__ import annotations

import os

from lamina.errors import NotFound, Unsupported
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.run.runtime import MACHINE
from lamina.store.containers import Container
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel
from lamina.view.overlay.lower import unmount_quietly
from lamina.view.upper_check import refusal

if TYPE_CHECKING:
    from lamina.scan.directory import OnWarning
    from lamina.store.store import Store

UPPER, WORK = "upper", "work"
_MEMORY, _SHOWN = "memory", "disk"
_SETTING = "upper_dir (LAMINA_UPPER_DIR)"


def choose(store: Store, identity: str, directory: str, *, remove: bool, warn: OnWarning) -> str:
    """``Container.top`` for the new container ``identity``. ``directory``: from the settings, "" for the store.
    ``remove``: the container is removed when it ends. ``warn`` is called if the layer is in memory. Raises
    Unsupported, SystemFailure."""
    if directory:
        why = refusal(directory)
        if why:
            raise Unsupported(f"no container can write to {directory}: {why}", hint="see the setting upper_dir")
        return os.path.join(directory, identity)
    if not refusal(store.paths.unions):
        return ""
    if not remove and not privileges.is_root():
        raise Unsupported(
            "the store's file system takes no writable layer, and a plain user's layer in memory is lost when the "
            "container ends",
            hint=f"take --rm, or set {_SETTING} to a directory of another file system",
        )
    until = "it ends" if remove else "it is removed, or the host reboots"
    warn(
        "the store's file system takes no writable layer: what the container writes is kept in memory until "
        f"{until}; {_SETTING} can name another place"
    )
    return store.containers.path(identity, _MEMORY)


def make(store: Store, container: Container, directory: str) -> None:
    """Make the empty directories, and mount what they need. ``directory``: the container's, under its temporary
    name. Raises SystemFailure, Unsupported."""
    memory = _is_memory(store, container)
    place = os.path.join(directory, _MEMORY) if memory else container.top or directory
    with reported(place):
        if container.top:
            os.mkdir(place, 0o700)
        if memory:
            kernel.mount("tmpfs", [("mode", "0700")], place, attributes=kernel.NO_DEVICES)
        os.mkdir(os.path.join(place, UPPER), 0o755)
        os.mkdir(os.path.join(place, WORK), 0o700)
        if container.top and not memory:
            # if the record is lost, this link shows that the container has a writable layer
            os.symlink(os.path.join(place, UPPER), os.path.join(directory, UPPER))


def path(store: Store, container: Container, name: str) -> str:
    """The directory UPPER or WORK; of a machine, while its disk is shown. Raises NotFound if it was in memory and is
    lost."""
    if container.runtime == MACHINE:
        return os.path.join(shown_disk(store, container), name)
    found = os.path.join(container.top or store.containers.path(container.id), name)
    if container.top and not os.path.isdir(found):
        raise NotFound(
            f"what the container {container.name} wrote is gone: {container.top} does not exist or is not mounted",
            hint=f"run `lamina rm {container.name}`",
        )
    return found


def shown_disk(store: Store, container: Container) -> str:
    """The directory that has UPPER and WORK of a machine while its disk is mounted there for a look; "" for other
    containers."""
    return store.containers.path(container.id, _SHOWN) if container.runtime == MACHINE else ""


def remove(store: Store, container: Container, directory: str) -> None:
    """Remove what ``make`` made outside of the container's directory, and unmount. ``directory``: the container's,
    under its present name."""
    if not container.top:
        return
    if _is_memory(store, container):
        unmount_quietly(os.path.join(directory, _MEMORY))
    elif os.path.basename(container.top) == container.id and os.path.isdir(container.top):
        with reported(container.top):
            remove_tree(container.top)


def _is_memory(store: Store, container: Container) -> bool:
    return container.top == store.containers.path(container.id, _MEMORY)
