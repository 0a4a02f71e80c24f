"""The union of layers: each layer is applied to those below it (image-spec layer.md). The rules are here;
``partial`` applies the same rules to a few paths, and is tested against this.

1. The whiteouts and opaque marks of a layer are applied first, wherever they are in the archive, and only to lower
layers. One that hides nothing has no effect; none of them creates a directory. 2. Then its entries are applied in
archive order. A directory over a directory only replaces attributes; any other pair replaces the whole subtree. A
hard link binds to the file that its target names at that moment, in this layer or below; later changes of the
target's name don't affect it. Symlinks among the target's directories are followed inside the image, whichever layer
has them; a symlink at its end is itself the file. Attributes stated with a hard link are ignored: the file has its
own. 3. A directory that is not stated keeps the attributes from below; a path below something that is not a directory
replaces it with a directory.

``tests/oracles.md`` lists for each rule what other engines do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from lamina.errors import InvalidLayer, LimitExceeded
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.union.tree import UNSTATED, Ending, HiddenBy, Restatement, Tree

MAX_LAYERS = 10_000
MAX_WARNINGS = 100
_DIRECTORY, _HARDLINK, _WHITEOUT, _OPAQUE = (
    int(Kind.DIRECTORY),
    int(Kind.HARDLINK),
    int(Kind.WHITEOUT),
    int(Kind.OPAQUE),
)

IndexRow = tuple[int, int, int, bytes]
"""A row of an index: number, kind, directory, base name."""


def merge(layers: Sequence[LayerIndex], *, most: int | None = None) -> Tree:
    """Merge ``layers``, bottom first. ``most``: how many nodes the tree may have, hidden ones too; a few entries with
    long paths name many directories.

    Raises InvalidLayer if the target of a hard link is not found or is a directory, LimitExceeded.
    """
    tree = Tree(layers)
    _apply(tree, 0, most)
    return tree


def merge_both(one: Sequence[LayerIndex], other: Sequence[LayerIndex], shared: int) -> tuple[Tree, Tree]:
    """Merge two stacks whose lowest ``shared`` layers are the same; these are merged only once. Raises as
    ``merge``."""
    tree = merge(one[:shared])
    twin = tree.fork(other)
    tree.layers = tuple(one)
    _apply(tree, shared)
    _apply(twin, shared)
    return tree, twin


def _apply(tree: Tree, first: int, most: int | None = None) -> None:
    """Apply the layers of the tree from number ``first`` on."""
    if len(tree.layers) > MAX_LAYERS:
        raise LimitExceeded(
            f"too many layers: {len(tree.layers)}", hint=f"flatten the image: the limit is {MAX_LAYERS}"
        )
    for number in range(first, len(tree.layers)):
        LayerMerge(tree, number, tree.layers[number], most).apply()


class LayerMerge:
    """Applies one layer to the tree."""

    def __init__(self, tree: Tree, number: int, index: LayerIndex, most: int | None = None) -> None:
        self.tree = tree
        self.most = most
        self.number = number
        self.index = index
        self.resolved: dict[int, int] = {0: 0}  # directory of the index -> node

    def apply(self, names: Iterable[bytes] | None = None) -> None:
        """Apply the whole layer. ``names`` are the index's base names, if the caller has them already, so that
        several trees can share them."""
        kinds = bytes(self.index.kind)
        if kinds and max(kinds) >= _WHITEOUT:
            for row, kind in enumerate(kinds):
                if kind >= _WHITEOUT:
                    self._hide(row, kind)
        names = self.index.each_basename() if names is None else names
        self._entries(zip(itertools.count(), kinds, self.index.directory, names))
        self.index.release_pages()

    def _hide(self, row: int, kind: int) -> None:
        directory = self._existing(self.index.directory[row])
        if directory is None:
            return
        children = self.tree.kids[directory]
        if children is None:
            return
        if kind == _WHITEOUT:
            hidden = children.pop(self.index.basename(row), None)
            if hidden is not None:
                self._end(hidden, HiddenBy.WHITEOUT, row)
        else:
            for hidden in children.values():
                self._end(hidden, HiddenBy.OPAQUE, row)
            children.clear()

    def _existing(self, directory: int) -> int | None:
        """Return the node of a directory of the index, or None if the tree has none; nothing is created."""
        names = []
        while directory:
            names.append(self.index.directory_name(directory))
            directory = self.index.directory_parent(directory)
        node = 0
        for name in reversed(names):
            children = self.tree.kids[node]
            found = None if children is None else children.get(name)
            if found is None:
                return None
            node = found
        return node

    def _entries(self, entries: Iterable[IndexRow]) -> None:
        """Apply rows in archive order."""
        tree, number = self.tree, self.number
        parents, layers, rows, ended = tree.parents, tree.origin_layers, tree.rows, tree.endings_of
        names, kids, resolved = tree.names, tree.kids, self.resolved
        for row, kind, directory, name in entries:
            if kind >= _WHITEOUT:
                continue
            parent = resolved.get(directory, -1)
            if parent < 0 or ended[parent]:
                parent = self._directory(directory)
            if not name:
                self._restate(0, row)
                continue
            children = kids[parent]
            assert children is not None
            old = children.get(name)
            inode = -1
            if kind == _DIRECTORY:
                if old is not None and kids[old] is not None:
                    self._restate(old, row)
                    continue
            elif kind == _HARDLINK:
                inode = self._target(row)
                if inode == old or (old is not None and tree.inode(old) == inode):
                    continue  # a link to itself
            node = len(names)
            parents.append(parent)
            layers.append(number)
            rows.append(row)
            ended.append(0)
            names.append(name)
            kids.append({} if kind == _DIRECTORY else None)
            if inode >= 0:
                tree.hardlinks[node] = inode
            if old is not None:
                self._end(old, HiddenBy.REPLACED, row)
            children[name] = node

    def _restate(self, node: int, row: int) -> None:
        tree = self.tree
        tree.restatements.append(Restatement(node, tree.origin_layers[node], tree.rows[node]))
        tree.origin_layers[node] = self.number
        tree.rows[node] = row

    def _directory(self, directory: int) -> int:
        """Return the node of a directory of the index; create it if the tree has none."""
        tree, index, resolved = self.tree, self.index, self.resolved
        missing = []
        while True:
            node = resolved.get(directory, -1)
            if node >= 0 and not tree.endings_of[node]:
                break
            missing.append(directory)
            directory = index.directory_parent(directory)
        for directory in reversed(missing):
            children = tree.kids[node]
            assert children is not None
            name = index.directory_name(directory)
            found = children.get(name)
            if found is None or tree.kids[found] is None:
                self._check_size()
                new = self._implied(node, name)
                if found is not None:
                    if len(tree.warnings) < MAX_WARNINGS:
                        tree.warnings.append(self._literal_warning(found))
                    self._end(found, HiddenBy.REPLACED, UNSTATED)
                children[name] = found = new
            resolved[directory] = node = found
        return node

    def _check_size(self) -> None:
        if self.most is not None and len(self.tree.names) >= self.most:
            raise LimitExceeded(
                f"the layers name more than {self.most} files and directories",
                hint="report it to the publisher of the image",
            )

    def _implied(self, parent: int, name: bytes) -> int:
        tree = self.tree
        tree.parents.append(parent)
        tree.origin_layers.append(self.number)
        tree.rows.append(UNSTATED)
        tree.endings_of.append(0)
        tree.names.append(name)
        tree.kids.append({})
        return len(tree.names) - 1

    def _literal_warning(self, node: int) -> str:
        path, kind = self.tree.path(node).decode("utf-8", "backslashreplace"), self.tree.kind(node)
        return (
            f"layer {self.number + 1} has entries below /{path:.300}, which is a {kind.name.lower()}: "
            "it becomes a directory"
        )

    def _target(self, row: int) -> int:
        """Return the inode that the target of a hard link names at this moment."""
        link = self.index.link(row)
        node = self.tree.hardlink_target(link)
        if node is None:
            raise InvalidLayer(
                f"layer {self.number + 1}: the hard link {self.index.path(row)!r:.300} names {link!r:.300}, "
                "which was not found",
                hint="check the base image: the layer was made for another base, or is malformed",
            )
        if self.tree.kids[node] is not None:
            raise InvalidLayer(
                f"layer {self.number + 1}: hard link {self.index.path(row)!r:.200} names the directory {link!r:.200}",
                hint="fetch or build the layer again: hard links to directories are not allowed",
            )
        return self.tree.inode(node)

    def _end(self, node: int, how: HiddenBy, row: int) -> None:
        """Hide ``node`` and everything below it. Each node is hidden once, so that the total cost is linear."""
        tree = self.tree
        tree.endings.append(Ending(how, node, self.number, row))
        number = len(tree.endings)
        pending = [node]
        while pending:
            node = pending.pop()
            tree.endings_of[node] = number
            children = tree.kids[node]
            if children:
                pending += children.values()
