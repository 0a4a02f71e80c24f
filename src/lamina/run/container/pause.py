"""`pause` and `unpause`: freeze all programs of a container, and let them go on."""

from __future__ import annotations

from lamina.errors import Conflict, SystemFailure, Unsupported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.container.events import note_event
from lamina.run.container.record import sandbox_of
from lamina.run.container.running import check_running, first_process, not_running
from lamina.store.containers import RESTARTING

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def pause(store: Store, container: Container) -> None:
    """Freeze the container. Raises Conflict (it does not run, or is paused already), Unsupported (it has no cgroup),
    SystemFailure."""
    with store.containers.changing(container.id) as now:
        check_running(store, now)
        if store.containers.state(now) == RESTARTING:
            raise Conflict(f"the container {now.name} is restarting", hint="wait until it runs, or `lamina stop` it")
        if now.paused:
            raise Conflict(f"the container {now.name} is paused already", hint="`lamina unpause` lets it go on")
        sandbox = sandbox_of(store, now)
        if not sandbox.can_pause:
            raise Unsupported(
                f"the container {now.name} can't be paused: it has no cgroup",
                hint="run it as root with runc, or with crun where all cgroups are of version 2",
            )
        store.containers.write(replace(now, paused=True), lasting=False)  # first: what is frozen must be known
        try:
            sandbox.pause()
        except BaseException as error:
            store.containers.write(now, lasting=False)
            alive = now.is_program_alive if now.program else first_process(store, now)
            if isinstance(error, SystemFailure) and not alive:
                raise not_running(now) from None  # it is about to start, or to end
            raise
    note_event(store.paths.root, now, "pause")


def unpause(store: Store, container: Container) -> None:
    """Let the container go on. Raises Conflict (it is not paused), SystemFailure."""
    if not resume(store, container):
        raise Conflict(f"the container {container.name} is not paused", hint="see `lamina ps -a`")


def resume(store: Store, container: Container) -> bool:
    """Let the container go on if it is paused: the signals that were sent to it arrive only then. Returns whether it
    was paused. Raises NotFound, SystemFailure."""
    with store.containers.changing(container.id) as now:
        if not (now.paused and store.containers.is_running(now)):
            return False
        sandbox = sandbox_of(store, now)
        try:
            sandbox.resume()
        except SystemFailure:
            if sandbox.is_paused:  # else it has ended meanwhile, or a killed lamina has not frozen it
                raise
        store.containers.write(replace(now, paused=False), lasting=False)
    note_event(store.paths.root, now, "unpause")
    return True
