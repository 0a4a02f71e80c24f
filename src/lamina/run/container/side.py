"""A container as one side of a comparison: its image, and its changes as one more layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from lamina.insight.side import Side
from lamina.run.container.commit import container_items, use_of_ended
from lamina.run.container.record import stack_of
from lamina.scan.directory import OnWarning
from lamina.scan.host_layer import ScannedLayer

if TYPE_CHECKING:
    from lamina.source.protocols import LayerHandle
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store


def container_side(store: Store, container: Container, *, on_warning: OnWarning = lambda text: None) -> Side:
    """Raises BlobNotFound (its image was deleted), Conflict (a machine that runs), SystemFailure."""
    stack = stack_of(store, container)
    return Side(
        container.name,
        [*stack.layers, _changes(store, stack, container, on_warning)],
        kind="container",
        config=stack.config,
        digest=stack.manifest.descriptor.digest,
    )


def changed_stack(store: Store, container: Container, *, on_warning: OnWarning = lambda text: None) -> Stack:
    """The container's image with its changes as one more layer, to read files from. Raises as ``container_side``."""
    stack = stack_of(store, container)
    changes = cast("LayerHandle", _changes(store, stack, container, on_warning))  # it has all that reading needs
    return replace(
        stack, layers=(*stack.layers, changes), open_union=None, stored_union=None, reopened_by=None, _cache={}
    )


def _changes(store: Store, stack: Stack, container: Container, on_warning: OnWarning) -> ScannedLayer:
    use = use_of_ended(store, container)  # kept as long as the layer is read
    items = container_items(store, stack, container, on_warning)
    return ScannedLayer(items, store.containers.path(container.id), keep=use)
