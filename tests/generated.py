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
    + [Kind.HARDLINK]
    + [Kind.WHITEOUT] * 3
    + [Kind.OPAQUE]
)
modes = st.sampled_from([0o600, 0o644, 0o755])
Stated = tuple[Kind, bytes, bytes, int]  # kind, path, hardlink or symlink target, mode
ROOT_OPAQUE: Stated = (Kind.OPAQUE, b"", b"", 0o644)


def _link_to_a_link(parts: tuple[bytes, bytes, bytes, int]) -> list[Stated]:
    path, second, third, mode = parts
    return [
        (Kind.FILE, path, b"", mode),
        (Kind.HARDLINK, second, path, mode),
        (Kind.HARDLINK, third, second, mode),
    ]


def _through_a_symlink(parts: tuple[list[bytes], bytes, bytes, str, int]) -> list[Stated]:
    (directory, link, _), name, third, form, mode = parts
    target = {"relative": directory, "absolute": b"/" + directory, "upwards": b"../../" + directory + b"/."}[form]
    return [
        (Kind.FILE, directory + b"/" + name, b"", mode),
        (Kind.SYMLINK, link, target, 0o755),
        (Kind.HARDLINK, third, link + b"/" + name, mode),
    ]


several: Any = st.one_of(
    st.tuples(paths, paths, paths, modes).map(_link_to_a_link),
    st.tuples(
        st.permutations([b"a", b"b", b"c"]), names, paths, st.sampled_from(["relative", "absolute", "upwards"]), modes
    ).map(_through_a_symlink),
)
"""Entries that mean something together: a link to a link, a link through a symlinked directory."""


def layer_of(single: Any, together: Any, root_opaque: Any, size: int) -> Any:
    """Layers of up to ``size`` of ``single`` entries, of those ``together`` and of opaque roots."""
    piece = st.one_of(*[single.map(lambda entry: [entry])] * 12, together, st.just([root_opaque]))
    return st.lists(piece, max_size=size).map(lambda pieces: [entry for piece in pieces for entry in piece])


def _likely(stack: list[list[Any]]) -> list[list[Any]]:
    """Most random hardlinks lead to nothing, and such a stack has no union: they get a target that may be there."""
    made: list[bytes] = []
    found: list[list[Any]] = []
    for layer in stack:
        found.append([])
        for kind, path, target, *more in layer:
            # a file on the path becomes a directory; entries below the path are removed
            made = [one for one in made if not (path + b"/").startswith(one + b"/")]
            made = [one for one in made if kind == Kind.DIRECTORY or not (one + b"/").startswith(path + b"/")]
            winds = target.rpartition(b"/")[0] in made
            if kind == Kind.HARDLINK and target not in made and not winds and target != b"c":
                kind, target = (kind, made[-1]) if made else (Kind.FILE, b"")
            if kind in (Kind.FILE, Kind.SYMLINK, Kind.FIFO, Kind.HARDLINK):
                made.append(path)
            found[-1].append((kind, path, target, *more))
    return found


stacks: Any = st.lists(
    layer_of(st.tuples(kinds, paths, paths, modes), several, ROOT_OPAQUE, 8), min_size=1, max_size=5
).map(_likely)


def numbered(stack: Any) -> list[list[tuple[Kind, bytes, bytes, int, int]]]:
    return [
        [
            (kind, path, target if kind in (Kind.HARDLINK, Kind.SYMLINK) else b"", mode, number * 100 + row + 1)
            for row, (kind, path, target, mode) in enumerate(layer)
        ]
        for number, layer in enumerate(stack)
    ]
