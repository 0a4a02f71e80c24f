"""A container as one side of a comparison: its image, and its changes as one more layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.errors import Unsupported
from lamina.insight.side import Side
from lamina.run.container.commit import container_items
from lamina.run.container.record import stack_of
from lamina.run.runtime import MACHINE
from lamina.scan.directory import OnWarning
from lamina.scan.host_layer import ScannedLayer

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


def container_side(store: Store, container: Container, *, on_warning: OnWarning = lambda text: None) -> Side:
    """Raises BlobNotFound (its image was deleted), Unsupported (a machine), SystemFailure."""
    if container.runtime == MACHINE:
        raise Unsupported(
            f"the machine {container.name} can't be compared",
            hint=f"commit it first with `lamina commit {container.name}`",
        )
    stack = stack_of(store, container)
    use = store.containers.using(container, shared=True)  # kept as long as the side is read
    items = container_items(store, stack, container, on_warning)
    upper = ScannedLayer(items, store.containers.path(container.id), keep=use)
    return Side(
        container.name,
        [*stack.layers, upper],
        kind="container",
        config=stack.config,
        digest=stack.manifest.descriptor.digest,
    )
