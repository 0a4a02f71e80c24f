"""Finding files in many images at once, by name, attributes and content, whether visible or hidden (pure).

Each distinct layer is searched once, in its columns and its heap of names. Only images whose layers have a hit are
examined, and only the paths of these hits are merged (``union.partial``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypedDict

from lamina.errors import InvalidContent, NotFound, Unsupported, UsageError
from lamina.layer.attribute_filter import Filter, parse_kinds, parse_owner, parse_perm, parse_size
from lamina.layer.entry import Entry, Kind
from lamina.source.search_hits import (
    VISIBLE,
    DependentHit,
    Found,
    GroupPlace,
    LayerHits,
    PlaceLists,
    SearchHits,
    StackImages,
)
from lamina.spec.digest import Digest
from lamina.union.merge import merge
from lamina.union.partial import MANY, PartialMerge, through_symlinks
from lamina.union.tree import UNSTATED

if TYPE_CHECKING:
    from typing import Unpack

    from lamina.layer.file_digests import LayerDigests
    from lamina.layer.index import LayerIndex
    from lamina.layer.name_search import Pattern

_MANY_OPEN = 500
"""After this number of mapped indexes all are closed before the next image: each holds a file descriptor."""
_MANY_ROWS = 1000
"""From this number of rows on it is faster to compute the paths of all directories of a layer, and to make entries
only on demand."""
_DIRECTORY, _HARDLINK, _WHITEOUT = int(Kind.DIRECTORY), int(Kind.HARDLINK), int(Kind.WHITEOUT)


_ALL = Filter()

Name = tuple[str, str]
"""A canonical name ("" for an untagged image), and the digest that it points to (of the index, if it is one)."""


@dataclass
class LayerMap:
    """``layers``: distinct diff_ids. ``stacks``: for each stack of layers (their numbers, bottom first) the names of
    the images that have it. ``unread``: images that can't be read, as (name or digest, reason). Artifacts, and images
    of which nothing was fetched for the platform, are in neither."""

    layers: list[Digest] = field(default_factory=list)
    stacks: dict[tuple[int, ...], list[Name]] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)


class Words(TypedDict, total=False):
    """The options of `find` besides the pattern, as users write them; see ``layer.filter``."""

    regex: bool
    """The pattern is a regular expression, not a glob."""
    digest: str
    """The sha256:HEX digest of the content."""
    type: str
    size: str
    perm: str
    owner: str
    ghosts: bool
    """Also find files that the images contain but hide."""


@dataclass(frozen=True, slots=True)
class Query:
    """``digest``: of the content (sha256). ``ghosts``: also find files that the images contain but hide."""

    pattern: Pattern | None = None
    filter: Filter = _ALL
    digest: Digest | None = None
    ghosts: bool = False

    @classmethod
    def of(cls, pattern: str | None = None, **words: Unpack[Words]) -> Query:
        """Build a query from the options of `find`. The pattern is a glob on the base name (on the whole path if it
        contains a slash), or a regular expression; an empty text means no option. Raises UsageError; Unsupported
        (another digest algorithm); TypeError (an unknown option)."""
        from lamina.layer.name_search import expression, glob

        unknown = words.keys() - Words.__annotations__.keys()
        if unknown:
            raise TypeError(f"find takes no {', '.join(sorted(unknown))}")
        regex, digest, owner = words.get("regex", False), words.get("digest"), words.get("owner")
        wanted = Digest.parse(digest) if digest else None
        if wanted is not None and wanted.algorithm != "sha256":
            raise Unsupported(
                f"can't search for a {wanted.algorithm!r:.60} digest: contents are recorded by sha256",
                hint="give a sha256 digest",
            )
        uid, gid = parse_owner(owner) if owner else (None, None)
        found = None
        if pattern is not None:
            found = (expression if regex else glob)(os.fsencode(pattern))
        elif regex:
            raise UsageError("-E needs a pattern", hint="add a regular expression: -E '^lib.*\\.so$'")
        kinds, size, perm = words.get("type"), words.get("size"), words.get("perm")
        return cls(
            found,
            Filter(
                parse_kinds(kinds) if kinds else frozenset(),
                parse_size(size) if size else None,
                parse_perm(perm) if perm else None,
                uid,
                gid,
            ),
            wanted,
            words.get("ghosts", False),
        )


@dataclass(frozen=True, slots=True)
class Search:
    """The result of a search. ``found``: the hits in order of path and layer, made on demand; iterating over this
    iterates over them. ``unread``: images that could not be searched, and why."""

    found: Sequence[Found]
    unread: tuple[tuple[str, str], ...]
    cut: bool = False
    """There may be more hits: there were too many."""

    def __iter__(self) -> Iterator[Found]:
        return iter(self.found)


class Indexes(Protocol):
    """The indexes of the layers of a ``LayerMap``, by their numbers there."""

    def open(self, number: int) -> LayerIndex:
        """Raises NotFound, InvalidContent: the images with this layer are then not searched."""
        ...

    def digests(self, number: int, index: LayerIndex) -> LayerDigests:
        """The digests of the layer's files, for a query by content."""
        ...


