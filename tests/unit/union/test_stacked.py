"""The overlay of the layers' own trees, as the kernel shows it, equals the union."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from generated import build, numbered, stacks
from lamina.errors import InvalidLayer, Unsupported
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.union.merge import LayerMerge, merge
from lamina.union.stacked import Stacked, lowest, stacked, stacked_top
from support import layer_index, rounds


def seen(layers: list[Stacked]) -> dict[bytes, tuple[Any, ...]]:
    """What overlayfs shows: directories merge downwards until something else, or an opaque one; a whiteout in a
    directory that has nothing below it would be seen, and is an error."""
    found: dict[bytes, tuple[Any, ...]] = {}

    def show(path: bytes, parts: list[tuple[Stacked, int]]) -> None:
        top, node = parts[0]
        entry = top.tree.entry(node)
        found[path] = (entry.kind, entry.mode, entry.mtime, entry.size, entry.link)
        names = {name for part, node in parts for name in part.tree.children(node)}
        for name in names:
            inner = path + b"/" + name if path else name
            below: list[tuple[Stacked, int]] = []
            for part, node in parts:
                child = part.tree.children(node).get(name)
                if child is None:
                    continue
                if not part.tree.is_directory(child):
                    if part.tree.kind(child) == Kind.WHITEOUT:
                        assert len(parts) > 1, f"a whiteout to be seen at {inner!r}"
                    elif not below:
                        entry = part.tree.entry(child)
                        found[inner] = (entry.kind, entry.mode, entry.mtime, entry.size, entry.link)
                    break
                below.append((part, child))
                if child in part.opaque:
                    break
            if below:
                show(inner, below)

    show(b"", [(layer, 0) for layer in reversed(layers)])  # of the root, the kernel does not look for a mark
    return found


@settings(max_examples=rounds(1500), deadline=None)
@given(stacks)
def test_overlay_of_the_layers_is_the_union(stack: Any) -> None:
    indexes = [build(layer) for layer in numbered(stack)]
    try:
        tree = merge(indexes)
    except InvalidLayer:
        return
    expected = {}
    for node in tree.walk():
        entry = tree.entry(node)
        expected[entry.path] = (entry.kind, entry.mode, entry.mtime, entry.size, entry.link)
    try:
        assert seen(stacked(indexes)) == expected
    except Unsupported:
        assert any(kind == Kind.HARDLINK for index in indexes for kind in index.kind)


def content(layer: Stacked) -> tuple[Any, ...]:
    tree = layer.tree
    entries = sorted(
        (tree.path(node), tree.kind(node), tree.origin(node), node in layer.opaque) for node in tree.walk()
    )
    return layer.layer, layer.context, entries


@settings(max_examples=rounds(3000), deadline=None)
@given(stacks)
def test_the_top_layer_needs_no_merge_of_the_others(stack: Any) -> None:
    indexes = [build(layer) for layer in numbered(stack)]
    try:
        whole = stacked(indexes)
    except (InvalidLayer, Unsupported):
        return
    top = stacked_top(indexes)
    if top is not None:
        assert content(top) == content(whole[-1])


@pytest.mark.parametrize(
    "top",
    [
        [("d/new", b"x")],
        [("d/", None, {"mode": 0o755}), ("d/new", b"x")],
        [(".wh.f", b""), ("d/e/", None)],
        [("d/e/", None), ("d/e/.wh..wh..opq", b""), ("d/e/z", b"z")],
        [("d/e", b"now a file")],
    ],
)
def test_the_top_layer_of_usual_images_needs_no_merge(top: list[Any]) -> None:
    base = [("d/", None), ("d/e/", None, {"mode": 0o700}), ("d/e/x", b"1"), ("f/", None), ("f/g", b"3")]
    indexes = [layer_index(*base), layer_index(("d/e/y", b"2")), layer_index(*top)]
    found = stacked_top(indexes)
    assert found is not None
    assert content(found) == content(stacked(indexes)[-1])


def test_the_top_layer_may_need_a_merge_of_the_others() -> None:
    base = layer_index(("d/e/f/x", b"1"))  # nobody states these directories
    assert stacked_top([base, layer_index(("d/", None))]) is None
    assert stacked_top([base, layer_index(("d/e/", None), ("d/e/new", b"x"))]) is None
    assert stacked_top([base, layer_index(*((f"n{number}", b"") for number in range(100)))]) is None
    assert stacked_top([base, layer_index((".wh..wh..opq", b""))]) is None


DEEP: list[tuple[Any, ...]] = [
    ("d/", None, {"mode": 0o700}),
    ("d/e/", None, {"mode": 0o711}),
    ("d/e/x", b"1"),
    ("d/e/y", b"2"),
    ("f/g/h", b"3"),
]


@pytest.mark.parametrize(
    ("layer", "paths", "opaque"),
    [
        ([("d/e/.wh..wh..opq", b"")], {b"d", b"d/e"}, {b"d/e"}),
        ([("d/e/.wh.x", b"")], {b"d", b"d/e", b"d/e/x"}, set()),
        ([("d/.wh.e", b""), ("f/.wh.g", b"")], {b"d", b"d/e", b"f", b"f/g"}, set()),
        ([(".wh.d", b""), ("d/n/", None)], {b"d", b"d/n"}, {b"d"}),
        ([("d/e", b"a file"), ("d/e/", None), ("d/e/n", b"4")], {b"d", b"d/e", b"d/e/n"}, {b"d/e"}),
        ([("d/.wh..wh..opq", b""), ("d/e/.wh.x", b""), ("d/n", b"5")], {b"d", b"d/n"}, {b"d"}),
        ([("d/e/.wh.none", b""), ("none/.wh..wh..opq", b"")], set(), set()),
        ([("d/e/x", b"file over file")], {b"d", b"d/e", b"d/e/x"}, set()),
        ([("d/e/.wh.x", b""), (".wh.d", b"")], {b"d"}, set()),
        # what comes after a mark that needs no node of its own
        ([("d/e/.wh..wh..opq", b""), ("f/.wh.g", b"")], {b"d", b"d/e", b"f", b"f/g"}, {b"d/e"}),
        ([("d/e/.wh.x", b""), ("d/e/x", b"new"), ("d/e/.wh.y", b"")], {b"d", b"d/e", b"d/e/x", b"d/e/y"}, set()),
        ([("f/.wh.g", b""), ("f", b"a file"), ("d/e/.wh.x", b"")], {b"f", b"d", b"d/e", b"d/e/x"}, set()),
        (
            [("d/e/.wh.x", b""), ("d/.wh..wh..opq", b""), ("d/e/n", b"6"), ("f/.wh.g", b"")],
            {b"d", b"d/e", b"d/e/n", b"f", b"f/g"},
            {b"d"},
        ),
    ],
)
def test_a_layer_alone_has_the_directories_of_its_marks(
    layer: list[tuple[Any, ...]], paths: set[bytes], opaque: set[bytes]
) -> None:
    """With the attributes that they have below; and no mark that would hide nothing."""
    layers = [layer_index(*DEEP), layer_index(*layer)]
    below, above = stacked(layers)
    tree = above.tree
    assert {tree.path(node) for node in tree.walk() if node} == paths
    assert {tree.path(node) for node in above.opaque} == opaque
    assert below.opaque == set()
    whole = merge(layers)
    expected = {
        path: (entry.kind, entry.mode) for path, entry in ((e.path, e) for e in map(whole.entry, whole.walk()))
    }
    assert {path: one[:2] for path, one in seen([below, above]).items()} == expected


@pytest.mark.parametrize(("layers", "merged"), [(1, 1), (3, 5)])
def test_the_lowest_layer_is_merged_once(layers: int, merged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are merged twice: alone, and on top of those below."""
    applied, apply = [], LayerMerge.apply

    def counted(self: LayerMerge, *names: Any) -> None:
        applied.append(self.number)
        apply(self, *names)

    monkeypatch.setattr(LayerMerge, "apply", counted)
    stacked([one((Kind.FILE, b"a%d" % number, 0o644)) for number in range(layers)])
    assert len(applied) == merged


