"""Generated stacks whose files have contents, as sides to be compared and weighed."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import strategies as st

from generated import ROOT_OPAQUE, kinds, layer_of, paths, several
from lamina.insight.side import Side
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.spec.digest import Digest

CONTENTS = (b"", b"aa", b"bb", b"ccc")  # two of one size


class MadeLayer:
    """A layer in memory; ``diff_id`` is that of what it was made of and of what its files hold."""

    def __init__(self, entries: list[Any]) -> None:
        builder, data = IndexBuilder(), b""
        for kind, path, target, mode, content, uid, mtime in entries:
            at = len(data)
            size = len(content) if kind == Kind.FILE else 0
            data += content if kind == Kind.FILE else b""
            directory = kind == Kind.DIRECTORY
            link = target if kind in (Kind.HARDLINK, Kind.SYMLINK) else b""
            builder.add(
                path, int(kind), mode, 0 if directory else uid, 0, size, at, 0 if directory else mtime, 0, link
            )
        self._index, self._data = builder.finish(len(data)), data
        self.diff_id = Digest.of(repr(entries).encode())
        self.opened = 0

    def index(self) -> LayerIndex:
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> io.BytesIO:
        self.opened += 1
        return io.BytesIO(self._data[start:end])


entries = st.tuples(
    kinds,
    paths,
    paths,
    st.sampled_from([0o600, 0o755]),
    st.sampled_from(CONTENTS),
    st.sampled_from([0, 7]),
    st.sampled_from([0, 5]),
)
together = st.tuples(several, st.sampled_from(CONTENTS)).map(
    lambda pair: [(*entry, pair[1], 0, 0) for entry in pair[0]],
)
layers: Any = st.lists(layer_of(entries, together, (*ROOT_OPAQUE, b"", 0, 0), 7), min_size=0, max_size=3)


def _twin(entry: Any) -> Any:
    """The entry, mostly as it is, sometimes with one field changed: what the other side is likely to have."""
    kind, path, target, mode, content, uid, mtime = entry
    return st.one_of(
        st.just(entry),
        st.just((kind, path, target, mode ^ 0o155, content, uid, mtime)),
        st.sampled_from(CONTENTS).map(lambda other: (kind, path, target, mode, other, uid, mtime)),
        st.just((kind, path, target, mode, content, 7 - uid, mtime)),
        st.just((kind, path, target, mode, content, uid, 5 - mtime)),
        paths.map(lambda other: (kind, other, target, mode, content, uid, mtime)),
        paths.map(lambda other: (kind, path, other, mode, content, uid, mtime)),
        st.just((Kind.FILE, path, b"", mode, content, uid, mtime)),
    )


def _twins(stack: Any) -> Any:
    return st.tuples(
        st.just(stack), st.tuples(*(st.tuples(*map(_twin, layer)).map(list) for layer in stack)).map(list)
    )


twins: Any = layers.flatmap(_twins)
"""Two stacks that are nearly alike."""


def side(name: str, stack: list[list[Any]]) -> Side:
    return Side(name, [MadeLayer(layer) for layer in stack])