def find_in(known: LayerMap, query: Query, indexes: Indexes, *, most: int | None = None) -> Search:
    """Search the images of a map. ``most``: the approximate number of hits after which no further layer is
    searched."""
    search = _Search(query, known, indexes, most)
    found = search.run()
    return Search(found, (*known.unread, *search.unread), search.cut)


class _RelevantLayers:
    """Which layers of a stack can affect the hits in it: layers with hits, and layers that state or hide the path of
    a hit, replace a directory above it, or go through it. All other layers leave these paths unchanged. If a hit is a
    hard link, or a directory that no layer states, all layers matter."""

    def __init__(self, opened: Callable[[int], LayerIndex], hits: Mapping[int, LayerHits]) -> None:
        self._opened = opened
        self._hits = hits
        self._paths: dict[frozenset[int], _PathsAndParents | None] = {}
        self._matters: dict[tuple[int, frozenset[int]], bool] = {}

    def of(self, stack: Sequence[int]) -> Sequence[int]:
        """The numbers (from 0) of the layers that matter, bottom first."""
        having = frozenset(number for number in stack if number in self._hits)
        if having.issuperset(stack):
            return range(len(stack))
        if having not in self._paths:
            self._paths[having] = self._paths_of_hits(having)
        paths = self._paths[having]
        if paths is None:
            return range(len(stack))
        return [
            place for place, number in enumerate(stack) if number in having or self._affects(number, having, paths)
        ]

    def _paths_of_hits(self, having: frozenset[int]) -> _PathsAndParents | None:
        hits = [self._hits[number] for number in having]
        if not all(found.are_independent for found in hits):
            return None
        return _PathsAndParents({path for found in hits for path in found.paths})

    def _affects(self, number: int, having: frozenset[int], paths: _PathsAndParents) -> bool:
        key = (number, having)
        if key not in self._matters:
            self._matters[key] = paths.is_touched_by(self._opened(number))
        return self._matters[key]


class _PathsAndParents:
    """A set of paths and of all directories above them."""

    def __init__(self, paths: set[bytes]) -> None:
        self._paths = paths
        self._all = {b""}
        for path in paths:
            while path not in self._all:
                self._all.add(path)
                path = path.rpartition(b"/")[0]
        self._names = {path.rpartition(b"/")[2] for path in self._all}  # b"" is also the name of opaque marks

    def is_touched_by(self, index: LayerIndex) -> bool:
        names, kinds = self._names, index.kind
        for row, name in enumerate(index.each_basename()):
            if name in names:
                path = index.path(row)
                if path in self._paths or (path in self._all and kinds[row] != _DIRECTORY):
                    return True
        return any(
            index.directory_name(number) in names and index.directory_path(number) in self._paths
            for number in range(1, index.directory_count)
        )


