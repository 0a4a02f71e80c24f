"""The rows of a layer at or below some paths (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex


def at_or_below(tops: Sequence[bytes]) -> Callable[[bytes], bool]:
    """Return a function that says whether a path is one of these or below one."""
    exact = frozenset(tops)
    inside = tuple(top + b"/" for top in tops)

    def is_below(path: bytes) -> bool:
        return path in exact or path.startswith(inside)

    return is_below


def stated_rows(index: LayerIndex, tops: Sequence[bytes]) -> list[int]:
    """Return the rows that state one of these paths or a path below, without whiteouts and opaque marks."""
    return [row for row in _rows(index, tops) if index.kind[row] not in (Kind.WHITEOUT, Kind.OPAQUE)]


def mentions(index: LayerIndex, tops: Sequence[bytes]) -> bool:
    """Whether the layer has a row there, including whiteouts and opaque marks, or a hard link to a target there. A
    target that leads there through a symlink is not found (``union.partial.through_symlinks``)."""
    gone = at_or_below(tops)
    return bool(_rows(index, tops)) or any(
        kind == Kind.HARDLINK and gone(index.link(row)) for row, kind in enumerate(index.kind)
    )


def _rows(index: LayerIndex, tops: Sequence[bytes]) -> list[int]:
    gone = at_or_below(tops)
    parents = {top.rpartition(b"/")[0] for top in tops}
    names = {top.rpartition(b"/")[2] for top in tops}
    inside, beside = set(), set()
    for number in range(index.directory_count):
        path = index.directory_path(number)
        if gone(path):
            inside.add(number)
        elif path in parents:
            beside.add(number)
    if not inside and not beside:
        return []
    return [
        row
        for row, directory in enumerate(index.directory)
        if directory in inside or (directory in beside and index.basename(row) in names and gone(index.path(row)))
    ]
