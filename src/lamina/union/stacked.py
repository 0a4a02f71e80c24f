"""Each layer of a stack as a tree of its own, in the form that overlayfs can stack (pure).

A layer alone is not sufficient: a directory that it only passes through has its attributes from below, a whiteout
must be kept only if it hides something, and a directory that replaces one must be opaque. These come from the merge
of the layers up to it; ``context`` identifies them, so that a layer on the same base needs only one tree.

The kernel ignores an opaque mark on the root of a lower directory. So the stack begins at the topmost layer that has
one (``lowest``): the layers below it contribute only the attributes of their root, which the merge provides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamina.errors import InvalidLayer, Unsupported
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import LayerMerge
from lamina.union.partial import MANY, PartialMerge
from lamina.union.tree import UNSTATED, Ending, HiddenBy, Tree


@dataclass
class Stacked:
    """The tree of one layer (``layer``, from 0). Its nodes may be of Kind.WHITEOUT; ``opaque`` directories hide what
    is below them. ``context`` is a hex digest of everything taken from lower layers."""

    tree: Tree
    layer: int
    opaque: set[int] = field(default_factory=set)
    context: str = ""


def lowest(layers: Sequence[LayerIndex]) -> int:
    """Return the number (from 0) of the lowest layer that is visible: the topmost one with an opaque root."""
    for number in range(len(layers) - 1, 0, -1):
        index = layers[number]
        if any(not index.directory[row] for row in index.rows_of(Kind.OPAQUE)):
            return number
    return 0


def stacked(layers: Sequence[LayerIndex]) -> list[Stacked]:
    """Return one tree for each layer, bottom first, from ``lowest`` on; an overlay of them is the union.

    Raises Unsupported if a layer has a hard link to a file of a lower layer, which an overlay can't express.
    """
    union = Tree(layers)
    found = []
    bottom = lowest(layers)
    for number, index in enumerate(layers):
        before = len(union.endings)
        names = list(index.each_basename()) if number >= bottom else None
        LayerMerge(union, number, index).apply(names)
        if number < bottom:
            continue
        if number == 0:
            own = union.fork(layers) if len(layers) > 1 else union
            found.append(_Layer(union, own, number, []).finish())
            continue
        assert names is not None
        own = _own_tree(layers, number, names)
        found.append(_Layer(union, own, number, [] if number == bottom else union.endings[before:]).finish())
    return found


def stacked_top(layers: Sequence[LayerIndex]) -> Stacked | None:
    """Return the last one of ``stacked(layers)`` without merging the lower layers whole: only what the top layer
    states or hides. None where that is not enough, or not cheaper.

    Raises Unsupported as ``stacked``.
    """
    number = len(layers) - 1
    index = layers[number]
    if number < 1 or len(index.kind) > MANY or lowest(layers) == number:
        return None
    own = _own_tree(layers, number, list(index.each_basename()))
    stated = [own.path(node) for node in own.walk() if own.is_directory(node) and own.rows[node] != UNSTATED]
    opaque, whiteouts = ([index.path(row) for row in index.rows_of(kind)] for kind in (Kind.OPAQUE, Kind.WHITEOUT))
    paths = [*map(own.path, own.walk()), *whiteouts]
    if len(paths) + len(opaque) > MANY:
        return None
    union = PartialMerge().tree(layers, paths, inside={*stated, *opaque})
    layer = _Layer(union, own, number, [ending for ending in union.endings if ending.layer == number])
    return layer.finish() if layer.is_known() else None


def _own_tree(layers: Sequence[LayerIndex], number: int, names: Sequence[bytes]) -> Tree:
    """Return the tree of one layer alone. Raises Unsupported."""
    own = Tree(layers)
    try:
        LayerMerge(own, number, layers[number]).apply(names)
    except InvalidLayer as error:
        raise Unsupported(
            f"layer {number + 1} has a hard link to a file of a lower layer", hint="use --view erofs-merged"
        ) from error
    return own


class _Layer:
    def __init__(self, union: Tree, own: Tree, number: int, endings: Sequence[Ending]) -> None:
        """``endings``: what the layer hid; empty for the lowest layer, which is also shown alone, where overlayfs's
        marks would be visible."""
        self.union = union
        self.own = own
        self.number = number
        self.endings = endings
        self.opaque: set[int] = set()

    def is_known(self) -> bool:
        """Whether a union of only what this layer states or hides is enough: no directory that it states has one that
        no layer states, whose own directories would matter too (``_timed``)."""
        pending = [(0, 0, False)]
        while pending:
            node, there, stated = pending.pop()
            if stated and self.union.rows[there] == UNSTATED and self.own.rows[node] == UNSTATED:
                return False
            stated = self.own.rows[node] != UNSTATED
            children = self.own.children(node)
            for name, below in self.union.children(there).items():
                if self.union.is_directory(below):
                    if name in children:
                        pending.append((children[name], below, stated))
                    elif stated and self.union.rows[below] == UNSTATED:
                        return False
        return True

    def finish(self) -> Stacked:
        said = hashlib.sha256()
        for node in sorted(self._opaque(), key=self.own.path):
            said.update(b"opaque %s\0" % self.own.path(node))
        for path in sorted(self._whiteouts()):
            said.update(b"whiteout %s\0" % path)
        for path in sorted(self._timed()):
            said.update(b"implied %s\0" % path)
        self._take_attributes(said.update)
        return Stacked(self.own, self.number, self.opaque, said.hexdigest())

    def _opaque(self) -> set[int]:
        """Return directories that don't merge with those below: marked opaque, or in the place of something else."""
        for ending in self.endings:
            path = self.union.path(ending.node)
            if ending.how == HiddenBy.OPAQUE:
                node = self._made(path.rpartition(b"/")[0])
            else:
                node = self.own.find(path)
            if node is not None and self.own.is_directory(node):
                self.opaque.add(node)
        return self.opaque

    def _whiteouts(self) -> list[bytes]:
        """Add a node for each whiteout that hid something and is not inside an opaque directory."""
        own, made = self.own, []
        for ending in self.endings:
            if ending.how != HiddenBy.WHITEOUT:
                continue
            path = self.union.path(ending.node)
            if own.find(path) is not None:
                continue
            parent = self._made(path.rpartition(b"/")[0])
            if parent is None or self._covered(parent):
                continue
            self._add(parent, path.rpartition(b"/")[2], ending.row, None)
            made.append(path)
        return made

    def _timed(self) -> list[bytes]:
        """Add the unstated directories below a directory that this layer states: they take their time from it."""
        made, pending = [], [(0, 0, False)]
        while pending:
            node, there, stated = pending.pop()
            stated = (stated and self.union.rows[there] == UNSTATED) or self.own.rows[node] != UNSTATED
            for name, below in self.union.children(there).items():
                if not self.union.is_directory(below):
                    continue
                child = self.own.children(node).get(name)
                if child is None and stated and self.union.rows[below] == UNSTATED:
                    child = self._add(node, name, UNSTATED, {})
                    made.append(self.union.path(below))
                if child is not None:
                    pending.append((child, below, stated))
        return made

    def _covered(self, node: int) -> bool:
        while node not in self.opaque:
            if node == 0:
                return False
            node = self.own.parent(node)
        return True

    def _made(self, path: bytes) -> int | None:
        """Return the layer's directory at ``path``, created if the union has one there; else None."""
        node, at = 0, 0
        for name in path.split(b"/") if path else ():
            there = self.union.children(at).get(name)
            if there is None or not self.union.is_directory(there):
                return None
            at = there
            child = self.own.children(node).get(name)
            node = self._add(node, name, UNSTATED, {}) if child is None else child
        return node

    def _add(self, parent: int, name: bytes, row: int, kids: dict[bytes, int] | None) -> int:
        own = self.own
        node = len(own.names)
        own.parents.append(parent)
        own.origin_layers.append(self.number)
        own.rows.append(row)
        own.endings_of.append(0)
        own.names.append(name)
        own.kids.append(kids)
        children = own.kids[parent]
        assert children is not None
        children[name] = node
        return node

    def _take_attributes(self, say: object) -> None:
        """Copy the attributes from the union for directories that the layer does not state."""
        own, union = self.own, self.union
        pending = [(0, 0)]
        while pending:
            node, there = pending.pop()
            for name, child in own.children(node).items():
                if own.is_directory(child):
                    pending.append((child, union.children(there)[name]))
            if own.rows[node] != UNSTATED:
                continue
            own.origin_layers[node], own.rows[node] = union.origin_layers[there], union.rows[there]
            if own.rows[node] != UNSTATED:
                entry = union.entry(there)
                text = f"{entry.mode} {entry.uid} {entry.gid} {entry.mtime} {sorted(entry.xattrs.items())}"
                say(b"directory %s %s\0" % (entry.path, text.encode()))  # type: ignore[operator]


def is_whiteout(tree: Tree, node: int) -> bool:
    return not tree.is_directory(node) and tree.kind(node) == Kind.WHITEOUT