class _Search:
    def __init__(self, query: Query, known: LayerMap, source: Indexes, most: int | None) -> None:
        self._query = query
        self._source = source
        self._most = most
        self.cut = False
        self._layers = known.layers
        self._stacks = known.stacks
        self._indexes: dict[int, LayerIndex] = {}
        self._partial_merge = PartialMerge()
        self._place_lists = PlaceLists()
        self._dependent: dict[tuple[int, int, tuple[int, int]], DependentHit] = {}
        self._at_hand = 0
        self.unread: list[tuple[str, str]] = []

    def run(self) -> SearchHits:
        hits, broken = self._hits()
        groups: dict[tuple[int, ...], list[StackImages]] = {}
        concerned = hits.keys() | broken.keys()
        relevant = _RelevantLayers(self._open, hits)
        for stack, names in self._stacks.items():
            if concerned.isdisjoint(stack):
                continue
            why = next((broken[number] for number in stack if number in broken), None)
            if why is not None:
                self.unread += [(name or digest, why) for name, digest in names]
                continue
            images = [(name, Digest.parse(digest)) for name, digest in names]
            numbers = relevant.of(stack)
            groups.setdefault(tuple(stack[number] for number in numbers), []).append((numbers, images))
        for stack, alike in groups.items():  # images that differ only in other layers are handled together
            self._add_places(stack, alike, hits)
        return SearchHits(self._layers, hits, tuple(self._dependent.values()), self._place_lists)

    def _hits(self) -> tuple[dict[int, LayerHits], dict[int, str]]:
        """The hits in each distinct layer, before images are considered; and the layers that can't be read."""
        hits, broken, count = {}, {}, 0
        for number in sorted(set().union(*self._stacks)):
            if self._most is not None and count >= self._most:
                self.cut = True
                break
            try:
                found = self._hits_of(number, self._open(number))
            except (NotFound, InvalidContent) as error:
                broken[number] = error.message
                continue
            if found:
                hits[number] = found
                count += len(found)
        return hits, broken

    def _hits_of(self, number: int, index: LayerIndex) -> LayerHits:
        from lamina.layer.name_search import rows_that_fit

        query, kinds = self._query, index.kind
        named = None if query.pattern is None else list(rows_that_fit(index, query.pattern))
        rows: Sequence[int] = query.filter.rows(index, named) if named is None or named else []
        if query.digest is not None and rows:
            same = set(self._digests(number, index).rows(query.digest.encoded))
            rows = [row for row in rows if row in same or kinds[row] == _HARDLINK]
        if self._most is not None and len(rows) > self._most:
            rows, self.cut = rows[: self._most], True
        rows, targets = self._linked(number, index, rows)
        paths = list(map(index.path if len(rows) < _MANY_ROWS else _paths_of(index), rows))
        implied = []
        if query.digest is None and query.filter.takes_implied:
            implied = _directories(index, query.pattern)
            if self._most is not None and len(implied) > self._most:
                implied, self.cut = implied[: self._most], True
        stays = len(rows) >= _MANY_ROWS and self._at_hand < _MANY_OPEN
        self._at_hand += stays
        return LayerHits(rows, paths + implied, targets, len(implied), index if stays else None)

    def _linked(
        self, number: int, index: LayerIndex, rows: Sequence[int]
    ) -> tuple[Sequence[int], dict[int, int | None]]:
        """The rows without hard links to files that do not match; and for each other hard link, by its position among
        the rows, the row that it links to, or None if that is in another layer."""
        kinds = index.kind
        if not any(kinds[row] == _HARDLINK for row in rows):
            return rows, {}
        # a target whose path leads through a symlink is looked up in the union
        known = () if through_symlinks([index]) else enumerate(kinds)
        files = {index.path(other): other for other, kind in known if kind < _WHITEOUT}
        left: list[int] = []
        targets: dict[int, int | None] = {}
        for row in rows:
            if kinds[row] == _HARDLINK:
                target = _target(index, files, row)
                if target is not None and not self._fits(number, index, target):
                    continue
                targets[len(left)] = target
            left.append(row)
        return left, targets

    def _fits(self, number: int, index: LayerIndex, row: int) -> bool:
        if not self._query.filter.fits(index, row):
            return False
        return self._query.digest is None or self._digests(number, index).of(row) == self._query.digest.encoded

    def _add_places(
        self, stack: tuple[int, ...], images: Sequence[StackImages], hits: Mapping[int, LayerHits]
    ) -> None:
        """Record for each hit in a stack of layers whether it is visible there, or what hides it."""
        if len(self._indexes) > _MANY_OPEN:
            self._indexes.clear()
            self._partial_merge = PartialMerge()
        layers = [self._open(number, keep=True) for number in stack]
        having = [hits.get(number) for number in stack]
        if any(found is not None and len(found) > MANY for found in having):
            tree = merge(layers)
        else:
            tree = self._partial_merge.tree(
                layers, {path for found in having if found is not None for path in found.paths}
            )
        places: dict[tuple[int, int, int], GroupPlace] = {}

        def seen(place_list: int, node: int, layer: int) -> int:
            """The list of places of a hit at this node; 0 if it was not asked for."""
            ending = tree.ending(node)
            if ending is not None and not self._query.ghosts:
                return place_list
            key = (layer, 0, 0) if ending is None else (layer, ending.how, ending.layer)
            place = places.get(key)
            if place is None:
                state, by = (VISIBLE, None) if ending is None else (ending.how.name.lower(), ending.layer)
                place = places[key] = GroupPlace(images, layer, state, by)
            return self._place_lists.after(place_list, place)

        for node, (layer, row) in enumerate(zip(tree.origin_layers, tree.rows, strict=True)):
            # A row without a node is a directory that is stated twice, or a link to itself: the other row is
            # recorded.
            found = having[layer]
            if found is None or row == UNSTATED or (position := found.position(row)) < 0:
                continue
            if node in tree.hardlinks:
                holder, row = tree.content(node)
                if found.targets[position] is None and not self._fits(stack[holder], layers[holder], row):
                    continue
                entry = replace(tree.entry(node), link=layers[layer].link(found.rows[position]))
                self._add_dependent((stack[layer], position, (stack[holder], row)), entry, seen, node, layer)
                continue
            place_list = found.place_lists[position] = seen(found.place_lists[position], node, layer)
            if place_list:
                found.keep(position, layers[layer])
        for layer, found in enumerate(having):
            if found is None:
                continue
            for position in range(len(found.rows), len(found)):
                implied = tree.find(found.paths[position])
                if implied is not None and (tree.origin_layers[implied], tree.rows[implied]) == (layer, UNSTATED):
                    key = (stack[layer], position, (stack[layer], UNSTATED))
                    self._add_dependent(key, tree.entry(implied), seen, implied, layer)

    def _add_dependent(
        self,
        key: tuple[int, int, tuple[int, int]],
        entry: Entry,
        seen: Callable[[int, int, int], int],
        node: int,
        layer: int,
    ) -> None:
        dependent = self._dependent.get(key)
        place_list = seen(0 if dependent is None else dependent.place_list, node, layer)
        if dependent is not None:
            dependent.place_list = place_list
        elif place_list:
            self._dependent[key] = DependentHit(entry, self._layers[key[0]], place_list)

    def _open(self, number: int, *, keep: bool = False) -> LayerIndex:
        index = self._indexes.get(number)
        if index is None:
            index = self._source.open(number)
            if keep:
                self._indexes[number] = index
        return index

    def _digests(self, number: int, index: LayerIndex) -> LayerDigests:
        return self._source.digests(number, index)


def _paths_of(index: LayerIndex) -> Callable[[int], bytes]:
    """Like ``index.path``, for many rows."""
    directories, numbers, basename = index.directory_paths(), index.directory, index.basename

    def path_of(row: int) -> bytes:
        above, name = directories[numbers[row]], basename(row)
        return above + b"/" + name if above and name else above or name

    return path_of


def _target(index: LayerIndex, files: dict[bytes, int], row: int) -> int | None:
    """The row of the same layer that a hard link links to, directly or through other hard links. Each target must be
    in an earlier row."""
    while True:
        found = files.get(index.link(row))
        if found is None or found >= row:
            return None
        if index.kind[found] != _HARDLINK:
            return found
        row = found


def _directories(index: LayerIndex, pattern: Pattern | None) -> list[bytes]:
    """The matching paths of directories in the layer, including those that only occur as parents."""
    if pattern is not None and pattern.literal and not index.has_directory_with(pattern.literal):
        return []
    paths = index.directory_paths()[1:]
    return paths if pattern is None else [path for path in paths if pattern.fits(path)]
