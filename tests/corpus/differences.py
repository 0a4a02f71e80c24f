"""Where builders differ from lamina, and who is right. ``tests/oracles.md`` tells it to readers.

Each line is a pattern of ``re`` for one line of ``builders.differences``: what lamina made, then what the other made.
"""

from __future__ import annotations

BUILDKIT: dict[str, list[str]] = {}
"""By case. A case that is not here must be equal."""
