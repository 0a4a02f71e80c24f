"""The union of a few paths, equal to the whole merge for these paths, without merging the rest (pure).

From each layer only the rows that matter to a path are applied, by the rules of ``merge``: rows that state the path
or a parent of it, marks that hide one, and the first row below each directory on the way, which creates it. The
target of a hard link is one more path, and so is each path that a symlink on its way leads to. Columns are read from
the mapped file; names only for rows that may match.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Sequence

from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import LayerMerge, merge
from lamina.union.tree import Tree

MANY = 64
"""The number of paths from which on a whole merge is cheaper; it limits the work that a hostile image can cause."""
_DIRECTORY, _SYMLINK, _HARDLINK, _WHITEOUT, _OPAQUE = (
    int(Kind.DIRECTORY),
    int(Kind.SYMLINK),
    int(Kind.HARDLINK),
    int(Kind.WHITEOUT),
    int(Kind.OPAQUE),
)


class PartialMerge:
    """Merges a few paths of stacks. It caches what each layer says of a path, because images share layers."""

    def __init__(self) -> None:
        self._traces: dict[tuple[int, bytes, bool], _Trace] = {}

    def tree(self, layers: Sequence[LayerIndex], paths: Iterable[bytes], *, inside: Collection[bytes] = ()) -> Tree:
        """Merge ``layers`` (bottom first) for these literal paths. For them and their parents the tree equals the
        whole one, history included; for the directories ``inside`` their entries are included too. It may return the
        whole tree.

        Raises InvalidLayer as ``merge`` does, but not for hard links elsewhere.
        """
        known = dict.fromkeys([*paths, *inside])
        pending = list(known)
        while True:
            while pending:
                if len(known) > MANY:
                    return merge(layers)
                path = pending.pop()
                for index in layers:
                    for target in self._trace(index, path, path in inside).targets:
                        if target not in known:
                            known[target] = None
                            pending.append(target)
            try:
                return self._merged(layers, known, inside)
            except _NotMerged as missing:  # the target of a hard link leads through a symlink
                known[missing.path] = None
                pending.append(missing.path)

    def _merged(self, layers: Sequence[LayerIndex], known: Collection[bytes], inside: Collection[bytes]) -> Tree:
        tree = _PartialTree(layers, known, inside)
        for number, index in enumerate(layers):
            traces = [self._trace(index, path, path in inside) for path in known]
            if any(trace.speaks for trace in traces):
                _PartialLayerMerge(tree, number, index).apply_traces(traces)
        return tree

    def lookup(self, layers: Sequence[LayerIndex], path: bytes, *, follow: bool = False) -> tuple[Tree, int]:
        """Look up a path as ``Tree.lookup`` does in the whole union. Symlinks on the way are followed; each adds a
        path. The number of links of a file is not known. Raises PathNotFound, InvalidLayer."""
        wanted = [b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))]
        while True:
            tree = self.tree(layers, wanted)
            try:
                return tree, tree.lookup(path, follow=follow)
            except _NotMerged as missing:
                wanted.append(missing.path)

    def listing(
        self,
        layers: Sequence[LayerIndex],
        path: bytes,
        *,
        follow: bool = True,
        into: bool = True,
        links: bool = False,
    ) -> tuple[Tree, int]:
        """Look up a path as ``lookup`` does. With ``into``, the entries of a directory are included; with ``links``,
        so are all other names of these files, so that links can be counted."""
        tree, node = self.lookup(layers, path, follow=follow)
        top = tree.path(node)
        inside = {top} if into and tree.is_directory(node) else set()
        if inside:
            tree = self.tree(layers, (), inside=inside)
        if links:
            told = [top]
            if inside:
                told += [tree.path(child) for child in tree.children(tree.lookup(top)).values()]
            others = _other_names(layers, told)
            if through_symlinks(layers):
                tree = merge(layers)
            elif others:
                tree = self.tree(layers, [top, *others], inside=inside)
        return tree, tree.lookup(top)

    def _trace(self, index: LayerIndex, path: bytes, inside: bool) -> _Trace:
        key = (id(index), path, inside)
        trace = self._traces.get(key)
        if trace is None:
            kind = _InsideTrace if inside else _Trace
            # the trace keeps the index alive, so that its id is not reused
            trace = self._traces[key] = kind(index, path)
        return trace


class _PartialTree(Tree):
    """A tree of some paths only; it raises _NotMerged if a lookup leaves them."""

    def __init__(self, layers: Sequence[LayerIndex], known: Iterable[bytes], inside: Collection[bytes]) -> None:
        super().__init__(layers)
        self._inside = inside
        self._known: set[bytes] = {b""}
        for path in known:
            while path not in self._known:
                self._known.add(path)
                path = path.rpartition(b"/")[0]

    def child(self, node: int, name: bytes) -> int | None:
        above = self.path(node)
        path = above + b"/" + name if above else name
        if path not in self._known and above not in self._inside:
            raise _NotMerged(path)
        return super().child(node, name)


class _NotMerged(Exception):
    """A lookup came to a path that was not merged."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


