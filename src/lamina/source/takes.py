"""What fits into a place that images are written to."""

from __future__ import annotations

from lamina.light import Value


class Takes(Value):
    """What fits into a place. ``indexes`` is False where only single manifests fit in; ``sparse`` is False where an
    index may list only what is there; ``foreign`` is False where layers that may not be distributed don't go."""

    indexes: bool = True
    sparse: bool = True
    foreign: bool = True
