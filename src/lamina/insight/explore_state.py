"""The model of the terminal explorer: the union up to a layer, what that layer (or all since the base) changed, and
which directories are open. Values and state, without a terminal."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from lamina.insight.waste import efficiency
from lamina.layer.entry import Entry, Kind
from lamina.source.stack import Stack
from lamina.union.path_history import PathHistory, path_history
from lamina.union.tree import Tree

PREVIEW = 64 << 10  # bytes of a file that are previewed


class Mark(IntEnum):
    """What happened to a path. Its bit in a set of marks is ``1 << mark``."""

    SAME = 0
    ADDED = 1
    CHANGED = 2
    REMOVED = 3


ALL_MARKS = 0b1111
_TOUCHED = 0b1110


class Row(NamedTuple):
    """One line of the tree. ``depth`` counts from 0. ``touched``: something below was added, changed or removed.
    ``size``: bytes of the file, or of all existing files below (for a removed path, of those that existed)."""

    node: int
    depth: int
    mark: Mark
    touched: bool
    parent: bool
    open: bool
    size: int


@dataclass(frozen=True, slots=True)
class LayerLine:
    """A layer in the list: ``number`` from 1; ``size`` in bytes of its files; ``step`` is the build step that made
    it."""

    number: int
    digest: str
    size: int
    entries: int
    step: str


@dataclass(frozen=True, slots=True)
class Total:
    """Bytes of content in all layers, bytes that no layer above hides, number of paths in the union, and the
    efficiency as dive computes it (``waste.efficiency``)."""

    content: int
    visible: int
    paths: int
    efficiency: float


class Ages:
    """In which layers each node of the tree was added and removed, and its children of all times. Computed once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        count, never = len(tree.names), len(tree.layers)
        self.earlier: dict[int, list[tuple[int, int]]] = {}
        for node, layer, row in tree.restatements:
            self.earlier.setdefault(node, []).append((layer, row))
        self.made = array("H", tree.origin_layers)
        for node, states in self.earlier.items():
            self.made[node] = states[0][0]
        self.made[0] = 0
        ended = [never, *(ending.layer for ending in tree.endings)]
        self.gone = array("H", [ended[number] for number in tree.endings_of])
        self.kids: list[list[int]] = [[] for _ in range(count)]
        for node in range(1, count):
            self.kids[tree.parents[node]].append(node)
        self.sizes = array("Q", [self._size(node) for node in range(count)])

    def state(self, node: int, layer: int) -> tuple[int, int]:
        """Return (layer, row) of the node's latest state up to ``layer``."""
        now = (self.tree.origin_layers[node], self.tree.rows[node])
        found = now
        for state in reversed([*self.earlier.get(node, ()), now]):
            found = state
            if state[0] <= layer:
                break
        return found

    def entry(self, node: int, layer: int) -> Entry:
        """Return the node's entry as of ``layer``."""
        if self.tree.kids[node] is None:
            return self.tree.entry(node)
        return self.tree.state(node, *self.state(node, layer))

    def _size(self, node: int) -> int:
        tree = self.tree
        if tree.kids[node] is not None:
            return 0
        layer, row = tree.content(node)
        index = tree.layers[layer]
        size: int = index.size[row] if index.kind[row] == Kind.FILE else 0
        return size


