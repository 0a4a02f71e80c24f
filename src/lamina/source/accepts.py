"""What can be written to a place."""

from __future__ import annotations

from lamina.light import Value


class Accepts(Value):
    """What can be written to a place. ``indexes``: False if it accepts only single manifests. ``sparse``: False if an
    index may list only manifests that are there. ``foreign``: False if it does not accept layers that may not be
    distributed."""

    indexes: bool = True
    sparse: bool = True
    foreign: bool = True
