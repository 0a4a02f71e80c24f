"""Sizes of directories, by layer (pure).

Sizes are bytes of content. A file with several hard links counts once, at the first name in the walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lamina.errors import PathNotFound
from lamina.insight.ghosts import hidden_sizes
from lamina.layer.entry import Kind
from lamina.union.tree import Tree

_LAST = b"\xff" * 256  # sorts after every name: directories come after their content


@dataclass
class Weight:
    """The size of a path. ``sizes`` maps layers (from 0) to bytes; ``files`` is the number of files."""

    path: bytes
    is_directory: bool
    sizes: dict[int, int] = field(default_factory=dict)
    files: int = 0

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


def weigh(
    tree: Tree, path: bytes = b"", *, depth: int | None = 1, files: bool = False, hidden: bool = False
) -> list[Weight]:
    """Return the sizes of ``path`` and of paths at most ``depth`` levels below (None: all), directories after their
    content. ``files``: also list files. ``hidden``: count what the union hides where it was, so that the sum is the
    content of all layers. Raises PathNotFound."""
    top, start = _top(tree, path, hidden)
    found: dict[bytes, Weight] = {}
    if start is not None:
        for node in tree.walk(start):
            is_directory = tree.is_directory(node)
            at = _below(tree, node, start)
            if (is_directory or files or not at) and (depth is None or _level(at) <= depth):
                found[at] = Weight(_joined(top, at), is_directory)
    for at, layer, size in _contents(tree, top, start, hidden):
        parts = at.split(b"/") if at else []
        deepest = len(parts) if depth is None else min(len(parts), depth)
        for level in range(deepest + 1):
            inner = b"/".join(parts[:level])
            weight = found.get(inner)
            if weight is None:
                if level == len(parts) and not files and inner:
                    continue
                weight = found[inner] = Weight(_joined(top, inner), level < len(parts))
            weight.sizes[layer] = weight.sizes.get(layer, 0) + size
            weight.files += 1
    return [found[at] for at in sorted(found, key=lambda at: [*at.split(b"/"), _LAST] if at else [_LAST])]


def _top(tree: Tree, path: bytes, hidden: bool) -> tuple[bytes, int | None]:
    """Return the path with symlinks followed, and its node; None for a hidden path."""
    try:
        node = tree.lookup(path, follow=True)
    except PathNotFound:
        inside = path + b"/"
        if hidden and any(
            ended and (tree.path(node) + b"/").startswith(inside) for node, ended in enumerate(tree.endings_of)
        ):
            return path, None
        raise
    return tree.path(node), node


def _contents(tree: Tree, top: bytes, start: int | None, hidden: bool) -> Iterator[tuple[bytes, int, int]]:
    """Yield (path below ``top``, layer, bytes) of each file."""
    counted: set[int] = set()
    if start is not None:
        for node in tree.walk(start):
            inode = tree.inode(node)
            if tree.kids[node] is None and inode not in counted and tree.kind(node) == Kind.FILE:
                counted.add(inode)
                layer, row = tree.content(node)
                yield _below(tree, node, start), layer, tree.layers[layer].size[row]
    if not hidden:
        return
    inside = top + b"/" if top else b""
    for node, size in hidden_sizes(tree).items():
        path = tree.path(node)
        if path == top or path.startswith(inside):
            yield path[len(inside) :] if path != top else b"", tree.content(node)[0], size


def _below(tree: Tree, node: int, top: int) -> bytes:
    parts = []
    while node != top:
        parts.append(tree.names[node])
        node = tree.parents[node]
    return b"/".join(reversed(parts))


def _joined(top: bytes, at: bytes) -> bytes:
    return top + b"/" + at if top and at else top or at


def _level(at: bytes) -> int:
    return at.count(b"/") + 1 if at else 0
