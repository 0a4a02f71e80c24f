"""A container's whole file system as one tar: its image, and what it changed upon it. Volumes are not part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.edit.export import export
from lamina.layer.tar_write import Write
from lamina.run.container.commit import container_items
from lamina.scan.directory import OnWarning
from lamina.source.stack import Stack
from lamina.store.containers import Container

if TYPE_CHECKING:
    from lamina.store.store import Store


def export_container(
    store: Store, stack: Stack, container: Container, write: Write, *, on_warning: OnWarning = lambda text: None
) -> int:
    """As ``edit.export``; ``stack`` is the container's image. Raises SystemFailure, UsageError (it changed)."""
    with store.containers.using(container, shared=True):
        return export(stack, write, container_items(store, stack, container, on_warning))
