"""Whether somebody has stopped a container: then its monitor, or the next boot, does not start it again."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.host.files import reported
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def note_stop(store: Store, container: Container) -> None:
    """Note it, and tell the monitor, if there is one. Raises SystemFailure."""
    from lamina.run.monitor.client import wake

    path = _path(store, container)
    with suppress(FileNotFoundError), reported(path):  # else the container was removed
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        wake(store.containers.path(container.id))


def forget_stop(store: Store, container: Container) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_path(store, container))


def is_stopped(store: Store, container: Container) -> bool:
    return os.path.exists(_path(store, container))


def _path(store: Store, container: Container) -> str:
    return store.containers.path(container.id, "stopped")
