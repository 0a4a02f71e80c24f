"""What the explorer shows of each node of a tree besides its entry, computed once for the whole tree (pure)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import lru_cache

from lamina.layer.entry import Kind
from lamina.union.tree import UNSTATED, Tree

_FILE = int(Kind.FILE)


class TreeFacts:
    """For each node: bytes and files at or below it, the layers of what is there, and how much is hidden there.

    Sizes are counted as ``insight.du`` counts them from the root: a file with several hard links counts at the first
    name of the walk.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        count = len(tree.names)
        self.sizes = array("Q", bytes(8 * count))
        self.files = array("I", bytes(4 * count))
        self.older = array("I", bytes(4 * count))
        """Hidden nodes whose path is that of the node or below it."""
        self.gone: dict[int, list[int]] = {}
        """Hidden nodes by their parent."""
        self._sets: list[int] = [0]  # distinct sets of layers, as bits
        self._numbers: dict[int, int] = {0: 0}
        self._unions: dict[int, int] = {}  # two numbers of sets -> the number of their union
        self._visible = array("I", bytes(4 * count))  # numbers of sets
        self._hidden = array("I", bytes(4 * count))
        self._count_visible()
        self._count_hidden()
        self.sorted = lru_cache(maxsize=64)(self._sorted)
        """The entries of a directory in order, with hidden ones if wanted; ``layer`` from 0."""

    def layers(self, node: int, *, hidden: bool = False) -> int:
        """Return as bits the layers (from 0) that state something at or below the node; with ``hidden`` also those
        that state or hide something hidden there."""
        bits = self._sets[self._visible[node]]
        return bits | self._sets[self._hidden[node]] if hidden else bits

    def numbers(self, node: int, *, hidden: bool = False) -> list[int]:
        """The same as numbers (from 0)."""
        return _numbers(self.layers(node, hidden=hidden))

    def hidden_children(self, node: int) -> list[int]:
        return self.gone.get(node, [])

    def _count_visible(self) -> None:
        tree, add, column = self.tree, self._add, self._visible
        firsts = _first_names(tree)
        ended, kids, parents, rows, origins = tree.endings_of, tree.kids, tree.parents, tree.rows, tree.origin_layers
        kinds, lengths = [index.kind for index in tree.layers], [index.size for index in tree.layers]
        own = [self._number(1 << layer) for layer in range(len(tree.layers))]
        sizes, files = self.sizes, self.files
        for node in range(len(rows) - 1, -1, -1):
            if ended[node]:
                continue
            row = rows[node]
            if row != UNSTATED:
                add(column, node, own[origins[node]])
            if kids[node] is None and firsts.get(node, True):
                layer, row = tree.content(node) if node in firsts else (origins[node], row)
                if kinds[layer][row] == _FILE:
                    sizes[node] = lengths[layer][row]
                    files[node] = 1
            if node:
                parent = parents[node]
                sizes[parent] += sizes[node]
                files[parent] += files[node]
                if column[parent] != column[node]:
                    add(column, parent, column[node])

    def _count_hidden(self) -> None:
        tree = self.tree
        ended, parents = tree.endings_of, tree.parents
        twins: dict[int, int | None] = {}  # hidden node -> the visible node at its path
        anchors: dict[int, int] = {}  # hidden node -> the visible node at its path, or the nearest above
        hidden = [node for node, number in enumerate(ended) if number]
        for node in hidden:
            parent = parents[node]
            self.gone.setdefault(parent, []).append(node)
            above = twins[parent] if ended[parent] else parent
            twin = twins[node] = None if above is None else tree.child(above, tree.names[node])
            anchors[node] = twin if twin is not None else anchors[parent] if ended[parent] else parent
        for node in reversed(hidden):
            ending = tree.endings[ended[node] - 1]
            bits = 1 << tree.origin_layers[node] | 1 << ending.layer
            touched = self._number(bits)
            self._add(self._hidden, node, touched)
            self.sizes[node] += self._own_size(node)
            parent = parents[node]
            if ended[parent]:
                self._add(self._hidden, parent, self._hidden[node])
                self.sizes[parent] += self.sizes[node]
            anchor = anchors[node]
            self._add(self._hidden, anchor, touched)
            self.older[anchor] += 1
        for node in range(len(tree.names) - 1, 0, -1):
            if not ended[node] and self.older[node]:
                parent = parents[node]
                self.older[parent] += self.older[node]
                self._add(self._hidden, parent, self._hidden[node])

    def _own_size(self, node: int) -> int:
        tree = self.tree
        if tree.kids[node] is not None or tree.kind(node) != Kind.FILE:
            return 0
        layer, row = tree.content(node)
        return int(tree.layers[layer].size[row])

    def _add(self, column: array[int], node: int, more: int) -> None:
        """Add the layers of set number ``more`` to those of a node."""
        known = column[node]
        if known == more:
            return
        key = known << 32 | more
        number = self._unions.get(key)
        if number is None:
            number = self._unions[key] = self._number(self._sets[known] | self._sets[more])
        column[node] = number

    def _number(self, bits: int) -> int:
        number = self._numbers.get(bits)
        if number is None:
            number = self._numbers[bits] = len(self._sets)
            self._sets.append(bits)
        return number

    def _sorted(self, node: int, by: str, hidden: bool, layer: int | None) -> list[int]:
        tree = self.tree
        found = list(tree.children(node).values()) if not tree.endings_of[node] else []
        if hidden:
            found += self.hidden_children(node)
        if layer is not None:
            bit = 1 << layer
            found = [child for child in found if self.layers(child, hidden=hidden) & bit]
        names, ended = tree.names, tree.endings_of
        if by == "size":
            found.sort(key=lambda child: (-self.sizes[child], names[child], bool(ended[child]), -child))
        else:
            found.sort(key=lambda child: (names[child], bool(ended[child]), -child))
        return found


def _first_names(tree: Tree) -> dict[int, bool]:
    """Return for each visible node with hard links whether a walk comes to it first among them."""
    groups: dict[int, list[int]] = {}
    for link, inode in tree.hardlinks.items():
        if tree.is_alive(link):
            groups.setdefault(inode, []).append(link)
    found: dict[int, bool] = {}
    for inode, links in groups.items():
        if tree.is_alive(inode):
            links.append(inode)
        first = min(links, key=lambda node: tree.path(node).split(b"/"))
        for node in links:
            found[node] = node == first
    return found


def _numbers(bits: int) -> list[int]:
    return list(_each_bit(bits))


def _each_bit(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
