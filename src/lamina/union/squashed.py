"""What some layers do to those below them, as the entries of one layer (pure).

Read off the merge: whatever the layers make that the union still has, a whiteout for each path of those below that
it lost, an opaque mark where a new directory stands in the place of an old one. Nothing that the layers hid among
themselves is left. The result is closed: a hardlink to a file of the layers below becomes that file, and its names
below are stated anew as links to it, so that all of them stay one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import LayerMerge
from lamina.union.tree import UNSTATED, How, Tree


@dataclass(frozen=True, slots=True)
class Stated:
    """An entry of the one layer; ``content``: (layer from 0, row) that holds a regular file's bytes."""

    entry: Entry
    content: tuple[int, int] | None = None


def nothing(path: bytes) -> bool:
    """The ``left_out`` that leaves nothing out."""
    return False


def squashed(
    layers: Sequence[LayerIndex],
    low: int,
    *,
    left_out: Callable[[bytes], bool] = nothing,
    relink: int = 0,
    implied: bool = False,
    marks: bool = False,
) -> Iterator[Stated]:
    """``layers[low:]`` as one layer upon ``layers[:low]``, parents before children, a file before its links:
    the marks, then all else in the order that ``layer.write`` gives it. The layers are merged at once, and values are
    made as they are asked for.

    ``left_out`` paths are as if no layer ever had them, and all below them. Names that ``layers[:relink]`` gave to
    a file stay theirs, though one of its names is made here. A directory that no layer states is left to be implied
    (its time follows its parent's), unless nothing else makes it; with ``implied`` each is stated as the union has
    it. With ``marks``, whiteouts and opaque marks of the highest layer that hide nothing here stay too: upon other
    layers they may.
    Raises InvalidLayer as ``merge``.
    """
    union = Tree(layers)
    limit, before = 1, 0
    for number, index in enumerate(layers):
        if number == low:
            limit, before = len(union.names), len(union.endings)
        LayerMerge(union, number, index).apply()
    if low >= len(layers):
        return iter(())
    return _Squash(union, low, limit, before, left_out, relink, implied, marks).entries()


class _Squash:
    def __init__(
        self,
        union: Tree,
        low: int,
        limit: int,
        before: int,
        left_out: Callable[[bytes], bool],
        relink: int,
        implied: bool,
        marks: bool,
    ) -> None:
        self.union = union
        self.low = low
        self.limit = limit  # nodes below this number are those of the layers below
        self.endings = union.endings[before:]
        self.left_out = left_out
        self.relink = relink
        self.implied = implied
        self.marks = marks
        self.replaced: set[int] = set()  # directories in the place of something

    def entries(self) -> Iterator[Stated]:
        union = self.union
        yield from self._hidden()
        relinked = self._relinked()
        carriers: dict[int, bytes] = {}  # of files that have or had several names
        shared = set(union.hardlinks.values())
        for node, path in self._walk():
            content = union.content(node)
            if union.is_directory(node):
                if self._is_stated(node):
                    yield Stated(union.state(node, *content, path))
                continue
            inode = union.inode(node)
            if node < self.limit and (inode not in relinked or union.origin_layers[node] < self.relink):
                continue
            carrier = carriers.setdefault(inode, path) if inode in shared else path
            entry = union.state(node, *content, path)
            if carrier != path:
                yield Stated(_link(entry, carrier))
            else:
                yield Stated(entry, content if entry.kind == Kind.FILE else None)

    def _hidden(self) -> Iterator[Stated]:
        """Whiteouts and opaque marks for what the layers below lost."""
        union = self.union
        emptied = {
            union.parent(ending.node)
            for ending in self.endings
            if ending.how == How.OPAQUE and ending.node < self.limit
        }
        emptied = {node for node in emptied if union.is_alive(node) and not self._keeps_some(node)}
        marks = {node: union.path(node) for node in emptied}
        whiteouts = []
        for ending in self.endings:
            if ending.node >= self.limit:
                continue
            parent, name = union.parent(ending.node), union.name(ending.node)
            if not union.is_alive(parent):
                continue  # that one was hidden itself
            now = union.children(parent).get(name)
            path = union.path(ending.node)
            if now is not None and union.is_directory(now):
                self.replaced.add(now)
                if union.is_directory(ending.node):
                    marks[now] = path
            elif now is None and parent not in emptied:
                whiteouts.append(path)
        opaque, hidden = dict.fromkeys(marks.values()), dict.fromkeys(whiteouts)
        if self.marks:
            self._kept_marks(opaque, hidden)
        for path in opaque:
            if not self.left_out(path):
                yield Stated(Entry(path, Kind.OPAQUE))
        for path in hidden:
            if not self.left_out(path):
                yield Stated(Entry(path, Kind.WHITEOUT))

    def _kept_marks(self, opaque: dict[bytes, None], hidden: dict[bytes, None]) -> None:
        """The marks of the highest layer, whatever they hide here. What the layer itself puts in the place of
        something that it hides takes that place by itself, but for a directory, which would join the old one."""
        union = self.union
        index = union.layers[-1]
        for row in (*index.rows_of(Kind.OPAQUE), *index.rows_of(Kind.WHITEOUT)):
            path = index.path(row)
            now, parent = union.find(path), self._nearest(path)
            if now is None and union.is_directory(parent):
                (hidden if index.kind[row] == Kind.WHITEOUT else opaque).setdefault(path)
            elif now is not None and union.is_directory(now):
                opaque.setdefault(path)

    def _nearest(self, path: bytes) -> int:
        """The node of the path, or of the nearest of its parents that is there."""
        node = 0
        for name in path.split(b"/"):
            child = self.union.child(node, name)
            if child is None:
                break
            node = child
        return node

    def _keeps_some(self, node: int) -> bool:
        return any(child < self.limit for child in self.union.children(node).values())

    def _walk(self) -> Iterator[tuple[int, bytes]]:
        """Every node that is not left out with its path, in the order of ``Tree.walk``."""
        union = self.union
        pending = [(0, b"")]
        while pending:
            node, path = pending.pop()
            yield node, path
            children = union.children(node)
            if not children:
                continue
            inside = path + b"/" if path else b""
            for name in sorted(children, reverse=True):
                if not self.left_out(inside + name):
                    pending.append((children[name], inside + name))

    def _relinked(self) -> set[int]:
        """Files of the layers below that got a name here."""
        links = {link: inode for link, inode in self.union.hardlinks.items() if inode < self.limit <= link}
        return {links[node] for node, _ in self._walk() if node in links} if links else set()

    def _is_stated(self, node: int) -> bool:
        union = self.union
        if union.rows[node] != UNSTATED:
            return union.origin_layers[node] >= self.low
        if node == 0 or node < self.limit:
            return False
        if self.implied or node in self.replaced:
            return True
        path = union.path(node)
        return all(self.left_out(path + b"/" + name) for name in union.children(node))


def _link(entry: Entry, target: bytes) -> Entry:
    return replace(entry, kind=Kind.HARDLINK, link=target, size=0, rdev=(0, 0), xattrs={}, offset=0, sparse=None)
