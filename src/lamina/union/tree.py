"""The result of a merge: one file system in columns, and what was hidden on the way.

Nodes are numbers; 0 is the root. A node that a later layer hides keeps its number and its columns, so that
``trail`` can tell the whole story. Everything that shows the union is a reader of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from lamina.errors import PathNotFound
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex

UNSTATED = 0xFFFFFFFF
"""The row of a directory that its layer does not state but has entries below."""
MAX_LINKS = 40  # symlinks in one lookup, as Linux has it
_NONE: Mapping[bytes, int] = {}


class How(IntEnum):
    """How a node ended."""

    WHITEOUT = 1
    OPAQUE = 2
    REPLACED = 3


class Ending(NamedTuple):
    """Something that hid ``node`` and all below it: the entry in ``row`` of layer ``layer`` (from 0). ``row`` is
    UNSTATED where a path below made a directory of it."""

    how: How
    node: int
    layer: int
    row: int


class Restatement(NamedTuple):
    """A directory's attributes before a later layer stated them again."""

    node: int
    layer: int
    row: int


class Stored(NamedTuple):
    """Where a regular file's bytes are: in the tar of ``layer`` (from 0), from ``offset`` on. ``sparse`` as in
    ``Entry``."""

    layer: int
    offset: int
    size: int
    sparse: tuple[tuple[int, int], ...] | None


class Union(ABC):
    """What is asked of a union, whether it was merged just now (``Tree``) or is read from where it was written.
    Nodes are numbers, good for this union only; 0 is the root."""

    @abstractmethod
    def children(self, node: int) -> Mapping[bytes, int]:
        """Name to node; empty for everything that is no directory."""

    @abstractmethod
    def child(self, node: int, name: bytes) -> int | None: ...

    @abstractmethod
    def is_directory(self, node: int) -> bool: ...

    @abstractmethod
    def name(self, node: int) -> bytes: ...

    @abstractmethod
    def parent(self, node: int) -> int:
        """The root is its own parent."""

    @abstractmethod
    def inode(self, node: int) -> int:
        """A number that all hardlinks of one file share."""

    @abstractmethod
    def links(self, node: int) -> int:
        """How many visible names the file has; 1 for a directory."""

    @abstractmethod
    def kind(self, node: int) -> Kind:
        """What it is in the union: never HARDLINK, WHITEOUT or OPAQUE."""

    @abstractmethod
    def link_target(self, node: int) -> bytes:
        """A symlink's target."""

    @abstractmethod
    def entry(self, node: int) -> Entry:
        """The node as an entry: its own path, attributes and content of its inode. A directory that no layer
        states is 0755, 0:0, with the time of its nearest stated parent."""

    @abstractmethod
    def layer(self, node: int) -> int | None:
        """The layer (from 0) that states the name now; None for a directory that no layer states."""

    @abstractmethod
    def stored(self, node: int) -> Stored:
        """Where the content of a regular file is."""

    def path(self, node: int) -> bytes:
        parts = []
        while node:
            parts.append(self.name(node))
            node = self.parent(node)
        return b"/".join(reversed(parts))

    def walk(self, node: int = 0) -> Iterator[int]:
        """``node`` and all below it: depth first, names in byte order, parents before children."""
        pending = [node]
        while pending:
            node = pending.pop()
            yield node
            children = self.children(node)
            if children:
                pending += [children[name] for name in sorted(children, reverse=True)]

    def lookup(self, path: bytes, *, follow: bool = False) -> int:
        """The node at ``path``; symlinks on the way are followed inside the image, the last one only with
        ``follow``. ``..`` never leads above the root. Raises PathNotFound."""
        pending = path.split(b"/")[::-1]
        node, links = 0, 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                node = self.parent(node)
                continue
            found = self.child(node, name)
            if found is None:
                raise PathNotFound(f"no /{_text(path)} in the image", hint=self._nearest(node, name))
            if (pending or follow) and self.kind(found) == Kind.SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    raise PathNotFound(f"/{_text(path)}: too many symlinks", hint="they lead in a circle")
                target = self.link_target(found)
                pending += target.split(b"/")[::-1]
                if target.startswith(b"/"):
                    node = 0
                continue
            node = found
        return node

    def _nearest(self, node: int, name: bytes) -> str:
        where = _text(self.path(node))
        return f"/{where} has no {_text(name)}" if self.is_directory(node) else f"/{where} is not a directory"


