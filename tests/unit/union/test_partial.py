"""A partial merge of a few paths agrees with the merge of the whole union."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from generated import build, names, numbered, paths, stacks
from lamina.errors import InvalidLayer, PathNotFound
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.union.merge import merge
from lamina.union.partial import MANY, PartialMerge
from lamina.union.path_history import path_history
from lamina.union.tree import Tree
from support import rounds

walks = st.lists(st.one_of(names, st.sampled_from([b"..", b".", b""])), max_size=5).map(b"/".join)


def told(tree: Tree, path: bytes) -> Any:
    """All that a tree says of a literal path: its node, and its story."""
    node = tree.find(path)
    alive = None
    if node is not None:
        alive = (tree.entry(node), tree.origin(node), tree.content(node), tree.path(tree.inode(node)))
    try:
        return alive, path_history(tree, path)
    except PathNotFound:
        return alive, None


@settings(max_examples=rounds(1500), deadline=None)
@given(stacks, st.lists(paths, min_size=1, max_size=3))
def test_a_partial_merge_equals_the_whole_merge(stack: Any, wanted: list[bytes]) -> None:
    layers = [build(layer) for layer in numbered(stack)]
    try:
        whole = merge(layers)
    except InvalidLayer:
        return
    glance = PartialMerge()
    together = glance.tree(layers, wanted)
    for path in [*wanted, b"", wanted[0].rpartition(b"/")[0]]:
        assert told(together, path) == told(whole, path)
    for number in range(len(layers)):  # ranges share what was remembered
        part = merge(layers[: number + 1])
        assert told(glance.tree(layers[: number + 1], [wanted[0]]), wanted[0]) == told(part, wanted[0])


def looked_up(tree: Tree, path: bytes, *, follow: bool) -> tuple[int, PathNotFound | None]:
    try:
        return tree.lookup(path, follow=follow), None
    except PathNotFound as error:
        return 0, error


@settings(max_examples=rounds(800), deadline=None)
@given(stacks, walks, st.booleans())
def test_a_lookup_follows_symlinks_as_the_whole_merge_does(stack: Any, path: bytes, follow: bool) -> None:
    layers = [build(layer) for layer in numbered(stack)]
    try:
        whole = merge(layers)
    except InvalidLayer:
        return
    expected, missing = looked_up(whole, path, follow=follow)
    if missing is not None:
        with pytest.raises(PathNotFound) as caught:
            PartialMerge().lookup(layers, path, follow=follow)
        assert (caught.value.message, caught.value.hint) == (missing.message, missing.hint)
        return
    tree, node = PartialMerge().lookup(layers, path, follow=follow)
    assert tree.entry(node) == whole.entry(expected)


def listed(tree: Tree, node: int) -> Any:
    """A node and the nodes in it, with their link counts."""
    every = [node, *(child for _, child in sorted(tree.children(node).items()))]
    return [(tree.entry(one), tree.layer(one), tree.links(one), tree.is_directory(one)) for one in every]


@settings(max_examples=rounds(2000), deadline=None)
@given(stacks, walks)
@example(
    [[(Kind.FILE, b"a/b/c", b"", 0o644), (Kind.FILE, b"a", b"", 0o644), (Kind.FILE, b"a/b/c", b"", 0o644)]], b"a"
)
def test_a_listing_equals_the_whole_merge(stack: Any, path: bytes) -> None:
    layers = [build(layer) for layer in numbered(stack)]
    try:
        whole = merge(layers)
        expected = whole.lookup(path, follow=True)
    except (InvalidLayer, PathNotFound):
        return
    tree, node = PartialMerge().listing(layers, path, links=True)
    assert listed(tree, node) == listed(whole, expected)
    for name in (
        [*tree.children(node), b"none"] if tree.is_directory(node) else ()
    ):  # the entries can be looked up by name too
        assert tree.child(node, name) == tree.children(node).get(name)
    tree, node = PartialMerge().listing(layers, path, into=False, links=True)
    assert (tree.entry(node), tree.links(node)) == (whole.entry(expected), whole.links(expected))
    tree, node = PartialMerge().listing(layers, path)
    assert [one[:2] for one in listed(tree, node)] == [one[:2] for one in listed(whole, expected)]


D, F, W, OPQ, L = Kind.DIRECTORY, Kind.FILE, Kind.WHITEOUT, Kind.OPAQUE, Kind.SYMLINK
CASES = {
    "a directory implied on the way": [[(D, b"b/c/c")]],
    "a directory stated on the way": [[(D, b"a/b"), (D, b"a/b/c")]],
    "names of one length": [[(D, b"b"), (D, b"a/c/c"), (D, b"a/b/c")]],
    "two directories of one name": [[(D, b"a/b/b"), (F, b"b/b/a")], [(F, b"b/b/b/c")]],
    "a file that becomes a directory": [[(F, b"b"), (D, b"b/b")]],
    "a file below that becomes a directory": [[(F, b"c")], [(F, b"c/c/b"), (L, b"c/c/a")]],
    "and a file again": [[(F, b"b/c"), (D, b"a")], [(F, b"a"), (D, b"a/b"), (F, b"a"), (F, b"b/c/c"), (F, b"b/c")]],
    "a directory that goes and comes": [[(F, b"a/b/c"), (F, b"a"), (F, b"a/c"), (F, b"a"), (F, b"a/b/c")]],
    "a symlink in the place of what was gone through": [[(F, b"a/b/c"), (L, b"a/b"), (F, b"a/b/c/a"), (L, b"a")]],
    "folders that a file of one name, or above them, ends": [
        [
            (F, b"a/b/c"),
            (F, b"a/c/c"),
            (F, b"a/b"),
            (F, b"a/c/a"),
            (F, b"a/b/a"),
            (F, b"a"),
            (F, b"a/c/b"),
            (F, b"a/b/b"),
        ]
    ],
    "a whiteout makes nothing": [[(W, b"c/b/a")], [(W, b"b/b"), (OPQ, b"a/b"), (F, b"a/c")]],
    "a whiteout of the path": [[(D, b"b/c/c"), (F, b"a/b/a"), (F, b"a/a/c")], [(W, b"a")]],
    "a whiteout of what stands in the path": [
        [(F, b"a/b/c"), (F, b"a/c")],
        [(W, b"a/b"), (W, b"a/c"), (F, b"a/a/b")],
    ],
    "an opaque root": [[(F, b"a"), (D, b"b/c")], [(OPQ, b"")], [(F, b"b/a")]],
    "an opaque directory": [[(F, b"a/b/c"), (F, b"a/c")], [(OPQ, b"a"), (F, b"a/b/a")], [(OPQ, b"a/b"), (F, b"c/a")]],
    "a stated root": [[(D, b""), (F, b"a/b")], [(F, b"b")], [(D, b"")], [(OPQ, b""), (D, b""), (F, b"a/c")]],
    "only a root": [[(F, b"a")], [(D, b"")]],
    "a file over a directory that others pass through": [
        [(D, b"a/b"), (F, b"a/b/c")],
        [(F, b"a/b/a"), (F, b"a/b"), (F, b"a/b/b"), (D, b"a/b/c")],
    ],
    "hidden and then passed through": [
        [(W, b"a/b/b")],
        [(D, b"c"), (D, b"a"), (W, b"c/b/b")],
        [(W, b"c"), (F, b"b/b/c"), (F, b"b/c/c"), (F, b"b"), (F, b"b/b/b"), (F, b"c/a")],
    ],
    "a layer that passes through beside another directory": [[(D, b"b")], [(F, b"a/c")]],
    "a way made by a layer that says nothing of its end": [
        [(F, b"a/b/c")],
        [(F, b"a")],
        [(F, b"a/c")],
        [(F, b"a/b/c")],
    ],
    "a layer that only passes through": [[(L, b"b/a"), (W, b"c")], [(F, b"b/a/b"), (W, b"b/c/a")], [(F, b"b/a/c")]],
}


@pytest.mark.parametrize("case", CASES)
def test_a_partial_merge_of_each_path_equals_the_whole_merge(case: str) -> None:
    stack = [[(kind, path, b"c" if kind == L else b"", 0o644) for kind, path in layer] for layer in CASES[case]]
    layers = [build(layer) for layer in numbered(stack)]
    whole = merge(layers)
    short = [b"/".join(parts) for size in range(4) for parts in product([b"a", b"b", b"c"], repeat=size)]
    for path in short:
        assert told(PartialMerge().tree(layers, [path]), path) == told(whole, path)
        for end in range(1, len(layers)):
            assert told(PartialMerge().tree(layers[:end], [path]), path) == told(merge(layers[:end]), path)
        for other in (b"a", b"b", b"c"):
            together = PartialMerge().tree(layers, [path, other])
            for one in (path, other, path.rpartition(b"/")[0]):
                assert told(together, one) == told(whole, one)
        node = whole.find(path)
        if node is not None and whole.is_directory(node):
            tree, above = PartialMerge().tree(layers, (), inside={path}), path
            while above:
                above = above.rpartition(b"/")[0]
                assert told(tree, above) == told(whole, above)
            tree, found = PartialMerge().listing(layers, path, follow=False, links=True)
            assert listed(tree, found) == listed(whole, node)
            for name, child in whole.children(node).items():
                inner = path + b"/" + name if path else name
                assert told(tree, inner) == told(whole, whole.path(child))


def linked(count: int) -> LayerIndex:
    builder = IndexBuilder()
    for number in range(count):
        builder.add(b"l%d" % number, int(Kind.SYMLINK), 0o777, link=b"l%d" % (number + 1))
    builder.add(b"l%d" % count, int(Kind.FILE), 0o644, size=5)
    builder.add(b"h0", int(Kind.HARDLINK), link=b"l%d" % count)
    for number in range(count):
        builder.add(b"h%d" % (number + 1), int(Kind.HARDLINK), link=b"h%d" % number)
    return builder.finish(0)


def test_many_hard_links_are_counted_by_the_whole_merge() -> None:
    layer = linked(MANY + 10)
    tree, node = PartialMerge().lookup([layer], b"h%d" % (MANY + 10), follow=True)
    assert (tree.entry(node).size, len(tree)) == (5, 2 * MANY + 22)
    tree, node = PartialMerge().lookup([layer], b"h3")
    assert (tree.entry(node).size, len(tree)) == (5, 5)
