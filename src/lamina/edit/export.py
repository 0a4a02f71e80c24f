"""Exports the union as one plain tar: without whiteouts and hidden entries, with every directory stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from lamina.layer.build import index_of
from lamina.layer.file_content import FileContents
from lamina.layer.tar_write import Item, Write, write_layer
from lamina.source.stack import Stack
from lamina.union.squashed import squashed


def export(stack: Stack, write: Write, top: Sequence[Item] = ()) -> int:
    """Write the tar to ``write`` in pieces; returns the number of entries. ``top`` is one more layer on top of the
    stack. The same stack gives the same bytes. Raises InvalidLayer, UsageError (``top`` changed meanwhile)."""
    indexes = [handle.index() for handle in stack.layers]
    contents = [FileContents(index, handle.open) for index, handle in zip(indexes, stack.layers, strict=True)]
    if top:
        indexes.append(index_of(entry for entry, _ in top))
    count = 0

    def items() -> Iterator[Item]:
        nonlocal count
        for count, one in enumerate(squashed(indexes, 0, implied=True), 1):  # noqa: B007
            if one.content is None:
                yield one.entry, None
            elif one.content[0] == len(stack.layers):
                yield one.entry, top[one.content[1]][1]
            else:
                layer, row = one.content
                yield one.entry, partial(contents[layer].open, row)

    write_layer(items(), write, ordered=True)
    return count
