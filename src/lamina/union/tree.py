"""The result of a merge: one file system in columns, with a record of what was hidden.

Nodes are numbers; 0 is the root. A node that a later layer hides keeps its number and its columns, so that
``path_history`` can report it. Everything that shows the union reads this.
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
MAX_LINKS = 40  # symlinks followed in one lookup, as in Linux
_NONE: Mapping[bytes, int] = {}


class HiddenBy(IntEnum):
    """How a node was hidden."""

    WHITEOUT = 1
    OPAQUE = 2
    REPLACED = 3


class Ending(NamedTuple):
    """A record of what hid ``node`` and everything below it: the entry in ``row`` of ``layer`` (from 0). ``row`` is
    UNSTATED if an implied directory replaced it."""

    how: HiddenBy
    node: int
    layer: int
    row: int


class Restatement(NamedTuple):
    """The attributes of a directory before a later layer stated them again: ``row`` of ``layer``."""

    node: int
    layer: int
    row: int


class Stored(NamedTuple):
    """Where the bytes of a regular file are: in the tar of ``layer`` (from 0), from ``offset`` on. ``sparse`` as in
    ``Entry``."""

    layer: int
    offset: int
    size: int
    sparse: tuple[tuple[int, int], ...] | None


class Union(ABC):
    """The interface of a union, merged in memory (``Tree``) or read from a file. Nodes are numbers, valid in this
    union only; 0 is the root."""

    @abstractmethod
    def children(self, node: int) -> Mapping[bytes, int]:
        """Return a map of names to nodes; empty if the node is not a directory."""

    @abstractmethod
    def child(self, node: int, name: bytes) -> int | None: ...

    @abstractmethod
    def is_directory(self, node: int) -> bool: ...

    @abstractmethod
    def name(self, node: int) -> bytes: ...

    @abstractmethod
    def parent(self, node: int) -> int:
        """Return the parent; the root is its own parent."""

    @abstractmethod
    def inode(self, node: int) -> int:
        """Return a number that all hard links of one file share."""

    @abstractmethod
    def links(self, node: int) -> int:
        """Return the number of visible names (hard links) of the file; 1 for a directory."""

    @abstractmethod
    def kind(self, node: int) -> Kind:
        """Return the kind: never HARDLINK, WHITEOUT or OPAQUE."""

    @abstractmethod
    def link_target(self, node: int) -> bytes:
        """Return the target of a symlink."""

    @abstractmethod
    def entry(self, node: int) -> Entry:
        """Return the node as an entry: its own path, with the attributes and content of its inode. A directory that
        no layer states has mode 0755, owner 0:0, and the time of its nearest stated parent."""

    @abstractmethod
    def layer(self, node: int) -> int | None:
        """Return the layer (from 0) that states the name; None for a directory that no layer states."""

    @abstractmethod
    def stored(self, node: int) -> Stored:
        """Return where the content of a regular file is."""

    def path(self, node: int) -> bytes:
        parts = []
        while node:
            parts.append(self.name(node))
            node = self.parent(node)
        return b"/".join(reversed(parts))

    def walk(self, node: int = 0) -> Iterator[int]:
        """Yield ``node`` and everything below it: depth first, names in byte order, parents before children."""
        pending = [node]
        while pending:
            node = pending.pop()
            yield node
            children = self.children(node)
            if children:
                pending += [children[name] for name in sorted(children, reverse=True)]

    def lookup(self, path: bytes, *, follow: bool = False) -> int:
        """Return the node at ``path``. Symlinks on the way are followed inside the image, the last one only with
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
                raise PathNotFound(f"/{_text(path)} was not found in the image", hint=self._nearest(node, name))
            if (pending or follow) and self.kind(found) == Kind.SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    raise PathNotFound(
                        f"/{_text(path)}: too many symlinks", hint="check the symlinks: they form a loop"
                    )
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
    """The merged union in memory. Only ``merge`` writes it."""

    def __init__(self, layers: Sequence[LayerIndex]) -> None:
        self.layers = tuple(layers)
        self.parents = array("I", [0])
        self.origin_layers = array("H", [0])
        self.rows = array("I", [UNSTATED])
        self.endings_of = array("I", [0])  # 0: visible, else 1 + number of the ending
        self.names: list[bytes] = [b""]
        self.kids: list[dict[bytes, int] | None] = [{}]
        self.hardlinks: dict[int, int] = {}  # node -> the node whose inode it shares
        self.endings: list[Ending] = []
        self.restatements: list[Restatement] = []
        self.warnings: list[str] = []
        self._links: dict[int, int] | None = None

    def fork(self, layers: Sequence[LayerIndex]) -> Tree:
        """Return an independent copy to merge further; the lowest of ``layers`` are those merged so far."""
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
        """The number of paths in the union, without the root."""
        return len(self.names) - 1 - sum(1 for ended in self.endings_of if ended)

    def find(self, path: bytes) -> int | None:
        """Return the node at this literal path (without following symlinks), or None."""
        node = 0
        if path:
            for name in path.split(b"/"):
                children = self.kids[node]
                found = None if children is None else children.get(name)
                if found is None:
                    return None
                node = found
        return node

    def hardlink_target(self, target: bytes) -> int | None:
        """Return the node that the target of a hard link names; symlinks on its way are followed inside the image,
        one at its end is not. None if it does not exist."""
        node = self.find(target)
        if node is None:
            try:
                node = self.lookup(target)
            except PathNotFound:
                return None
        return node

    def children(self, node: int) -> Mapping[bytes, int]:
        """Return a map of names to nodes; empty if the node is not a directory."""
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
        """Return what hid the node; None if it is visible."""
        number = self.endings_of[node]
        return self.endings[number - 1] if number else None

    def name(self, node: int) -> bytes:
        return self.names[node]

    def parent(self, node: int) -> int:
        """Return the parent; the root is its own parent."""
        return self.parents[node]

    def origin(self, node: int) -> tuple[int, int] | None:
        """Return (layer from 0, row) of the entry that states the node; None for a directory that no layer states."""
        row = self.rows[node]
        return None if row == UNSTATED else (self.origin_layers[node], row)

    def layer(self, node: int) -> int | None:
        return None if self.rows[node] == UNSTATED else self.origin_layers[node]

    def inode(self, node: int) -> int:
        """Return the node that all hard links of one file share (it may itself be hidden)."""
        return self.hardlinks.get(node, node)

    def links(self, node: int) -> int:
        """Return the number of visible names (hard links) of the file; 1 for a directory."""
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
        """Return (layer from 0, row) of the entry with the attributes and content of the file."""
        inode = self.inode(node)
        return self.origin_layers[inode], self.rows[inode]

    def kind(self, node: int) -> Kind:
        """Return the kind: never HARDLINK, WHITEOUT or OPAQUE."""
        if self.kids[node] is not None:
            return Kind.DIRECTORY
        layer, row = self.content(node)
        return Kind(self.layers[layer].kind[row])

    def stored(self, node: int) -> Stored:
        layer, row = self.content(node)
        index = self.layers[layer]
        return Stored(layer, index.offset[row], index.size[row], index.sparse(row))

    def link_target(self, node: int) -> bytes:
        """Return the target of a symlink."""
        layer, row = self.content(node)
        return self.layers[layer].link(row)

    def entry(self, node: int) -> Entry:
        """Return the node as an entry: its own path, with the attributes and content of its inode. A directory that
        no layer states has mode 0755, owner 0:0, and the time of its nearest stated parent."""
        layer, row = self.content(node)
        return self.state(node, layer, row)

    def state(self, node: int, layer: int, row: int, path: bytes | None = None) -> Entry:
        """Return the node as ``layer`` states it in ``row`` (UNSTATED: implied). ``path`` is the node's path, if the
        caller knows it."""
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
