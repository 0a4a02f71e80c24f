"""Whether somebody has stopped a container: then its monitor, or the next boot, does not start it again."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def note_stop(store: Store, container: Container) -> None:
    """Note it, and tell the monitor, if there is one. A store that can't be written (its file system is read-only or
    full) does not keep the container from being stopped: then only the monitor knows."""
    from lamina.run.monitor.client import tell
    from lamina.run.monitor.packets import STOP

    with suppress(OSError):  # also where the container was removed
        os.close(os.open(_path(store, container), _FLAGS, 0o600))
    tell(store.containers.path(container.id), STOP)


def forget_stop(store: Store, container: Container) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_path(store, container))


def is_stopped(store: Store, container: Container) -> bool:
    return os.path.exists(_path(store, container))


def _path(store: Store, container: Container) -> str:
    return store.containers.path(container.id, "stopped")
