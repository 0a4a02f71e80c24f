"""A new name for a container, which may be running: in its record, and on its networks."""

from __future__ import annotations

import os

from lamina.light import TYPE_CHECKING
from lamina.run.container.events import note_event
from lamina.run.networks.state import state_path
from lamina.run.options import parse_name

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def rename(store: Store, container: Container, name: str) -> Container:
    """Returns the new record. Raises Conflict (the name is taken), UsageError (it is not a name), NotFound,
    SystemFailure (other containers still know the old name)."""
    renamed = store.containers.rename(container, parse_name(name.removeprefix("/")))  # docker writes a slash
    note_event(store.paths.root, renamed, "rename", oldName=f"/{container.name}")
    if os.path.exists(state_path(store.containers.path(container.id))):
        from lamina.run.networks.connection import tell_name

        tell_name(store, renamed)
    return renamed
