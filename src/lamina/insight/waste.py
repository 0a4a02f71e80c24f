"""Finds wasted bytes in an image: copies, files rewritten unchanged, hidden files, caches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from lamina.insight.change import differences
from lamina.insight.compare_content import SideContents
from lamina.insight.ghosts import hidden_sizes
from lamina.insight.side import Side
from lamina.layer.entry import Kind
from lamina.source.stack import Stack
from lamina.union.tree import HiddenBy, Tree

_CACHES = (
    ("apt lists", rb"^var/lib/apt/lists/(?!partial$|lock$)"),
    ("apt archives", rb"^var/cache/apt/"),
    ("apk", rb"^(?:var/cache/apk|etc/apk/cache)/"),
    ("yum and dnf", rb"^var/cache/(?:yum|dnf|libdnf5)/"),
    ("zypper", rb"^var/cache/zypp/"),
    ("pacman", rb"^var/cache/pacman/"),
    ("pip", rb"(?:^|/)\.cache/pip/"),
    ("uv", rb"(?:^|/)\.cache/uv/"),
    ("npm", rb"(?:^|/)\.npm/(?:_cacache|_logs|_npx)/"),
    ("yarn", rb"(?:^|/)\.cache/yarn/"),
    ("go", rb"(?:^|/)(?:\.cache/go-build|pkg/mod/cache)/"),
    ("cargo", rb"(?:^|/)\.?cargo/registry/(?:cache|src|index)/"),
    ("composer", rb"(?:^|/)\.(?:composer|cache/composer)/"),
    ("gem", rb"(?:^|/)cache/[^/]+\.gem$"),
    ("maven and gradle", rb"(?:^|/)(?:\.m2/repository|\.gradle/caches)/"),
    ("temporary files", rb"^(?:var/)?tmp/"),
)
_PYCACHE = ("python bytecode", rb"(?:^|/)__pycache__/")


@dataclass(frozen=True, slots=True)
class Copies:
    """Several visible files with the same content; ``size`` is that of one. Hard links count as one file."""

    size: int
    paths: tuple[bytes, ...]

    @property
    def wasted(self) -> int:
        return self.size * (len(self.paths) - 1)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """``layer`` (from 1) contains a file again that layer ``below`` has with the same content. ``changed`` lists
    attributes that differ, for which the content had to be stored again."""

    path: bytes
    size: int
    layer: int
    below: int
    changed: tuple[str, ...]


@dataclass
class Cache:
    """Visible files that a package manager can fetch or create again. ``layers`` (from 1) contain them."""

    name: str
    files: int = 0
    size: int = 0
    layers: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Waste:
    """Wasted bytes of content before compression. The kinds overlap: a rewritten file also counts as hidden, and a
    cache may contain copies. ``content`` is the total of all layers. ``hidden`` maps each layer (from 1) to the bytes
    that it hides of lower layers or of itself."""

    efficiency: float
    content: int
    hidden: dict[int, int]
    copies: tuple[Copies, ...]
    rewrites: tuple[Rewrite, ...]
    caches: tuple[Cache, ...]


def find_waste(stack: Stack, *, smallest: int = 1, pycache: bool = False) -> Waste:
    """Find waste, the largest first. ``smallest``: files with fewer bytes are not compared. ``pycache``: Python's
    bytecode counts as a cache. Raises InvalidContent, SystemFailure."""
    side = Side.of(stack)
    contents = SideContents(side, side)
    hidden: dict[int, int] = {}
    for node, size in hidden_sizes(side.tree).items():
        ending = side.tree.ending(node)
        assert ending is not None
        number = stack.first + ending.layer
        hidden[number] = hidden.get(number, 0) + size
    return Waste(
        efficiency(side.tree),
        sum(index.content_size for index in side.tree.layers),
        dict(sorted(hidden.items())),
        tuple(sorted(_copies(side, contents, smallest), key=lambda one: (-one.wasted, one.paths))),
        tuple(sorted(_rewrites(stack, contents, smallest), key=lambda one: (-one.size, one.path))),
        tuple(sorted(_caches(stack, pycache), key=lambda one: -one.size)),
    )


def efficiency(tree: Tree) -> float:
    """Return dive's score: the sum over all paths of the smallest size that a path had, divided by the sum of all its
    sizes. 1.0 means that no layer hides a byte; a removed path has the smallest size 0. Unlike dive, everything in a
    removed directory counts as removed, an opaque mark removes too, and a file that a hard link keeps visible is not
    lost."""
    gone = hidden_sizes(tree)
    every = sum(index.content_size for index in tree.layers)
    least = every - sum(gone.values())  # the smallest sizes of visible files; each path had at least this
    paths: dict[bytes, list[int]] = {}
    for node in gone:
        paths.setdefault(tree.path(node), []).append(node)
    for path, nodes in paths.items():
        now = tree.find(path)
        if now is None or tree.kids[now] is not None or now in tree.hardlinks or tree.kind(now) != Kind.FILE:
            continue  # its smallest size is 0, and nothing of it was counted
        layer, row = tree.content(now)
        size = tree.layers[layer].size[row]
        was = min(gone[node] if _is_replaced(tree, node) else 0 for node in nodes)
        least -= max(0, size - was)
    return least / every if every else 1.0


def _is_replaced(tree: Tree, node: int) -> bool:
    """Whether another entry of the same path hid it."""
    ending = tree.ending(node)
    return ending is not None and ending.how == HiddenBy.REPLACED and ending.node == node


def _files(tree: Tree) -> Iterator[tuple[int, int, int]]:
    """Yield (layer, row, node) of every visible file; of hard links, the node of one visible name."""
    seen: set[int] = set()
    for node in tree.walk():
        inode = tree.inode(node)
        if tree.kids[node] is None and inode not in seen and tree.kind(node) == Kind.FILE:
            seen.add(inode)
            layer, row = tree.content(node)
            yield layer, row, node


def _copies(side: Side, contents: SideContents, smallest: int) -> Iterator[Copies]:
    tree = side.tree
    by_size: dict[int, list[tuple[int, int, int]]] = {}
    for layer, row, node in _files(tree):
        index = tree.layers[layer]
        if index.size[row] >= smallest:
            by_size.setdefault(index.size[row], []).append((layer, index.offset[row], node))
    unsure = sorted(place for places in by_size.values() if len(places) > 1 for place in places)
    by_content: dict[tuple[int, bytes], list[int]] = {}
    for layer, _, node in unsure:
        size = tree.layers[layer].size[tree.content(node)[1]]
        by_content.setdefault((size, contents.digest(node, after=False)), []).append(node)
    for (size, _), nodes in by_content.items():
        if size and len(nodes) > 1:
            yield Copies(size, tuple(sorted(tree.path(node) for node in nodes)))


def _rewrites(stack: Stack, contents: SideContents, smallest: int) -> Iterator[Rewrite]:
    tree = stack.tree()
    states: dict[bytes, list[int]] = {}
    for node, ended in enumerate(tree.endings_of):
        if ended and tree.kids[node] is None and tree.kind(node) == Kind.FILE:
            states.setdefault(tree.path(node), []).append(node)
    pairs = []
    for path, nodes in states.items():
        now = tree.find(path)
        if now is not None and tree.kids[now] is None and tree.kind(now) == Kind.FILE:
            nodes.append(now)
        for below, above in pairwise(nodes):
            layer, row = tree.content(above)
            other, other_row = tree.content(below)
            size = tree.layers[layer].size[row]
            if above not in tree.hardlinks and size >= smallest and size == tree.layers[other].size[other_row] > 0:
                pairs.append((layer, tree.layers[layer].offset[row], above, below, path))
    for layer, _, above, below, path in sorted(pairs):
        if contents.same(below, above):
            changed = differences(tree.entry(below), tree.entry(above))
            bottom = stack.first + tree.content(below)[0]
            yield Rewrite(path, tree.entry(above).size, stack.first + layer, bottom, tuple(changed))


def _caches(stack: Stack, pycache: bool) -> list[Cache]:
    tree = stack.tree()
    found: dict[str, Cache] = {}
    patterns = [(name, re.compile(text)) for name, text in (*_CACHES, *([_PYCACHE] if pycache else []))]
    for layer, row, node in _files(tree):
        path = tree.path(node)
        name = next((name for name, pattern in patterns if pattern.search(path)), None)
        if name is not None and tree.layers[layer].size[row]:
            cache = found.setdefault(name, Cache(name))
            cache.files += 1
            cache.size += tree.layers[layer].size[row]
            cache.layers.add(stack.first + layer)
    return list(found.values())
