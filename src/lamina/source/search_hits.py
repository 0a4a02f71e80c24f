"""The results of a search, stored in columns with a few numbers for each hit (pure). Values are made on
demand, so that hundreds of thousands of hits can be printed one by one.

Many hits have the same places, for example all files of a layer that fifty images share. So each list of places has a
number (``place_list``); when a hit is seen once more, it gets the number of the list with that place added.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, overload

from lamina.layer.entry import Entry
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex

VISIBLE = "visible"
_DEPENDENT = 0xFFFFFFFF
"""Used as the layer's number for a hit that is in ``SearchHits._dependent``."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An image that has a hit. ``name`` is canonical ("" for an untagged image); ``digest``: what the name points to;
    ``layer`` counts from 1 at the bottom. ``state``: "visible", or what hides the hit: "whiteout", "opaque" or
    "replaced", by layer ``by``."""

    name: str
    digest: Digest
    layer: int
    state: str
    by: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of one layer that matches, and all images that have it there. A hard link has the kind and attributes
    of the file that it links to; ``entry.link`` is the name of that file. Entries with the same places share the
    tuple."""

    entry: Entry
    diff_id: Digest
    places: tuple[Occurrence, ...]


class LayerHits:
    """The hits in one layer. First ``rows`` of its index, in rising order, with their ``paths``; then the paths of
    directories that only occur as parents of other paths (``implied`` of them). ``targets``: for a hard link (by its
    position in ``rows``) the row that it links to, None if that is in another layer. ``index``: entries are made from
    it on demand; if it is None, they are kept in ``entries``."""

    def __init__(
        self,
        rows: Sequence[int],
        paths: list[bytes],
        targets: Mapping[int, int | None],
        implied: int,
        index: LayerIndex | None,
    ) -> None:
        self.rows = array("I", rows)
        self.paths = paths
        self.targets = targets
        self.implied = implied
        self.place_lists = array("I", bytes(4 * len(rows)))
        self.entries: dict[int, Entry] = {}
        self.position: Callable[[int], int] = self._sought
        """The position of a row; -1 if it is not a hit."""
        self._index = index
        if index is not None:
            table = array("i", [-1]) * len(index)
            for position, row in enumerate(rows):
                table[row] = position
            self.position = table.__getitem__

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def are_independent(self) -> bool:
        """Whether the entries of these hits do not depend on other layers."""
        return not self.targets and not self.implied

    def _sought(self, row: int) -> int:
        found = bisect_left(self.rows, row)
        return found if found < len(self.rows) and self.rows[found] == row else -1

    def keep(self, position: int, index: LayerIndex) -> None:
        """Make the entry now, unless the index stays open."""
        if self._index is None and position not in self.entries:
            self.entries[position] = index.entry(self.rows[position], self.paths[position])

    def entry(self, position: int) -> Entry:
        """The entry of a hit that was kept."""
        if self._index is None:
            return self.entries[position]
        return self._index.entry(self.rows[position], self.paths[position])


StackImages = tuple[Sequence[int], Sequence[tuple[str, Digest]]]
"""The layers of a stack that matter (numbers from 0, bottom first), and the names and digests of the images that have
this stack."""


class GroupPlace:
    """One place of a hit, for a group of images. ``stacks``: stacks and their images; among the layers of each stack
    that matter, the hit is in number ``layer`` (from 0), in this ``state``, hidden by number ``by``."""

    def __init__(self, stacks: Sequence[StackImages], layer: int, state: str, by: int | None) -> None:
        self._stacks = stacks
        self._layer = layer
        self._state = state
        self._by = by
        self.following: dict[int, int] = {}
        """From the number of a list to the number of the list with this place added."""

    def places(self) -> Iterator[Occurrence]:
        for numbers, images in self._stacks:
            layer, by = numbers[self._layer] + 1, None if self._by is None else numbers[self._by] + 1
            for name, digest in images:
                yield Occurrence(name, digest, layer, self._state, by)


