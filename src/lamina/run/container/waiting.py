"""Wait for the end of a container."""

from __future__ import annotations

import os
import select
from contextlib import suppress

from lamina.errors import Conflict, NotFound, StoreDamaged, SystemFailure
from lamina.host.lock import LOOK, release, share
from lamina.light import TYPE_CHECKING, replace
from lamina.run.monitor import client

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def wait_end(store: Store, container: Container) -> Container:
    """Wait until the container's program ends; the record then. If the container was removed by then, it is the last
    record that was seen, with the exit code. A program that its monitor starts again has ended too, as with docker.
    Raises SystemFailure."""
    while True:
        if store.containers.is_supervised(container):
            code = _code_from_monitor(store, container)
            if code is not None:
                container = container.ended(code)
                with suppress(NotFound, StoreDamaged):
                    container = replace(store.containers.get(container.id), exit_code=code)
                return container
            _wait_for_lock(store, container)
        elif container.is_program_alive:
            _wait_for_process(container.program)
        else:
            return container
        try:
            container = store.containers.get(container.id)
        except NotFound:
            return container


def _code_from_monitor(store: Store, container: Container) -> int | None:
    """Wait for the monitor to tell the exit code, and to go; None if there is no monitor, or it was killed."""
    try:
        connection = client.connect(store.containers.path(container.id), container.name)
    except (Conflict, SystemFailure):
        return None
    return client.exit_code_from(connection)


def _wait_for_lock(store: Store, container: Container) -> None:
    path = store.containers.path(container.id, "lock")
    try:
        descriptor = os.open(path, LOOK)
    except FileNotFoundError:
        return
    try:
        share(descriptor)
        release(descriptor, path)
    finally:
        os.close(descriptor)


def _wait_for_process(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    finally:
        os.close(descriptor)
