"""History: an image's build steps, each beside the layer that it made (pure).

image-spec config.md leaves the history optional, and it is often out of step with the layers: steps that claim a
layer are counted off from the bottom, surplus ones are left out, and layers that no step claims come at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.spec.image_config import History


@dataclass(frozen=True, slots=True)
class Step:
    """``layer`` (from 1) is None for a step that made none; ``recorded`` is False for a layer without a step."""

    layer: int | None
    history: History
    recorded: bool = True


def aligned(history: Sequence[History], layers: int, *, low: int = 1, high: int | None = None) -> list[Step]:
    """Oldest first. ``layers``: how many the image has. ``low`` to ``high``: the layers that are asked for; steps
    without a layer are those after the layer ``low`` - 1 and before the layer ``high`` + 1."""
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
