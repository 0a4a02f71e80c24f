"""The user namespace in which a plain user works with containers: the running container's, or a new one."""

from __future__ import annotations

import os

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.light import TYPE_CHECKING
from lamina.store.roots import start_time

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def enter(store: Store | None = None, container: Container | None = None) -> None:
    """Get the privileges to work with containers, for good: a plain user becomes root of a user namespace: that of
    the running ``container`` with its mounts; that of the ``store``'s networks, if a container is on one; or a new
    one. Raises as ``privileges.become_root``."""
    if privileges.may_mount():
        return
    if container is not None and start_time(container.pid) == container.started is not None:
        privileges.join(container.pid)
    elif container is not None and store is not None and store.containers.is_running(container):
        # its lamina was killed: the program is in the same user namespace, but has other mounts
        privileges.join(_program(store, container), mounts=False)
    elif store is None or not _enter_networks(store):
        privileges.become_root()


def _enter_networks(store: Store) -> bool:
    """Enter the user namespace that the networks of the store belong to; False if there is none."""
    if not os.path.isdir(os.path.join(store.paths.root, "networks", "run")):
        return False
    from lamina.run.networks import place

    return place.enter(store)


def _program(store: Store, container: Container) -> int:
    """The pid of the container's first process. Raises SystemFailure."""
    path = store.containers.path(container.id, "bundle", "pid")
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        raise SystemFailure(f"the container {container.name} has no process yet", hint="try again") from None
