"""Merges several layers into one. Layers below stay shared by digest; layers above are unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lamina.edit.publish import (
    Layer,
    Packing,
    docker_format,
    made_layer,
    own_config,
    publish,
    require_bottom,
    timestamp,
    without_base,
)
from lamina.errors import UsageError
from lamina.layer.file_content import FileContents
from lamina.layer.tar_write import Item
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History, ImageConfig
from lamina.union.squashed import SquashedEntry, squashed

if TYPE_CHECKING:
    from lamina.source.protocols import Writer

Steps = list[dict[str, Any]]


def squash(
    base: Stack,
    low: int,
    high: int,
    target: Writer,
    name: str,
    *,
    created_by: str,
    comment: str = "",
    packing: Packing = Packing(),  # noqa: B008  (frozen)
) -> Descriptor:
    """Merge the layers ``low`` to ``high`` (from 1 at the bottom) into one; the union stays the same. The new image
    is named ``name`` at ``target``, which must have the other layers. Times of files are kept, whatever the epoch.

    Raises UsageError (invalid range, or without the lowest layer), InvalidLayer, BlobNotFound, SystemFailure.
    """
    require_bottom(base)
    count = len(base.layers)
    if not 1 <= low <= high <= count:
        raise UsageError(
            f"{base.name} has layers 1 to {count}, not {low} to {high}",
            hint="see `lamina layers`: layers are counted from 1 at the bottom",
        )
    return _squash(base, low, high, target, name, created_by, comment, packing)


def flatten(
    base: Stack,
    target: Writer,
    name: str,
    *,
    created_by: str,
    comment: str = "",
    packing: Packing = Packing(),  # noqa: B008
) -> Descriptor:
    """Merge all layers into one, as ``squash`` does; an image without layers gets one as well."""
    require_bottom(base)
    return _squash(base, 1, len(base.layers), target, name, created_by, comment, packing)


def _squash(
    base: Stack, low: int, high: int, target: Writer, name: str, created_by: str, comment: str, packing: Packing
) -> Descriptor:
    top = len(base.layers)
    stated = squashed([handle.index() for handle in base.layers[:high]], low - 1, implied=high == top)
    config, created = own_config(base), timestamp(packing.epoch)
    docker = docker_format([base], packing)
    with made_layer(items_of(base, stated), packing, docker=docker, ordered=low == 1) as made:
        layers: list[Layer] = [handle.descriptor for handle in base.layers]
        layers[low - 1 : high] = [made]
        diff_ids = list(config.diff_ids)
        diff_ids[low - 1 : high] = [made.diff_id]
        step = History(created=created, created_by=created_by, comment=comment)
        history = joined_steps(config.aligned_history(), low, high, step)
        new: ImageConfig = config.with_layers(diff_ids, history).with_(created=created)
        return publish(
            target,
            name,
            layers,
            new,
            docker=docker,
            purpose="squash",
            annotations=without_base(base.manifest.annotations),
        )


def items_of(stack: Stack, stated: Iterable[SquashedEntry]) -> Iterator[Item]:
    """Return items whose content is opened from its layer when it is written."""
    layers = [FileContents(handle.index(), handle.open) for handle in stack.layers]
    return (
        (one.entry, None if one.content is None else partial(layers[one.content[0]].open, one.content[1]))
        for one in stated
    )


def joined_steps(steps: Sequence[Mapping[str, Any]], low: int, high: int, step: History) -> Steps:
    """Return the history with the steps of layers ``low`` to ``high`` merged into one, in the place of the last of
    them; steps between them without a layer come before it."""
    found: Steps = []
    made, placed = 0, False
    for old in steps:
        empty = bool(old.get("empty_layer"))
        made += not empty
        if empty or not low <= made <= high:
            found.append(dict(old))
        elif made == high:
            found.append(step.to_json())
            placed = True
    if not placed:
        found.append(step.to_json())
    return found
