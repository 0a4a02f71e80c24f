"""Wait for the end of a container."""

from __future__ import annotations

import os
import select

from lamina.errors import NotFound
from lamina.host.lock import release, share
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def wait_end(store: Store, container: Container) -> Container:
    """Wait until the container does not run; its record then. It may have been removed by then: the record is the
    last one that was seen. Raises SystemFailure."""
    while True:
        if store.containers.is_supervised(container):
            _wait_for_lock(store, container)
        elif container.is_program_alive:
            _wait_for_process(container.program)
        else:
            return container
        try:
            container = store.containers.get(container.id)
        except NotFound:
            return container


def _wait_for_lock(store: Store, container: Container) -> None:
    path = store.containers.path(container.id, "lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
