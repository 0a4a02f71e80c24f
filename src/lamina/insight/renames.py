"""Detects renames: a removed and an added file with the same content are reported as one change (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lamina.insight.change import ADDED, REMOVED, RENAMED, Change, Contents, differences
from lamina.layer.entry import Entry, Kind
from lamina.union.tree import Tree

if TYPE_CHECKING:
    from collections import deque


def with_renames(
    found: list[Change], before: Tree, after: Tree, contents: Contents, ignore: frozenset[str]
) -> list[Change]:
    """Return ``found`` with each pair as one change, at the new path. Files with the same base name are paired first,
    then in order. Only files of a size that was both removed and added are read; empty files are too similar to pair.
    """
    gone = [change for change in found if change.how == REMOVED and _has_bytes(change.before)]
    came = [change for change in found if change.how == ADDED and _has_bytes(change.after)]
    sizes = {_size(change.before) for change in gone} & {_size(change.after) for change in came}
    gone = [change for change in gone if _size(change.before) in sizes]
    came = [change for change in came if _size(change.after) in sizes]
    if not gone:
        return found
    old = _digests(before, [change.before_node for change in gone], contents, after=False)
    new = _digests(after, [change.after_node for change in came], contents, after=True)
    pairs = _paired(gone, came, old, new)
    moved = {was.before_node for was in pairs.values()}
    result = []
    for change in found:
        was = pairs.get(change.after_node) if change.how == ADDED else None
        if was is not None and was.before is not None and change.after is not None:
            fields = tuple(name for name in differences(was.before, change.after) if name not in ignore)
            nodes = was.before_node, change.after_node
            result.append(Change(RENAMED, change.path, was.before, change.after, fields, *nodes))
        elif change.how != REMOVED or change.before_node not in moved:
            result.append(change)
    return result


def _paired(
    gone: list[Change], came: list[Change], old: dict[int, bytes], new: dict[int, bytes]
) -> dict[int, Change]:
    """Map added nodes to the change that removed their old path."""
    pairs: dict[int, Change] = {}
    taken: set[int] = set()
    for with_name in (True, False):
        waiting: dict[tuple[bytes, bytes], deque[Change]] = {}
        for was in gone:
            if was.before_node not in taken:
                _queue(waiting, (old[was.before_node], _name(was) if with_name else b"")).append(was)
        for now in came:
            if now.after_node in pairs:
                continue
            left = waiting.get((new[now.after_node], _name(now) if with_name else b""))
            if left:
                pairs[now.after_node] = was = left.popleft()
                taken.add(was.before_node)
    return pairs


def _queue(waiting: dict[tuple[bytes, bytes], deque[Change]], key: tuple[bytes, bytes]) -> deque[Change]:
    from collections import deque

    return waiting.setdefault(key, deque())


def _digests(tree: Tree, nodes: Iterable[int], contents: Contents, *, after: bool) -> dict[int, bytes]:
    """Return the digests of nodes, read in archive order."""

    def place(node: int) -> tuple[int, int]:
        layer, row = tree.content(node)
        return layer, tree.layers[layer].offset[row]

    return {node: contents.digest(node, after=after) for node in sorted(nodes, key=place)}


def _has_bytes(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == Kind.FILE and entry.size > 0


def _size(entry: Entry | None) -> int:
    return 0 if entry is None else entry.size


def _name(change: Change) -> bytes:
    return change.path.rpartition(b"/")[2]