class _Trace:
    """What one layer says of a path and its parents."""

    inside = False
    """Whether the entries of the path's directory are included."""

    def __init__(self, index: LayerIndex, path: bytes) -> None:
        self.index = index
        self.names = path.split(b"/") if path else []
        self.way = self._directories()
        """The index's directories along the path, from the root on, as far as they exist."""
        self.stated: dict[int, int] = {}  # row -> number of components of the path that it states
        self.hiding: list[int] = []
        self._state()
        self.targets = [index.link(row) for row in self.stated if index.kind[row] == _HARDLINK]
        self.speaks = bool(self.stated or self.hiding or len(self.way) > 1)
        self._passing: list[tuple[int, int]] | None = None

    def _directories(self) -> list[int]:
        names, index, way = self.names, self.index, [0]
        if not names:
            return way
        here = 0
        for number, above in enumerate(index.dir_parent.tolist()):  # parents have lower numbers
            if above == here and number and index.directory_name(number) == names[len(way) - 1]:
                way.append(number)
                here = number
                if len(way) > len(names):
                    break
        return way

    def _state(self) -> None:
        index = self.index
        column, kinds, at = bytes(index.directory), index.kind, index.name_at
        for depth, directory in enumerate(self.way):
            name = self.names[depth] if depth < len(self.names) else None
            length = -1 if name is None else len(name)
            for row in _rows(column, directory):
                size = at[row + 1] - at[row]
                if size == 0:
                    if kinds[row] == _OPAQUE:
                        self.hiding.append(row)
                    elif directory == 0 and kinds[row] < _WHITEOUT:
                        self.stated[row] = 0
                elif (size == length and index.basename(row) == name) if name is not None else self.inside:
                    if kinds[row] == _WHITEOUT:
                        self.hiding.append(row)
                    elif kinds[row] < _WHITEOUT:
                        self.stated[row] = depth + 1

    def passing(self) -> list[tuple[int, int]]:
        """Return (row, directory along the path) for rows that pass through such a directory and may create it. Once
        a directory was passed through or stated it exists, until a row replaces it or one of its parents."""
        if self._passing is None:
            self._passing = list(self._pass())
        return self._passing

    def _pass(self) -> Iterator[tuple[int, int]]:
        index, way, kinds = self.index, self.way, self.index.kind
        above = index.dir_parent.tolist()
        along = [0] * len(above)
        for depth, directory in enumerate(way):
            along[directory] = depth
        for number in range(1, len(above)):
            along[number] = along[number] or along[above[number]]
        directories, reached, deepest, start = index.directory.tolist(), 0, len(way) - 1, 0
        for border in [*sorted(self.stated), len(directories)]:
            if reached < deepest:
                for row in range(start, border):
                    depth = along[directories[row]]
                    if depth > reached and kinds[row] < _WHITEOUT:
                        yield row, way[depth]
                        reached = depth
                        if depth == deepest:
                            break
            if border == len(directories):
                break
            depth = self.stated[border]
            if kinds[border] == _DIRECTORY:
                reached = max(reached, depth)
            else:
                reached = depth - 1
            start = border + 1

    def is_plain(self, tree: Tree) -> bool:
        """Whether all directories along the path are in the tree and the layer does not replace them: then no row
        creates one."""
        node = 0
        for depth in range(1, len(self.way)):
            found = tree.children(node).get(self.names[depth - 1])
            if found is None or not tree.is_directory(found):
                return False
            node = found
        kinds = self.index.kind
        return all(kinds[row] == _DIRECTORY or depth >= len(self.way) for row, depth in self.stated.items())


