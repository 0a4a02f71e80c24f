"""The health of a container of the store: what is checked, and what is known of it."""

from __future__ import annotations

from lamina.errors import Conflict
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.container.events import note_event
from lamina.run.container.record import sandbox_of, stack_of, wanted_of
from lamina.run.container.running import check_inside, check_running
from lamina.run.health import UNHEALTHY, Check, Health, merged, ready
from lamina.run.health_file import record, stored_health
from lamina.store.containers import RUNNING

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.health import Result
    from lamina.run.options import ContainerOptions
    from lamina.source.stack import Stack
    from lamina.spec.image_config import ImageConfig
    from lamina.store.containers import Container
    from lamina.store.store import Store


def health_of(store: Store, container: Container) -> Health | None:
    """What is known of its health; None: it is not checked, or was never started. As in docker, a container that is
    checked by nobody at the moment (it ended, it is paused, its monitor was killed) counts as unhealthy."""
    found = stored_health(store.containers.path(container.id))
    if found is None:
        return None
    checked = store.containers.state(container) == RUNNING and store.containers.is_supervised(container)
    return found if checked else replace(found, status=UNHEALTHY)


def status_text(health: Health | None) -> str:
    """How `ps` shows it after the status: ``(healthy)``, ``(health: starting)``; "" if there is none (pure)."""
    if health is None:
        return ""
    return f"({'health: ' if health.status == 'starting' else ''}{health.status})"


def healthcheck_of(config: ImageConfig | None, wanted: ContainerOptions) -> dict[str, Any] | None:
    """Config.Healthcheck in docker's form, from the image and the options (pure)."""
    run = (config.json.get("config") if config else None) or {}
    return merged(wanted.health, run.get("Healthcheck"))


def check_for(stack: Stack, wanted: ContainerOptions) -> Check | None:
    """The check of a container of this image; None if it has none (pure)."""
    run = stack.config.json.get("config") or {}
    return ready(healthcheck_of(stack.config, wanted), run.get("Shell"), wanted.health.on_failure)


def check_now(store: Store, container: Container) -> tuple[Result, Health]:
    """Run the health check; its result, and the health after it. Raises Conflict (the container does not run, is
    paused, or has no health check), SystemFailure, Unsupported."""
    from lamina.run.further import Place
    from lamina.run.monitor.health_check import result_of

    check_running(store, container)
    check_inside(container, "healthcheck")
    if container.paused:
        raise Conflict(
            f"the container {container.name} is paused", hint=f"run `lamina unpause {container.name}` first"
        )
    check = check_for(stack_of(store, container), wanted_of(container))
    if check is None:
        raise Conflict(f"the container {container.name} has no health check", hint="make it with --health-cmd")
    directory, sandbox = store.containers.path(container.id), sandbox_of(store, container)
    with reported(directory):
        result = result_of(Place(directory, sandbox.directories.states, container.id, sandbox.runtime), check)
        age = result.start / 1e9 - (container.since or container.created)
        before, health = record(directory, result, check, age)
    if health.status != before.status:
        note_event(store.paths.root, container, f"health_status: {health.status}")
    return result, health
