"""Finds the base of an image in the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.edit.publish import BASE_DIGEST, BASE_NAME
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.source.stack import Stack
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.store.store import Store


def is_base(image: Stack, base: Stack) -> bool:
    """Whether the image's lowest layers are all layers of the base."""
    return image.diff_ids[: len(base.layers)] == base.diff_ids


def find_base(image: Stack, store: Store) -> Stack:
    """Find the base of ``image`` in the store: the image that its annotations name, if ``image`` has its layers; else
    the image with the most layers of which all, and not all of ``image``'s, are common. Raises NotFound."""
    for stack in _annotated(image, store):
        if is_base(image, stack):
            return stack
    best: Stack | None = None
    for name, descriptor in sorted(store.names(), key=lambda pair: (not pair[0], pair[0])):
        try:
            stack = store.stack_at(descriptor, image.config.platform, name or str(descriptor.digest))
        except LaminaError:
            continue  # another platform, an artifact, or damaged: it can't be the base
        if (len(best.layers) if best is not None else 0) < len(stack.layers) < len(image.layers) and is_base(
            image, stack
        ):
            best = stack
    if best is None:
        raise NotFound(
            f"no image of the store is the base of {image.name}",
            hint=f"give --old-base, also as a range of layers: --old-base {image.name}~N",
        )
    return best


def check_base(image: Stack, base: Stack) -> None:
    """Raise UsageError unless ``base`` is the base of the image."""
    if not is_base(image, base):
        raise UsageError(
            f"{base.name} is not the base of {image.name}: their lowest layers differ",
            hint="compare `lamina layers` of both",
        )


def _annotated(image: Stack, store: Store) -> Iterator[Stack]:
    annotations = image.manifest.annotations
    for key in (BASE_DIGEST, BASE_NAME):
        name = annotations.get(key)
        if not name:
            continue
        try:
            if key == BASE_DIGEST:
                Digest.parse(name)
            yield store.stack(name, image.config.platform)
        except LaminaError:
            continue  # not found, or not what the annotation says: the layers decide