@pytest.mark.parametrize(
    ("roots", "expected"), [("..", 0), ("o.", 0), (".o", 1), (".o.", 1), (".oo.", 2), ("oo", 1), ("o..", 0)]
)
def test_the_lowest_layer_is_the_topmost_one_whose_root_is_opaque(roots: str, expected: int) -> None:
    """An opaque mark in a directory below the root does not count."""
    mark, other = (".wh..wh..opq", b""), ("d/.wh..wh..opq", b"")
    layers = [layer_index(other, *([mark] if root == "o" else []), (f"f{n}", b"")) for n, root in enumerate(roots)]
    assert lowest(layers) == expected
    assert [layer.layer for layer in stacked(layers)] == list(range(expected, len(layers)))


def one(*rows: tuple[Kind, bytes, int]) -> LayerIndex:
    return build([(kind, path, b"", mode, 1) for kind, path, mode in rows])


def test_the_context_of_a_layer_is_what_it_takes_from_lower_layers() -> None:
    base = one((Kind.DIRECTORY, b"etc", 0o700), (Kind.FILE, b"etc/a", 0o644))
    other = one((Kind.DIRECTORY, b"etc", 0o755), (Kind.FILE, b"etc/a", 0o644))
    layer = one((Kind.FILE, b"etc/b", 0o644))
    first, second, third = (stacked([below, layer])[1] for below in (base, other, base))
    assert first.context == third.context != second.context
    tree = first.tree
    assert tree.entry(tree.lookup(b"etc")).mode == 0o700


def test_hardlink_out_of_the_layer_is_refused() -> None:
    base = one((Kind.FILE, b"a", 0o644))
    with pytest.raises(Unsupported, match="layer 2"):
        stacked([base, build([(Kind.HARDLINK, b"b", b"a", 0o644, 0)])])


def test_an_implied_directory_has_the_time_of_a_parent_that_a_later_layer_states() -> None:
    layers = [layer_index(("b/x/z/", None)), layer_index(("b/", None, {"mtime": 5})), layer_index(("b/w/", None))]
    shown, tree = seen(stacked(layers)), merge(layers)
    assert shown[b"b/x"][2] == tree.entry(tree.lookup(b"b/x")).mtime == 5_000_000_000
    assert shown[b"b/x/z"][2] == 1_700_000_000_000_000_000


def test_a_layer_has_the_directories_whose_time_it_changes_however_deep_and_no_others() -> None:
    layers = [
        layer_index(("b/x/", None), ("b/x/y/f", b"1"), ("b/u/v/w/f", b"2")),
        layer_index(("b/", None, {"mtime": 5}), ("b/x/q", b"3")),
    ]
    found = stacked(layers)
    tree = found[1].tree
    assert [tree.path(node) for node in tree.walk()] == [b"", b"b", b"b/u", b"b/u/v", b"b/u/v/w", b"b/x", b"b/x/q"]
    times = {path: shown[2] // 10**9 for path, shown in seen(found).items()}
    assert (times[b"b/u/v/w"], times[b"b/x"], times[b"b/x/y"]) == (5, 1_700_000_000, 1_700_000_000)
