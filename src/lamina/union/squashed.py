"""Several layers of a stack as the entries of one layer on top of those below them (pure).

The entries are derived from the merge: everything the layers add that the union still has, a whiteout for each path
below that is gone, an opaque mark where a new directory replaces an old one. What the layers hid among themselves is
dropped. The result is self-contained: a hard link to a file of the layers below becomes that file, and its names
below are stated again as links to it, so that all of them stay one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import LayerMerge
from lamina.union.tree import UNSTATED, HiddenBy, Tree


@dataclass(frozen=True, slots=True)
class SquashedEntry:
    """An entry of the squashed layer. ``content`` is the (layer from 0, row) that has a regular file's bytes."""

    entry: Entry
    content: tuple[int, int] | None = None


def nothing(path: bytes) -> bool:
    """The default for ``left_out``: leave nothing out."""
    return False


def squashed(
    layers: Sequence[LayerIndex],
    low: int,
    *,
    left_out: Callable[[bytes], bool] = nothing,
    relink: int = 0,
    implied: bool = False,
    marks: bool = False,
) -> Iterator[SquashedEntry]:
    """Squash ``layers[low:]`` into one layer on top of ``layers[:low]``. Yields parents before children and a file
    before its links: first the marks, then everything else in the order of ``layer.tar_write``. The layers are merged
    at once; entries are made as they are asked for.

    ``left_out`` selects paths that are treated as if no layer ever had them, with everything below. Names that
    ``layers[:relink]`` gave to a file stay unchanged even if another of its names is made here. A directory that no
    layer states stays implied (its time follows its parent's) unless nothing else creates it; with ``implied`` each
    is stated as in the union. With ``marks``, whiteouts and opaque marks of the highest layer are kept even if they
    hide nothing here, because they may on top of other layers. Raises InvalidLayer as ``merge``.
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
        self.limit = limit  # nodes below this number belong to the layers below
        self.endings = union.endings[before:]
        self.left_out = left_out
        self.relink = relink
        self.implied = implied
        self.marks = marks
        self.replaced: set[int] = set()  # directories that replace something

    def entries(self) -> Iterator[SquashedEntry]:
        union = self.union
        yield from self._hidden()
        relinked = self._relinked()
        carriers: dict[int, bytes] = {}  # first path of each file that has or had several names
        shared = set(union.hardlinks.values())
        for node, path in self._walk():
            content = union.content(node)
            if union.is_directory(node):
                if self._is_stated(node):
                    yield SquashedEntry(union.state(node, *content, path))
                continue
            inode = union.inode(node)
            if node < self.limit and (inode not in relinked or union.origin_layers[node] < self.relink):
                continue
            carrier = carriers.setdefault(inode, path) if inode in shared else path
            entry = union.state(node, *content, path)
            if carrier != path:
                yield SquashedEntry(_link(entry, carrier))
            else:
                yield SquashedEntry(entry, content if entry.kind == Kind.FILE else None)

    def _hidden(self) -> Iterator[SquashedEntry]:
        """Yield whiteouts and opaque marks for what the layers below lost."""
        union = self.union
        emptied = {
            union.parent(ending.node)
            for ending in self.endings
            if ending.how == HiddenBy.OPAQUE and ending.node < self.limit
        }
        emptied = {node for node in emptied if union.is_alive(node) and not self._keeps_some(node)}
        marks = {node: union.path(node) for node in emptied}
        whiteouts = []
        for ending in self.endings:
            if ending.node >= self.limit:
                continue
            parent, name = union.parent(ending.node), union.name(ending.node)
            if not union.is_alive(parent):
                continue  # the parent was hidden itself
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
                yield SquashedEntry(Entry(path, Kind.OPAQUE))
        for path in hidden:
            if not self.left_out(path):
                yield SquashedEntry(Entry(path, Kind.WHITEOUT))

    def _kept_marks(self, opaque: dict[bytes, None], hidden: dict[bytes, None]) -> None:
        """Add the marks of the highest layer, whatever they hide here. If the layer itself replaces what a mark
        hides, the mark is not needed, except for a directory, which would merge with the old one."""
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
        """Return the node of the path, or of its nearest existing parent."""
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
        """Yield every node that is not left out, with its path, in the order of ``Tree.walk``."""
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
        """Return the files of the layers below that got a new name in these layers."""
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
