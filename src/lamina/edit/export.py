"""Exports the union as one plain tar: without whiteouts and hidden entries, with every directory stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from lamina.layer.build_layer import index_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.file_content import FileContents
from lamina.layer.tar_write import Item, Write, write_layer
from lamina.source.stack import Stack
from lamina.union.squashed import squashed


def export(stack: Stack, write: Write, top: Sequence[Item] = ()) -> int:
    """Write the tar to ``write`` in pieces; returns the number of entries. ``top`` is one more layer on top of the
    stack. The same stack gives the same bytes. Raises InvalidLayer, UsageError (``top`` changed meanwhile)."""
    return _written(_items(stack, top), write)


def export_all(parts: Sequence[tuple[bytes, Stack]], write: Write) -> int:
    """Write several unions into one tar, each below a directory (b"": none). Returns the number of entries; raises as
    ``export``."""
    return _written((item for under, stack in parts for item in _below(under, _items(stack, ()))), write)


def _written(items: Iterator[Item], write: Write) -> int:
    count = 0

    def counted() -> Iterator[Item]:
        nonlocal count
        for count, item in enumerate(items, 1):  # noqa: B007
            yield item

    write_layer(counted(), write, ordered=True)
    return count


def _items(stack: Stack, top: Sequence[Item]) -> Iterator[Item]:
    indexes = [handle.index() for handle in stack.layers]
    contents = [FileContents(index, handle.open) for index, handle in zip(indexes, stack.layers, strict=True)]
    if top:
        indexes.append(index_of(entry for entry, _ in top))
    for one in squashed(indexes, 0, implied=True):
        if one.content is None:
            yield one.entry, None
        elif one.content[0] == len(stack.layers):
            yield one.entry, top[one.content[1]][1]
        else:
            layer, row = one.content
            yield one.entry, partial(contents[layer].open, row)


def _below(directory: bytes, items: Iterator[Item]) -> Iterator[Item]:
    """Move the entries below ``directory``. Links between them are moved too; symlinks stay as they are."""
    if not directory:
        yield from items
        return
    yield Entry(directory, Kind.DIRECTORY, mode=0o755), None
    for entry, content in items:
        if entry.path:
            link = directory + b"/" + entry.link if entry.kind == Kind.HARDLINK else entry.link
            yield replace(entry, path=directory + b"/" + entry.path, link=link), content