class PlaceLists:
    """All lists of places, by number; number 0 is the empty list."""

    def __init__(self) -> None:
        self._before = array("I", [0])
        self._added: list[GroupPlace | None] = [None]
        self.places = lru_cache(maxsize=1000)(self._places)
        """The places of a list, sorted by name, digest and layer."""

    def after(self, place_list: int, place: GroupPlace) -> int:
        """The number of the list with this place added."""
        following = place.following.get(place_list)
        if following is None:
            following = place.following[place_list] = len(self._before)
            self._before.append(place_list)
            self._added.append(place)
        return following

    def _places(self, place_list: int) -> tuple[Occurrence, ...]:
        found: list[Occurrence] = []
        while place := self._added[place_list]:
            found += place.places()
            place_list = self._before[place_list]
        found.sort(key=lambda place: (place.name, str(place.digest), place.layer))
        return tuple(found)


@dataclass(slots=True)
class DependentHit:
    """A hit whose entry depends on other layers: a hard link, or a directory that no layer states. One hit may have
    several of these."""

    entry: Entry
    diff_id: Digest
    place_list: int = 0


class SearchHits(Sequence[Found]):
    """All hits, in the order of path, layer and diff_id. Each value is made on demand."""

    def __init__(
        self,
        diff_ids: Sequence[Digest],
        hits: Mapping[int, LayerHits],
        dependent: Sequence[DependentHit],
        place_lists: PlaceLists,
    ) -> None:
        """``hits``: by the position of the layer in ``diff_ids``."""
        self._diff_ids = diff_ids
        self._hits = hits
        self._dependent = dependent
        self._place_lists = place_lists
        self._order = self._ordered()

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> Found: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Found, ...]: ...

    def __getitem__(self, at: int | slice) -> Found | tuple[Found, ...]:
        if isinstance(at, slice):
            return tuple(map(self._found, self._order[at]))
        return self._found(self._order[at])

    def __iter__(self) -> Iterator[Found]:
        return map(self._found, self._order)

    def __reduce__(self) -> tuple[object, ...]:
        return tuple, (tuple(self),)

    def _found(self, which: int) -> Found:
        number, position = which >> 32, which & 0xFFFFFFFF
        if number == _DEPENDENT:
            dependent = self._dependent[position]
            return Found(dependent.entry, dependent.diff_id, self._place_lists.places(dependent.place_list))
        hits = self._hits[number]
        return Found(
            hits.entry(position), self._diff_ids[number], self._place_lists.places(hits.place_lists[position])
        )

    def _ordered(self) -> array[int]:
        """All hits that an image has, in order. Each is one number: the layer's number, and the position of the
        hit."""
        which = array("Q")
        paths: list[bytes] = []
        for number, hits in self._hits.items():
            seen = [position for position, place_list in enumerate(hits.place_lists) if place_list]
            which.extend([number << 32 | position for position in seen])
            paths += map(hits.paths.__getitem__, seen)
        which.extend(_DEPENDENT << 32 | position for position in range(len(self._dependent)))
        paths += [dependent.entry.path for dependent in self._dependent]
        ordered = array("Q")
        for _, group in groupby(sorted(range(len(paths)), key=paths.__getitem__), key=paths.__getitem__):
            same = [which[place] for place in group]
            if len(same) > 1:
                same.sort(key=self._rank)
            ordered.extend(same)
        return ordered

    def _rank(self, which: int) -> tuple[int, str]:
        """The sort key of a hit among the hits with the same path."""
        number, position = which >> 32, which & 0xFFFFFFFF
        if number == _DEPENDENT:
            diff_id, place_list = self._dependent[position].diff_id, self._dependent[position].place_list
        else:
            diff_id, place_list = self._diff_ids[number], self._hits[number].place_lists[position]
        return min(place.layer for place in self._place_lists.places(place_list)), str(diff_id)
