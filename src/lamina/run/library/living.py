"""The jobs of a library's process for containers that live on by themselves: start, end, signal, pause, rename them.

Each function runs in a process of its own (``helper``), as those of ``jobs``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.errors import NotFound
from lamina.light import Value
from lamina.spec.descriptor import Descriptor
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.run.library.jobs import StoreLocation
    from lamina.run.library.message import Caller
    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


class StartRequest(Value):
    """A container to start, of the image with the manifest ``image``; messages call it ``name``."""

    image: Descriptor
    name: str
    wanted: ContainerOptions
    runtime: str = ""
    upper_dir: str = ""


def start(say: Caller, location: StoreLocation, request: StartRequest) -> tuple[str, tuple[str, ...]]:
    """Make a container and start it: its ID, and warnings. If it can't be started, it is removed. Raises
    ContainerFailure, and as ``run.container.life.create``."""
    from lamina.run.container.background import start as start_behind
    from lamina.run.container.ending import remove
    from lamina.run.container.life import check, create, resolved
    from lamina.run.container.user_namespace import enter_for

    store = location.open()
    wanted = resolved(store, request.wanted)
    check(wanted, runtime=request.runtime)
    stack = store.stack_at(request.image, Platform.host(), request.name)
    warnings: list[str] = []
    enter_for(store, wanted, on_warning=warnings.append)
    made = create(
        store,
        stack,
        wanted,
        running=True,
        runtime=request.runtime,
        upper_dir=request.upper_dir,
        on_warning=warnings.append,
    )
    try:
        start_behind(store, stack, made, runtime=request.runtime, on_warning=warnings.append)
    except BaseException:
        with suppress(NotFound):  # with ``remove`` it has gone already
            remove(store, store.containers.get(made.id), force=True)
        raise
    return made.id, tuple(warnings)


def start_again(say: Caller, location: StoreLocation, identity: str, runtime: str) -> tuple[str, ...]:
    """Start a container that has ended, or was only created; warnings. Raises Conflict (it runs), ContainerFailure,
    NotFound."""
    from lamina.run.container.background import start as start_behind
    from lamina.run.container.record import stack_of, wanted_of
    from lamina.run.container.user_namespace import enter_for

    store, one = _found(location, identity)
    warnings: list[str] = []
    enter_for(store, wanted_of(one), on_warning=warnings.append)
    start_behind(store, stack_of(store, one), one, runtime=runtime, on_warning=warnings.append)
    return tuple(warnings)


def end(say: Caller, location: StoreLocation, identity: str, signal: str | None, seconds: float | None) -> None:
    """As ``run.container.ending.end``."""
    from lamina.run.container.ending import end as end_container
    from lamina.run.signals import parse_signal

    number = None if signal is None else str(parse_signal(signal))
    end_container(*_found(location, identity), number, seconds=seconds)


def send_signal(say: Caller, location: StoreLocation, identity: str, signal: str) -> None:
    """Raises Conflict (it does not run), UsageError (an unknown signal), NotFound."""
    from lamina.run.container.ending import signal_container

    signal_container(*_found(location, identity), signal)


def pause(say: Caller, location: StoreLocation, identity: str) -> None:
    from lamina.run.container.pause import pause as freeze

    freeze(*_found(location, identity))


def unpause(say: Caller, location: StoreLocation, identity: str) -> None:
    from lamina.run.container.pause import unpause as release

    release(*_found(location, identity))


def remove(say: Caller, location: StoreLocation, identity: str, force: bool, volumes: bool) -> None:
    """Remove the container, if it still exists. ``volumes``: and its anonymous volumes. Raises Conflict (it runs)."""
    from lamina.run.container.ending import remove as removed
    from lamina.run.container.user_namespace import enter

    store = location.open()
    enter()
    with suppress(NotFound):
        removed(store, store.containers.get(identity, damaged=True), force=force, volumes=volumes)


def _found(location: StoreLocation, identity: str) -> tuple[Store, Container]:
    store = location.open()
    return store, store.containers.get(identity)
