"""Contents of two sides compared by reading as little as it takes."""

from __future__ import annotations

from lamina.insight.side import SMALL, Side
from lamina.spec.digest import new_hasher

CHUNK = 1 << 20


class SideContents:
    """``diff.Contents`` of two sides."""

    def __init__(self, before: Side, after: Side) -> None:
        self._sides = (before, after)
        self._known: dict[tuple[object, int], bytes] = {}

    def same(self, before: int, after: int) -> bool:
        """Read side by side, large ones up to the first difference. Raises InvalidContent, SystemFailure."""
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
        side = self._sides[after]
        layer, row = side.tree.content(node)
        key = (side.layers[layer].diff_id, row)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = digest_of(side, node)
        return known


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
