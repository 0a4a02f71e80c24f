"""Wait until a container is in a state, or healthy: podman's conditions."""

from __future__ import annotations

import time

from lamina.errors import Conflict, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.container.health import health_of
from lamina.run.health import HEALTHY, UNHEALTHY
from lamina.store.containers import CREATED, EXITED, PAUSED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lamina.store.containers import Container
    from lamina.store.store import Store

_STATES = {
    "configured": (CREATED,),
    "created": (CREATED,),
    "exited": (EXITED,),
    "initialized": (CREATED,),
    "paused": (PAUSED,),
    "removing": (),
    "running": (RUNNING,),
    "stopped": (EXITED,),
    "stopping": (),
}
"""The states that a condition means. A container is never removing or stopping: it exists and runs, or not."""
_ENDS = ("exited", "removing", "stopped", "stopping")
"""Conditions that a container which was removed has fulfilled."""
CONDITIONS = (*_STATES, HEALTHY, UNHEALTHY)
INTERVAL = 0.1  # seconds


def parse_condition(word: str) -> str:
    """Raises UsageError."""
    if word not in CONDITIONS:
        raise UsageError(f"unknown condition {word!r:.60}", hint=f"choose one of {', '.join(sorted(CONDITIONS))}")
    return word


def wait_for(
    store: Store,
    container: Container,
    conditions: Iterable[str],
    interval: float = INTERVAL,
    *,
    on_look: Callable[[], object] = lambda: None,
) -> Container:
    """Wait until one of the conditions (CONDITIONS) holds; the record then. ``interval``: seconds between two looks.
    ``on_look``: called after each; what it raises ends the wait. Raises NotFound (the
    container was removed, and that is none of the conditions), Conflict (it has no health check, or has ended for
    good before its health was as asked), SystemFailure."""
    wanted = tuple(conditions)
    states = {state for word in wanted for state in _STATES.get(word, ())}
    healths = {word for word in wanted if word not in _STATES}
    while True:
        state = store.containers.state(container)
        if state in states or (healths and _is(store, container, healths)):
            return _ended(store, container) if state == EXITED != container.status else container
        if healths == set(wanted):
            _check_comes(store, container)
        on_look()
        time.sleep(interval)
        try:
            container = store.containers.get(container.id)
        except NotFound:
            if set(wanted) & set(_ENDS):
                return container
            raise


def _ended(store: Store, container: Container) -> Container:
    """The record of a container that ended after ``container`` was read: its exit code came since."""
    try:
        return store.containers.get(container.id)
    except NotFound:
        return container


def _is(store: Store, container: Container, healths: set[str]) -> bool:
    health = health_of(store, container)
    return health is not None and health.status in healths and store.containers.is_running(container)


def _check_comes(store: Store, container: Container) -> None:
    """Raises Conflict if the health will never be known."""
    state = store.containers.state(container)
    if state == EXITED:
        raise Conflict(f"the container {container.name} has ended", hint=f"see `lamina logs {container.name}`")
    if state == RUNNING and health_of(store, container) is None:
        raise Conflict(
            f"the container {container.name} has no health check",
            hint="make it with --health-cmd, or wait for running",
        )