class Snapshot:
    """The union up to ``layer``, with marks for what the layers from ``low`` on did (both from 0). A replaced path is
    one row, of the new node."""

    def __init__(self, ages: Ages, low: int, layer: int) -> None:
        self.ages = ages
        tree, made, gone = ages.tree, ages.made, ages.gone
        count = len(made)
        self.there = bytearray(made[n] <= layer < gone[n] for n in range(count))
        self.marks = bytearray(self.there[n] and made[n] >= low for n in range(count))  # Mark.ADDED is 1
        self.there[0], self.marks[0] = 1, Mark.SAME
        self.twins: dict[int, int] = {}
        self.lost: dict[int, list[int]] = {}
        self.rows: dict[int, int] = {}  # removed node -> the node whose row shows it
        removed = [n for n in range(count) if made[n] < low <= gone[n] <= layer]
        for node in removed:
            self._remove(node)
        for node in ages.earlier:
            if self.there[node] and self.marks[node] == Mark.SAME and self._restated(node, low, layer):
                self.marks[node] = Mark.CHANGED
        self.below = bytearray(1 << mark for mark in self.marks)
        self.sizes = array("Q", [size if self.there[n] else 0 for n, size in enumerate(ages.sizes)])
        for node in removed:
            self.sizes[node] = ages.sizes[node] if self.rows[node] == node else self.sizes[node]
        for node, parent in self.upward():
            self.below[parent] |= self.below[node]
            if self.marks[node] != Mark.REMOVED or self.marks[parent] == Mark.REMOVED:
                self.sizes[parent] += 0 if node in tree.hardlinks else self.sizes[node]

    def upward(self) -> Iterator[tuple[int, int]]:
        """Yield every row with its parent row; children come before parents."""
        parents, rows = self.ages.tree.parents, self.rows
        for node in reversed(rows):  # the replacement of a removed directory has a higher number
            if rows[node] == node:
                yield node, rows.get(parents[node], parents[node])
        for node in range(len(parents) - 1, 0, -1):
            if self.there[node]:
                yield node, parents[node]

    def _remove(self, node: int) -> None:
        tree = self.ages.tree
        parent = self.rows.get(tree.parents[node], tree.parents[node])
        name = tree.names[node]
        new = self._named(parent).get(name)
        if new is None:
            self.rows[node] = node
            self.marks[node] = Mark.REMOVED
            self.lost.setdefault(parent, []).append(node)
        else:
            self.rows[node] = new
            self.twins[new] = node
            self.marks[new] = Mark.CHANGED

    def _named(self, parent: int) -> dict[bytes, int]:
        found = self._by_name.get(parent)
        if found is None:
            names = self.ages.tree.names
            found = self._by_name[parent] = {names[n]: n for n in self.ages.kids[parent] if self.there[n]}
        return found

    @cached_property
    def _by_name(self) -> dict[int, dict[bytes, int]]:
        return {}

    def _restated(self, node: int, low: int, layer: int) -> bool:
        """Whether the layers changed the directory's attributes. Its time is ignored, because it changes with the
        content."""
        if self.ages.state(node, layer)[0] < low:
            return False
        before, now = self.ages.entry(node, low - 1), self.ages.entry(node, layer)
        return (before.mode, before.uid, before.gid, before.xattrs) != (now.mode, now.uid, now.gid, now.xattrs)

    def children(self, node: int) -> list[int]:
        """Return the child rows of a row, sorted by name."""
        found = [n for n in self.ages.kids[node] if self.there[n]] if self.there[node] else []
        found += self.lost.get(node, ())
        names = self.ages.tree.names
        return sorted(found, key=names.__getitem__)

    def has_children(self, node: int) -> bool:
        return node in self.lost or (bool(self.there[node]) and any(self.there[n] for n in self.ages.kids[node]))


