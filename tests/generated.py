"""Generated stacks of layers, for property tests."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex


def build(layer: list[tuple[Kind, bytes, bytes, int, int]]) -> LayerIndex:
    builder = IndexBuilder()
    for kind, path, target, mode, size in layer:
        builder.add(path, int(kind), mode, 0, 0, size if kind == Kind.FILE else 0, 0, 0, 0, target)
    return builder.finish(0)


XATTRS: list[dict[bytes, bytes]] = [
    {},
    {b"user.a": b"1", b"user.b": b""},
    {b"security.capability": bytes(20), b"trusted.t": b"x" * 900},
    {b"system.posix_acl_access": b"acl", b"system.posix_acl_default": b"default"},
]


def attributed(layer: list[tuple[Kind, bytes, bytes, int, int]]) -> LayerIndex:
    """As ``build``, with attributes of every sort and a place in a tar; the entry's number chooses."""
    builder, at = IndexBuilder(), 512
    for kind, path, target, mode, number in layer:
        seed = random.Random(number)
        size = seed.choice([0, 1, 512, 70_000]) if kind == Kind.FILE else 0
        builder.add(
            path,
            int(kind),
            mode,
            seed.choice([0, 1000, 70_000, 4_000_000_000]),
            seed.choice([0, 5, 3_000_000_000]),
            size,
            at if kind == Kind.FILE else 0,
            seed.choice([0, -5, 1_700_000_000, 5_000_000_000, 1 << 40]),
            seed.choice([0, 1, 999_999_999]),
            target,
            seed.choice(XATTRS),
        )
        at += -(-size // 512) * 512 + 512
    return builder.finish(at)


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
