"""What can be written to a place."""

from __future__ import annotations

from lamina.light import Value


class Takes(Value):
    """What can be written to a place. ``indexes``: False if it takes only single manifests. ``sparse``: False if an
    index may list only manifests that are there. ``foreign``: False if it does not take layers that may not be
    distributed."""

    indexes: bool = True
    sparse: bool = True
    foreign: bool = True
