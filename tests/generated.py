"""Generated stacks of layers, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex


def build(layer: list[tuple[Kind, bytes, bytes, int, int]]) -> LayerIndex:
    builder = IndexBuilder()
    for kind, path, target, mode, size in layer:
        builder.add(path, int(kind), mode, 0, 0, size if kind == Kind.FILE else 0, 0, 0, 0, target)
    return builder.finish(0)


names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
kinds = st.sampled_from(
    [Kind.FILE] * 4
    + [Kind.DIRECTORY] * 4
    + [Kind.SYMLINK, Kind.FIFO]
    + [Kind.HARDLINK] * 2
    + [Kind.WHITEOUT] * 3
    + [Kind.OPAQUE]
)
stacks: Any = st.lists(
    st.lists(st.tuples(kinds, paths, paths, st.sampled_from([0o600, 0o644, 0o755])), max_size=8),
    min_size=1,
    max_size=5,
)


def numbered(stack: Any) -> list[list[tuple[Kind, bytes, bytes, int, int]]]:
    return [
        [
            (kind, path, target if kind in (Kind.HARDLINK, Kind.SYMLINK) else b"", mode, number * 100 + row + 1)
            for row, (kind, path, target, mode) in enumerate(layer)
        ]
        for number, layer in enumerate(stack)
    ]