class Explorer:
    """The state of the explorer: selected layer, shown marks, filter, open directories."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.tree = stack.tree()
        self.ages = Ages(self.tree)
        self.layer = 0
        """The selected layer, from 0."""
        self.aggregated = False
        """Marks show what all layers above the lowest did, instead of only the selected one."""
        self.marks = ALL_MARKS
        self.pattern = ""
        self.opened: set[int] = {0, *(node for node in self.ages.kids[0] if self.tree.is_directory(node))}
        """At the start the first level is open."""
        self._opened_before = self.opened
        self._snapshots: dict[tuple[int, int], Snapshot] = {}
        self._matching: bytearray | None = None
        self._paths: list[bytes] = []
        self._rows: list[Row] | None = None

    @cached_property
    def layers(self) -> tuple[LayerLine, ...]:
        """The layers, bottom first."""
        lines = []
        for number, handle in enumerate(self.stack.layers):
            step = self.stack.steps[number] if number < len(self.stack.steps) else None
            index = self.tree.layers[number]
            text = (step.created_by or step.comment or "") if step else ""
            digest = str(handle.descriptor.digest)
            lines.append(LayerLine(self.stack.first + number, digest, index.content_size, len(index), text))
        return tuple(lines)

    @cached_property
    def total(self) -> Total:
        tree = self.tree
        visible = {tree.inode(node) for node in tree.walk() if tree.kids[node] is None}
        content = sum(index.content_size for index in tree.layers)
        return Total(content, sum(self.ages.sizes[node] for node in visible), len(tree), efficiency(tree))

    @property
    def snapshot(self) -> Snapshot:
        low = min(1, len(self.stack.layers)) if self.aggregated else self.layer
        found = self._snapshots.get((low, self.layer))
        if found is None:
            if len(self._snapshots) >= 8:
                self._snapshots.clear()
            found = self._snapshots[low, self.layer] = Snapshot(self.ages, low, self.layer)
        return found

    def select(self, layer: int) -> None:
        """Select ``layer`` (from 0), clamped to the range of layers."""
        self.layer = max(0, min(len(self.stack.layers) - 1, layer))
        self._compared()

    def compare(self, *, aggregated: bool) -> None:
        self.aggregated = aggregated
        self._compared()

    def _compared(self) -> None:
        self._rows = None
        if self.pattern:
            found = self._matching = self._match(self.pattern)
            self.opened = self.opened | {node for node, there in enumerate(found) if there and self._parent(node)}

    def toggle_mark(self, mark: Mark) -> None:
        """Show or hide rows with this mark."""
        self.marks ^= 1 << mark
        self._compared()

    def filter(self, pattern: str) -> None:
        """Show only paths that match a regular expression (or contain the text, if it is not one), ignoring case,
        with their parents, opened; "" shows everything as before."""
        if not self.pattern:
            self._opened_before = self.opened
        self.pattern, self._matching = pattern, None
        self.opened = {0} if pattern else self._opened_before
        self._compared()

    def _parent(self, node: int) -> bool:
        return bool(self.ages.kids[node]) or node in self.snapshot.lost

    def is_open(self, node: int) -> bool:
        return node in self.opened

    def toggle(self, node: int) -> None:
        """Open or close a directory."""
        if self.snapshot.has_children(node):
            self.opened ^= {node}
            self._rows = None

    def toggle_all(self) -> None:
        """Close all directories; if none is open, open all."""
        if self.opened - {0}:
            self.opened = {0}
        else:
            self.opened = {node for node in range(len(self.ages.kids)) if self._parent(node)} | {0}
        self._rows = None

    @property
    def rows(self) -> list[Row]:
        """The visible lines of the tree."""
        if self._rows is None:
            self._rows = list(self._walk())
        return self._rows

    def _walk(self) -> Iterator[Row]:
        snapshot = self.snapshot
        pending = [(node, 0) for node in reversed(self._shown(0))]
        while pending:
            node, depth = pending.pop()
            children = self._shown(node) if node in self.opened else []
            yield Row(
                node,
                depth,
                Mark(snapshot.marks[node]),
                bool(snapshot.below[node] & _TOUCHED),
                bool(children) or snapshot.has_children(node),
                node in self.opened,
                snapshot.sizes[node],
            )
            pending += [(child, depth + 1) for child in reversed(children)]

    def _shown(self, node: int) -> list[int]:
        snapshot, matching = self.snapshot, self._matching
        return [
            child
            for child in snapshot.children(node)
            if (snapshot.below[child] & self.marks if matching is None else matching[child])
        ]

    def _match(self, pattern: str) -> bytearray:
        tree = self.tree
        if not self._paths:
            self._paths = [b""] * len(tree.names)
            for node in range(1, len(tree.names)):
                self._paths[node] = self._paths[tree.parents[node]] + b"/" + tree.names[node]
        text = pattern.encode("utf-8", "surrogateescape")
        try:
            search = re.compile(text, re.IGNORECASE).search
        except (re.error, OverflowError, RecursionError):
            search = re.compile(re.escape(text), re.IGNORECASE).search
        found, snapshot, marks = bytearray(len(tree.names)), self.snapshot, self.marks
        for node, parent in snapshot.upward():
            if found[node] or (1 << snapshot.marks[node] & marks and search(self._paths[node])):
                found[node] = found[parent] = 1
        return found

    def path(self, node: int) -> bytes:
        return self.tree.path(node)

    def entry(self, node: int) -> Entry:
        """Return the row's entry as of the selected layer; for a removed path, its last state."""
        there = self.snapshot.there[node]
        return self.ages.entry(node, self.layer if there else self.ages.gone[node] - 1)

    def before(self, node: int) -> Entry | None:
        """Return the entry that another node replaced at this row, or None."""
        twin = self.snapshot.twins.get(node)
        return None if twin is None else self.ages.entry(twin, self.ages.gone[twin] - 1)

    def layer_of(self, node: int) -> int:
        """Return the layer (from 0) of the row's latest state up to the selected layer."""
        return self.ages.state(node, self.layer)[0] if self.snapshot.there[node] else self.ages.made[node]

    def removed_by(self, node: int) -> int | None:
        """Return the layer (from 0) that removed the row, if it is removed at the selected layer."""
        return None if self.snapshot.there[node] else self.ages.gone[node]

    def story(self, node: int) -> PathHistory:
        """Return the history of the row's path."""
        return path_history(self.tree, self.tree.path(node))

    def preview(self, node: int) -> str | None:
        """Return the start of a text file, also of a removed one; None for anything else. Raises InvalidContent,
        SystemFailure if the layer can't be read."""
        if self.tree.kind(node) != Kind.FILE:
            return None
        with self.stack.open_file(node) as stream:
            data = stream.read(PREVIEW)
        if b"\0" in data:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            cut = len(data) == PREVIEW and error.start >= PREVIEW - 3  # the data ends within a character
            return data[: error.start].decode("utf-8") if cut else None
