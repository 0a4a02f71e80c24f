"""Compares the file contents of two sides, reading as little as possible."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from lamina.host.files import CHUNK, has_extent, reported
from lamina.insight.side import Side
from lamina.layer.file_content import SMALL
from lamina.layer.index import FLAG_SPARSE
from lamina.spec.digest import new_hasher

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_PIECE = 1 << 16  # compared within a core's cache, and small enough that malloc reuses the memory
_WORTH = 4  # a layer's digests are used if a quarter of its content would have to be read

_Asked = tuple[int, int, int, int]
"""A pair of nodes, and the rows that have their contents."""


class Digests(Protocol):
    """The content digests of one layer."""

    def by_row(self) -> dict[int, bytes]:
        """Return the known sha256 of regular files by row."""
        ...


class Digested(Protocol):
    """A layer that may have its content digests beside it."""

    def kept_digests(self) -> Digests | None:
        """None where they were not made yet."""
        ...


def _may_have_digests(layer: object) -> TypeIs[Digested]:
    return hasattr(layer, "kept_digests")


class SideContents:
    """``diff.FileContents`` of two sides."""

    def __init__(self, before: Side, after: Side) -> None:
        self._sides = (before, after)
        self._known: dict[object, dict[int, bytes]] = {}
        self._same: dict[tuple[int, int], bool] = {}

    def expect(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Compare as many of the pairs as possible at once. Raises InvalidContent, SystemFailure.

        Stored digests save reading. None are computed, because hashing both sides takes five times as long as
        comparing them.
        """
        before, after = (side.tree for side in self._sides)
        by_layers: dict[tuple[int, int], list[_Asked]] = {}
        for one, other in pairs:
            (layer, row), (other_layer, other_row) = before.content(one), after.content(other)
            by_layers.setdefault((layer, other_layer), []).append((one, other, row, other_row))
        self._recall(by_layers)
        for (layer, other_layer), asked in by_layers.items():
            self._compare(layer, other_layer, asked)

    def _recall(self, by_layers: dict[tuple[int, int], list[_Asked]]) -> None:
        """Load the stored digests of layers of which much would have to be read."""
        for number, side in enumerate(self._sides):
            for layer in {layers[number] for layers in by_layers}:
                handle = side.layers[layer]
                kept = handle.kept_digests() if _may_have_digests(handle) else None
                if kept is None:
                    continue
                index = handle.index()
                wanted = (asked for layers, asked in by_layers.items() if layers[number] == layer)
                size = sum(index.size[one[2 + number]] for asked in wanted for one in asked)
                if size * _WORTH >= index.content_size:
                    self._known[handle.diff_id] = kept.by_row()

    def _compare(self, layer: int, other_layer: int, asked: list[_Asked]) -> None:
        """Compare files of two layers: by digest if both are known, else directly if the tars of both are local
        files; other pairs are left to ``same``."""
        one, other = self._sides[0].layers[layer], self._sides[1].layers[other_layer]
        if one.diff_id in self._known and other.diff_id in self._known:
            known, other_known, left = self._known[one.diff_id], self._known[other.diff_id], []
            for four in asked:
                before, after, row, other_row = four
                if row in known and other_row in other_known:
                    self._same[before, after] = known[row] == other_known[other_row]
                else:
                    left.append(four)
            asked = left
        if not (_may_have_digests(one) and _may_have_digests(other) and hasattr(os, "pread")):
            return
        ours, theirs = one.index(), other.index()
        ranges, pairs = [], []
        for before, after, row, other_row in asked:
            if not (ours.flags[row] | theirs.flags[other_row]) & FLAG_SPARSE:
                ranges.append((ours.offset[row], theirs.offset[other_row], ours.size[row]))
                pairs.append((before, after))
        if len(ranges) < 2:
            return
        with ExitStack() as opened:
            streams = opened.enter_context(one.open()), opened.enter_context(other.open())
            if has_extent(streams[0]) and has_extent(streams[1]):
                (file, start, _), (other_file, other_start, _) = streams[0].extent(), streams[1].extent()
                with reported():
                    for pair, (at, other_at, size) in zip(pairs, ranges, strict=True):
                        same = _alike(file, other_file, start + at, other_start + other_at, size)
                        if same is not None:
                            self._same[pair] = same

    def same(self, before: int, after: int) -> bool:
        """Compare two files in parallel, large ones up to the first difference. Raises InvalidContent,
        SystemFailure."""
        compared = self._same.get((before, after))
        if compared is not None:
            return compared
        known = self._known_digest(before, after=False), self._known_digest(after, after=True)
        if None not in known:
            return known[0] == known[1]
        if self._sides[0].size(before) <= SMALL:
            return self._sides[0].read(before) == self._sides[1].read(after)
        with self._sides[0].open(before) as one, self._sides[1].open(after) as other:
            while True:
                piece = one.read(CHUNK)
                if piece != other.read(len(piece) if piece else 1):
                    return False
                if not piece:
                    return True

    def digest(self, node: int, *, after: bool) -> bytes:
        """Return the sha256; each entry of a layer is read once."""
        known = self._known_digest(node, after=after)
        if known is None:
            side = self._sides[after]
            layer, row = side.tree.content(node)
            known = digest_of(side, node)
            self._known.setdefault(side.layers[layer].diff_id, {})[row] = known
        return known

    def _known_digest(self, node: int, *, after: bool) -> bytes | None:
        side = self._sides[after]
        layer, row = side.tree.content(node)
        return self._known.get(side.layers[layer].diff_id, {}).get(row)


def _alike(one: int, other: int, at: int, other_at: int, size: int) -> bool | None:
    """Whether two open files have the same ``size`` bytes from these offsets; None if one is too short."""
    while size > 0:
        length = min(size, _PIECE)
        piece, other_piece = os.pread(one, length, at), os.pread(other, length, other_at)
        if len(piece) < length or len(other_piece) < length:
            return None
        if piece != other_piece:
            return False
        at, other_at, size = at + length, other_at + length, size - length
    return True


def digest_of(side: Side, node: int) -> bytes:
    """Return the sha256 of the regular file ``node``. Raises InvalidContent, SystemFailure."""
    hasher = new_hasher()
    if side.size(node) <= SMALL:
        hasher.update(side.read(node))
        return bytes.fromhex(hasher.hexdigest())
    with side.open(node) as stream:
        while data := stream.read(CHUNK):
            hasher.update(data)
    return bytes.fromhex(hasher.hexdigest())
