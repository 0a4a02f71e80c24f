"""The union as one plain tar: no whiteouts, every directory stated, nothing that is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lamina.layer.build import index_of
from lamina.layer.write import Item, Write, write_layer
from lamina.source import Stack
from lamina.union.squashed import squashed


def export(stack: Stack, write: Write, top: Sequence[Item] = ()) -> int:
    """Give the tar to ``write`` in pieces as it is read; how many entries it has. ``top``: one more layer upon the
    stack. Same stack, same bytes. Raises InvalidLayer, UsageError (``top`` changed meanwhile)."""
    indexes = [handle.index() for handle in stack.layers]
    if top:
        indexes.append(index_of(entry for entry, _ in top))
    items: list[Item] = []
    for one in squashed(indexes, 0, implied=True):
        if one.content is None:
            items.append((one.entry, None))
        elif one.content[0] == len(stack.layers):
            items.append((one.entry, top[one.content[1]][1]))
        else:
            items.append((one.entry, partial(stack.open_content, *one.content)))
    write_layer(items, write)
    return len(items)