class Tree(Union):
    """Read it; only ``merge`` writes it."""

    def __init__(self, layers: Sequence[LayerIndex]) -> None:
        self.layers = tuple(layers)
        self.parents = array("I", [0])
        self.origin_layers = array("H", [0])
        self.rows = array("I", [UNSTATED])
        self.endings_of = array("I", [0])  # 0: alive, else 1 + number of the ending
        self.names: list[bytes] = [b""]
        self.kids: list[dict[bytes, int] | None] = [{}]
        self.hardlinks: dict[int, int] = {}  # node -> the node whose inode it shares
        self.endings: list[Ending] = []
        self.restatements: list[Restatement] = []
        self.warnings: list[str] = []
        self._links: dict[int, int] | None = None

    def fork(self, layers: Sequence[LayerIndex]) -> Tree:
        """One that is the same so far and can grow by itself; the lowest of ``layers`` are those merged so far."""
        twin = Tree(layers)
        twin.parents, twin.origin_layers = self.parents[:], self.origin_layers[:]
        twin.rows, twin.endings_of = self.rows[:], self.endings_of[:]
        twin.names = self.names[:]
        twin.kids = [children if children is None else children.copy() for children in self.kids]
        twin.hardlinks = self.hardlinks.copy()
        twin.endings, twin.restatements = self.endings[:], self.restatements[:]
        twin.warnings = self.warnings[:]
        return twin

    def __len__(self) -> int:
        """How many paths the union has, the root left out."""
        return len(self.names) - 1 - sum(1 for ended in self.endings_of if ended)

    def find(self, path: bytes) -> int | None:
        """The node at this literal path (no symlinks followed), or None."""
        node = 0
        if path:
            for name in path.split(b"/"):
                children = self.kids[node]
                found = None if children is None else children.get(name)
                if found is None:
                    return None
                node = found
        return node

    def named_by(self, target: bytes) -> int | None:
        """The node that a hardlink's target names: symlinks on its way are followed inside the image, one at its end
        is not. None where there is none."""
        node = self.find(target)
        if node is None:
            try:
                node = self.lookup(target)
            except PathNotFound:
                return None
        return node

    def children(self, node: int) -> Mapping[bytes, int]:
        """Name to node; empty for everything that is no directory."""
        return self.kids[node] or _NONE

    def child(self, node: int, name: bytes) -> int | None:
        children = self.kids[node]
        return None if children is None else children.get(name)

    def is_directory(self, node: int) -> bool:
        return self.kids[node] is not None

    def is_alive(self, node: int) -> bool:
        """Whether the union shows it."""
        return not self.endings_of[node]

    def ending(self, node: int) -> Ending | None:
        """What hid it; None where it is visible."""
        number = self.endings_of[node]
        return self.endings[number - 1] if number else None

    def name(self, node: int) -> bytes:
        return self.names[node]

    def parent(self, node: int) -> int:
        """The root is its own parent."""
        return self.parents[node]

    def origin(self, node: int) -> tuple[int, int] | None:
        """(layer from 0, row) of the entry that states it now; None for a directory that no layer states."""
        row = self.rows[node]
        return None if row == UNSTATED else (self.origin_layers[node], row)

    def layer(self, node: int) -> int | None:
        return None if self.rows[node] == UNSTATED else self.origin_layers[node]

    def inode(self, node: int) -> int:
        """The node that all hardlinks of one file share (it may itself be hidden meanwhile)."""
        return self.hardlinks.get(node, node)

    def links(self, node: int) -> int:
        """How many visible names the file has; 1 for a directory."""
        if self.kids[node] is not None:
            return 1
        if self._links is None:
            counts: dict[int, int] = {}
            for link, inode in self.hardlinks.items():
                if not self.endings_of[link]:
                    counts[inode] = counts.get(inode, 0) + 1
            for inode in counts:
                if not self.endings_of[inode]:
                    counts[inode] += 1
            self._links = counts
        return self._links.get(self.inode(node), 1)

    def content(self, node: int) -> tuple[int, int]:
        """(layer from 0, row) of the entry that holds attributes and content of the file."""
        inode = self.inode(node)
        return self.origin_layers[inode], self.rows[inode]

    def kind(self, node: int) -> Kind:
        """What it is in the union: never HARDLINK, WHITEOUT or OPAQUE."""
        if self.kids[node] is not None:
            return Kind.DIRECTORY
        layer, row = self.content(node)
        return Kind(self.layers[layer].kind[row])

    def stored(self, node: int) -> Stored:
        layer, row = self.content(node)
        index = self.layers[layer]
        return Stored(layer, index.offset[row], index.size[row], index.sparse(row))

    def link_target(self, node: int) -> bytes:
        """A symlink's target."""
        layer, row = self.content(node)
        return self.layers[layer].link(row)

    def entry(self, node: int) -> Entry:
        """The node as an entry: its own path, attributes and content of its inode. A directory that no layer
        states is 0755, 0:0, with the time of its nearest stated parent."""
        layer, row = self.content(node)
        return self.state(node, layer, row)

    def state(self, node: int, layer: int, row: int, path: bytes | None = None) -> Entry:
        """The node as layer ``layer`` states it in ``row`` (UNSTATED: implied); ``path``: its path, where the caller
        has it."""
        path = self.path(node) if path is None else path
        if row == UNSTATED:
            return Entry(path, Kind.DIRECTORY, 0o755, mtime=self._implied_time(node))
        return self.layers[layer].entry(row, path)

    def _implied_time(self, node: int) -> int:
        while node:
            node = self.parents[node]
            row = self.rows[node]
            if row != UNSTATED:
                index = self.layers[self.origin_layers[node]]
                seconds: int = index.mtime[row]
                return seconds * 1_000_000_000 + int(index.nsec[row])
        return 0


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")[:300]
