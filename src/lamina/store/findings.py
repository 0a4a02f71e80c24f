"""What a search has found, kept in columns (pure): a few numbers for each hit. Values are made when they are asked
for, so that hundreds of thousands of hits can be printed one after the other.

Many hits have the same places, such as all files of a layer that fifty images share. A *story* is a number that
stands for a list of places; a hit that is seen once more goes on to the next story.
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
_OF_THEIR_OWN = 0xFFFFFFFF
"""Stands for the layer's number where a hit is one of ``Findings.special``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image has a hit: ``name`` is canonical ("" for an untagged image), ``digest`` what it stands for,
    ``layer`` counts from 1 at the bottom. ``state``: "visible", or what hides it: "whiteout", "opaque" or "replaced",
    by layer ``by``."""

    name: str
    digest: Digest
    layer: int
    state: str
    by: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of one layer that fits, and all images that have it there. A hardlink has the kind and attributes of
    the file that it names, and ``entry.link`` that name. Entries with the same places share the tuple."""

    entry: Entry
    diff_id: Digest
    places: tuple[Place, ...]


class LayerHits:
    """What fits in one layer: ``rows`` of its index, rising, with their ``paths``; then the paths of the directories
    that it only goes through (``implied`` of them). ``targets``: for a hardlink (by its position in ``rows``) the row
    that it leads to, None where that is in another layer. ``index``: entries are made from it when they are asked
    for; where it is None they are kept in ``entries``."""

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
        self.stories = array("I", bytes(4 * len(rows)))
        self.entries: dict[int, Entry] = {}
        self.position: Callable[[int], int] = self._sought
        """The position of a row, -1 where it is no hit."""
        self._index = index
        if index is not None:
            table = array("i", [-1]) * len(index)
            for position, row in enumerate(rows):
                table[row] = position
            self.position = table.__getitem__

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def stand_alone(self) -> bool:
        """Whether no other layer says what an entry of these is."""
        return not self.targets and not self.implied

    def _sought(self, row: int) -> int:
        found = bisect_left(self.rows, row)
        return found if found < len(self.rows) and self.rows[found] == row else -1

    def keep(self, position: int, index: LayerIndex) -> None:
        """Make the entry now, unless its index stays at hand."""
        if self._index is None and position not in self.entries:
            self.entries[position] = index.entry(self.rows[position], self.paths[position])

    def entry(self, position: int) -> Entry:
        """The entry of a hit that was kept."""
        if self._index is None:
            return self.entries[position]
        return self._index.entry(self.rows[position], self.paths[position])


Member = tuple[Sequence[int], Sequence[tuple[str, Digest]]]
"""A stack's layers that matter (numbers from 0, bottom first), and the names and digests of the images made so."""


class Sighting:
    """Where images have a hit: ``members`` are stacks in whose layers that matter it is number ``layer`` (from 0), in
    this ``state``, hidden by number ``by`` of them."""

    def __init__(self, members: Sequence[Member], layer: int, state: str, by: int | None) -> None:
        self._members = members
        self._layer = layer
        self._state = state
        self._by = by
        self.following: dict[int, int] = {}
        """For a story, the one that goes on with this sighting."""

    def places(self) -> Iterator[Place]:
        for numbers, images in self._members:
            layer, by = numbers[self._layer] + 1, None if self._by is None else numbers[self._by] + 1
            for name, digest in images:
                yield Place(name, digest, layer, self._state, by)


class Stories:
    """All lists of places, by number; 0 is the empty one."""

    def __init__(self) -> None:
        self._before = array("I", [0])
        self._sightings: list[Sighting | None] = [None]
        self.places = lru_cache(maxsize=1000)(self._places)
        """The places of a story, by name, digest and layer."""

    def after(self, story: int, sighting: Sighting) -> int:
        """The story that goes on with this sighting."""
        following = sighting.following.get(story)
        if following is None:
            following = sighting.following[story] = len(self._before)
            self._before.append(story)
            self._sightings.append(sighting)
        return following

    def _places(self, story: int) -> tuple[Place, ...]:
        found: list[Place] = []
        while sighting := self._sightings[story]:
            found += sighting.places()
            story = self._before[story]
        found.sort(key=lambda place: (place.name, str(place.digest), place.layer))
        return tuple(found)


@dataclass(slots=True)
class Special:
    """A hit whose entry other layers make what it is: a hardlink, or a directory that no layer states. The same hit
    can be several of these."""

    entry: Entry
    diff_id: Digest
    story: int = 0


class Findings(Sequence[Found]):
    """Everything found, in order of path, layer and diff_id. Each value is made when it is asked for."""

    def __init__(
        self,
        diff_ids: Sequence[Digest],
        hits: Mapping[int, LayerHits],
        special: Sequence[Special],
        nodes_by_path: Stories,
    ) -> None:
        """``hits``: by the number of the layer in ``diff_ids``."""
        self._diff_ids = diff_ids
        self._hits = hits
        self._special = special
        self._stories = nodes_by_path
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
        if number == _OF_THEIR_OWN:
            special = self._special[position]
            return Found(special.entry, special.diff_id, self._stories.places(special.story))
        hits = self._hits[number]
        return Found(hits.entry(position), self._diff_ids[number], self._stories.places(hits.stories[position]))

    def _ordered(self) -> array[int]:
        """The layer's number and the position of each hit that an image has, as one number."""
        which = array("Q")
        paths: list[bytes] = []
        for number, hits in self._hits.items():
            seen = [position for position, story in enumerate(hits.stories) if story]
            which.extend([number << 32 | position for position in seen])
            paths += map(hits.paths.__getitem__, seen)
        which.extend(_OF_THEIR_OWN << 32 | position for position in range(len(self._special)))
        paths += [special.entry.path for special in self._special]
        ordered = array("Q")
        for _, group in groupby(sorted(range(len(paths)), key=paths.__getitem__), key=paths.__getitem__):
            same = [which[place] for place in group]
            if len(same) > 1:
                same.sort(key=self._rank)
            ordered.extend(same)
        return ordered

    def _rank(self, which: int) -> tuple[int, str]:
        """Among hits of one path."""
        number, position = which >> 32, which & 0xFFFFFFFF
        if number == _OF_THEIR_OWN:
            diff_id, story = self._special[position].diff_id, self._special[position].story
        else:
            diff_id, story = self._diff_ids[number], self._hits[number].stories[position]
        return min(place.layer for place in self._stories.places(story)), str(diff_id)