class _InsideTrace(_Trace):
    """What one layer says of a path, its parents, and the entries of its directory."""

    inside = True

    def __init__(self, index: LayerIndex, path: bytes) -> None:
        super().__init__(index, path)
        self.folders: set[int] = set()
        """The index's directories that are entries of it."""
        if len(self.way) > len(self.names):
            column = struct.pack(f"={index.directory_count}I", *index.dir_parent)
            self.folders = set(_rows(column, self.way[-1])) - {0}
        self.speaks = self.speaks or bool(self.folders)

    def is_plain(self, tree: Tree) -> bool:
        return not self.folders and super().is_plain(tree)

    def _pass(self) -> Iterator[tuple[int, int]]:
        """Yield what the base class does, then the first row below each directory in this one, and again the first
        row after such a directory was replaced."""
        yield from super()._pass()
        index, kinds = self.index, self.index.kind
        below = [0] * index.directory_count
        numbers: dict[bytes, int] = {}
        for number, above in enumerate(index.dir_parent.tolist()):
            if number in self.folders:
                below[number] = number
                numbers[index.directory_name(number)] = number
            else:
                below[number] = below[above]
        seen: set[int] = set()
        for row, directory in enumerate(index.directory.tolist()):
            folder = below[directory]
            if folder and folder not in seen and kinds[row] < _WHITEOUT:
                seen.add(folder)
                yield row, folder
            elif row in self.stated and self.stated[row] <= len(self.way) and kinds[row] != _DIRECTORY:
                if self.stated[row] < len(self.way):
                    seen.clear()
                else:
                    seen.discard(numbers.get(index.basename(row), 0))


class _PartialLayerMerge(LayerMerge):
    def apply_traces(self, traces: Sequence[_Trace]) -> None:
        """Apply only the rows of these traces, as ``apply`` does with all rows."""
        index = self.index
        kinds, directories = index.kind, index.directory
        for row in sorted({row for trace in traces for row in trace.hiding}):
            self._hide(row, kinds[row])
        # (row, directory that it passes through, or -1 if the row itself is to be applied)
        events: set[tuple[int, int]] = set()
        for trace in traces:
            events.update((row, -1) for row in trace.stated)
            if not trace.is_plain(self.tree):
                events.update(trace.passing())
        # the order of several for one row does not matter: an entry creates its own parents
        for row, directory in sorted(events):
            if directory < 0:
                self._entries([(row, kinds[row], directories[row], index.basename(row))])
            else:
                self._directory(directory)


def through_symlinks(layers: Sequence[LayerIndex]) -> list[int]:
    """Return the numbers (from 0) of layers with a hard link whose target may lead through a symlink of any layer.
    Such a target is not a name of the file."""
    above: dict[int, set[bytes]] = {}
    for number, index in enumerate(layers):
        for row in index.rows_of(_HARDLINK):
            path = index.link(row).rpartition(b"/")[0]
            known = above.setdefault(number, set())
            while path and path not in known:
                known.add(path)
                path = path.rpartition(b"/")[0]
    every = set().union(*above.values())
    names = {path.rpartition(b"/")[2] for path in every}
    links = {
        index.path(row)
        for index in (layers if every else ())
        for row in index.rows_of(_SYMLINK)
        if index.basename(row) in names
    }
    return [number for number, known in above.items() if not known.isdisjoint(links)]


def _other_names(layers: Sequence[LayerIndex], paths: Iterable[bytes]) -> list[bytes]:
    """Return all paths that hard links of any layer connect with one of these paths, directly or through others."""
    joined: dict[bytes, list[bytes]] = {}
    for index in layers:
        for row in index.rows_of(_HARDLINK):
            path, target = index.path(row), index.link(row)
            joined.setdefault(path, []).append(target)
            joined.setdefault(target, []).append(path)
    found = {path: None for path in paths if path in joined}
    pending = list(found)
    while pending:
        for path in joined[pending.pop()]:
            if path not in found:
                found[path] = None
                pending.append(path)
    return list(found)


def _rows(column: bytes, value: int) -> Iterator[int]:
    """Yield the positions of a value in a column of four-byte numbers."""
    wanted = struct.pack("=I", value)
    place = column.find(wanted)
    while place >= 0:
        if place % 4:
            place = column.find(wanted, place + 1)
        else:
            yield place // 4
            place = column.find(wanted, place + 4)
