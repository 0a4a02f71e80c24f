"""Shell patterns over the union, matched component by component as pathlib does (pure): ``*``, ``?``, ``[...]``
within a name, ``**`` for any number of directories. `find` matches whole paths instead (``layer.name_search``)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence

from lamina.errors import PathNotFound
from lamina.union.tree import Union

ANYWHERE = b"**"
_MAGIC = re.compile(rb"[*?\[]")


def glob(union: Union, start: int, parts: Sequence[bytes]) -> list[bytes]:
    """Return the paths below the node ``start`` that match, relative to it, sorted by component, each once.

    Symlinks to directories are followed inside the image, but not by ``**``, which might never end. ``..`` is kept in
    the path and never leads above the root.
    """
    found: dict[tuple[bytes, ...], int] = {(): start}
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        onward: dict[tuple[bytes, ...], int] = {}
        for at, node in found.items():
            directory = _directory(union, node)
            if directory is None:
                continue
            if part == ANYWHERE:
                onward |= _below(union, directory, at, files=last)
            else:
                onward |= {(*at, name): child for name, child in _fitting(union, directory, part)}
        found = onward
    return [b"/".join(at) for at in sorted(found)]


def _fitting(union: Union, node: int, part: bytes) -> Iterator[tuple[bytes, int]]:
    if part == b"..":
        yield part, union.parent(node)
    elif not _MAGIC.search(part):
        child = union.child(node, part)
        if child is not None:
            yield part, child
    else:
        # as text, so that `?` matches a character, not a byte
        fits = re.compile(fnmatch.translate(_text(part))).match
        for name, child in union.children(node).items():
            if fits(_text(name)):
                yield name, child


def _below(union: Union, node: int, at: tuple[bytes, ...], *, files: bool) -> dict[tuple[bytes, ...], int]:
    """Return the directory and all directories below it; with ``files`` everything below it."""
    found, pending = {at: node}, [(at, node)]
    while pending:
        at, node = pending.pop()
        for name, child in union.children(node).items():
            if union.is_directory(child):
                pending.append(((*at, name), child))
                found[*at, name] = child
            elif files:
                found[*at, name] = child
    return found


def _directory(union: Union, node: int) -> int | None:
    if union.is_directory(node):
        return node
    try:
        node = union.lookup(union.path(node), follow=True)
    except PathNotFound:
        return None
    return node if union.is_directory(node) else None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
