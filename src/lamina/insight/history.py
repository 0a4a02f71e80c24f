"""The build steps of an image, each with the layer that it made (pure).

image-spec config.md makes the history optional, and it often does not match the layers. Steps with a layer are
assigned to layers from the bottom, surplus ones are left out, and layers without a step come at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.spec.image_config import History


@dataclass(frozen=True, slots=True)
class Step:
    """A build step. ``layer`` (from 1) is None for a step without a layer; ``recorded`` is False for a layer without
    a step."""

    layer: int | None
    history: History
    recorded: bool = True


def aligned(history: Sequence[History], layers: int, *, low: int = 1, high: int | None = None) -> list[Step]:
    """Return the steps, oldest first. ``layers`` is the number of layers in the image. ``low`` to ``high`` is the
    range of layers; of steps without a layer, those after layer ``low`` - 1 and before layer ``high`` + 1 are
    included."""
    high = layers if high is None else high
    found, number = [], 0
    for step in history:
        if step.empty_layer:
            if low <= number <= high or (low == 1 and number == 0):
                found.append(Step(None, step))
            continue
        if number == layers:
            continue
        number += 1
        if low <= number <= high:
            found.append(Step(number, step))
    for late in range(max(number + 1, low), high + 1):
        found.append(Step(late, History(), recorded=False))
    return found
