"""What is known of a container that runs: that it can be reached from here, and its first process."""

from __future__ import annotations

import os

from lamina.errors import Conflict, SystemFailure, Unsupported
from lamina.light import TYPE_CHECKING
from lamina.run.runtime import BUBBLEWRAP, MACHINE

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def check_running(store: Store, container: Container) -> None:
    """Raises Conflict if the container does not run, or runs where this process can't reach it."""
    if not store.containers.is_running(container):
        raise not_running(container)
    if container.is_elsewhere:
        raise Conflict(
            f"the container {container.name} runs in another namespace of processes", hint="run this command there"
        )


def check_inside(container: Container, verb: str) -> None:
    """Raises Unsupported if the container is a virtual machine: only its kernel knows what runs in it."""
    if container.runtime == MACHINE:
        raise Unsupported(
            f"`{verb}` can't reach into the virtual machine {container.name}",
            hint="use `attach`, `logs`, `kill` or `stop`",
        )


def not_running(container: Container) -> Conflict:
    return Conflict(f"the container {container.name} does not run", hint="see `lamina ps -a`")


def first_process(store: Store, container: Container) -> int:
    """The pid of the first process of a running container; 0 if it has none now: it starts, or is about to end."""
    if container.is_elsewhere:
        return 0
    bundle = store.containers.path(container.id, "bundle")
    try:
        if os.path.basename(container.runtime) == BUBBLEWRAP:  # what its monitor started is bubblewrap's own process
            from lamina.run.bubblewrap.process import process_of

            return process_of(bundle)
        if container.is_program_alive:
            return container.program
        with open(os.path.join(bundle, "pid"), "rb") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return 0


def process_of(store: Store, container: Container) -> int:
    """As ``first_process``. Raises Conflict (it does not run), SystemFailure (it has no process)."""
    check_running(store, container)
    pid = first_process(store, container)
    if not pid:
        raise SystemFailure(f"the container {container.name} has no process now", hint="try again")
    return pid
