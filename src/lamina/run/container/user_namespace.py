"""The user namespace in which a plain user works with containers: the running container's, or a new one."""

from __future__ import annotations

import os

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.host.process_identity import start_time
from lamina.light import TYPE_CHECKING
from lamina.run.options import SHARED_KINDS, other_container

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


def enter(store: Store | None = None, container: Container | None = None, *, mounts: bool = True) -> None:
    """Get the privileges to work with containers, for good: a plain user becomes root of a user namespace: that of
    the running ``container`` with its mounts (without ``mounts``: a copy of this process's); that of the ``store``'s
    networks, if a container is on one; or a new one. Raises as ``privileges.become_root``."""
    if privileges.may_mount():
        return
    if container is not None and start_time(container.pid) == container.started is not None:
        privileges.join(container.pid, mounts=mounts)
    elif container is not None and store is not None and store.containers.is_running(container):
        # its lamina was killed: the program is in the same user namespace, but has other mounts
        privileges.join(_program(store, container), mounts=False)
    elif store is None or not _enter_networks(store):
        privileges.become_root()


def enter_for(
    store: Store,
    wanted: ContainerOptions,
    *,
    starts: bool = True,
    on_warning: Callable[[str], object] = lambda text: None,
) -> None:
    """As ``enter``, for a container with these options: where it shares a namespace of another container that runs,
    it is in the same user namespace, and so are all that are on networks with names. ``starts``: it is about to
    start; what networks can't do for this user is a warning. Raises as ``enter``, and NotFound."""
    if not privileges.may_mount():
        if wanted.networks and starts:
            from lamina.run.networks import place

            place.enter_or_make(store, on_warning)
            return
        for kind in ("ipc", *SHARED_KINDS):  # the shared memory is among the mounts of the other one
            name = other_container(wanted, kind)
            if name and store.containers.is_running(other := store.containers.get(name)):
                enter(store, other, mounts=kind == "ipc")
                return
    enter(store)


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
