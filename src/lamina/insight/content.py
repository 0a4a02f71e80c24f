"""Contents of two sides compared by reading as little as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from lamina.insight.side import SMALL, Side
from lamina.spec.digest import new_hasher

CHUNK = 1 << 20
_WORTH = 4  # a layer's digests are asked for where a quarter of its content would have to be read


class Digests(Protocol):
    """The content digests of one layer."""

    def every(self) -> Iterator[tuple[int, str | None]]:
        """The row of each regular file with its sha256 (hex digits), None where nobody knows."""
        ...


@runtime_checkable
class Digested(Protocol):
    """A layer that keeps content digests, and makes them on first need in one pass over it."""

    def digests(self) -> Digests: ...


class SideContents:
    """``diff.Contents`` of two sides."""

    def __init__(self, before: Side, after: Side) -> None:
        self._sides = (before, after)
        self._known: dict[tuple[object, int], bytes] = {}

    def expect(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Fetch the digests of layers of which much would have to be read. Raises InvalidContent, SystemFailure."""
        for number, side in enumerate(self._sides):
            sizes: dict[int, int] = {}
            for pair in pairs:
                layer = side.tree.content(pair[number])[0]
                sizes[layer] = sizes.get(layer, 0) + side.size(pair[number])
            for layer, size in sizes.items():
                handle = side.layers[layer]
                if size * _WORTH >= handle.index().content_size and isinstance(handle, Digested):
                    for row, digest in handle.digests().every():
                        if digest is not None:
                            self._known[handle.diff_id, row] = bytes.fromhex(digest)

    def same(self, before: int, after: int) -> bool:
        """Read side by side, large ones up to the first difference. Raises InvalidContent, SystemFailure."""
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
        """sha256; each entry of a layer is read once."""
        known = self._known_digest(node, after=after)
        if known is None:
            side = self._sides[after]
            layer, row = side.tree.content(node)
            known = self._known[side.layers[layer].diff_id, row] = digest_of(side, node)
        return known

    def _known_digest(self, node: int, *, after: bool) -> bytes | None:
        side = self._sides[after]
        layer, row = side.tree.content(node)
        return self._known.get((side.layers[layer].diff_id, row))


def digest_of(side: Side, node: int) -> bytes:
    """sha256 of the regular file ``node``. Raises InvalidContent, SystemFailure."""
    hasher = new_hasher()
    if side.size(node) <= SMALL:
        hasher.update(side.read(node))
        return bytes.fromhex(hasher.hexdigest())
    with side.open(node) as stream:
        while data := stream.read(CHUNK):
            hasher.update(data)
    return bytes.fromhex(hasher.hexdigest())
