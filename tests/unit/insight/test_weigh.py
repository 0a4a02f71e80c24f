"""du, ghosts and waste of generated stacks, compared with plain sums; and dive's efficiency case by case."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from lamina.errors import InvalidLayer, PathNotFound
from lamina.insight.du import weigh
from lamina.insight.ghosts import hidden_sizes
from lamina.insight.waste import efficiency
from lamina.layer.entry import Kind
from lamina.union.merge import merge
from lamina.union.tree import Tree
from sides import layers, side
from support import Member, layer_index, rounds


def files_of(tree: Tree) -> dict[int, tuple[int, int]]:
    """(layer, size) of each visible inode."""
    found = {}
    for node in tree.walk():
        if tree.kind(node) == Kind.FILE:
            layer, row = tree.content(node)
            found[tree.inode(node)] = (layer, tree.layers[layer].size[row])
    return found


@settings(max_examples=rounds(400), deadline=None)
@given(layers)
def test_du_adds_up(stack: Any) -> None:
    try:
        tree = side("a", stack).tree
    except InvalidLayer:
        return
    visible = files_of(tree)
    (whole,) = weigh(tree, depth=0)
    assert (whole.size, whole.files) == (sum(size for _, size in visible.values()), len(visible))
    for layer, size in whole.sizes.items():
        assert size == sum(size for other, size in visible.values() if other == layer)
    (every,) = weigh(tree, depth=0, hidden=True)
    assert [every.sizes.get(number, 0) for number in range(len(tree.layers))] == [
        index.content_size for index in tree.layers
    ]
    assert every.size - whole.size == sum(hidden_sizes(tree).values())


@settings(max_examples=rounds(300), deadline=None)
@given(layers)
def test_each_directory_weighs_what_its_children_weigh(stack: Any) -> None:
    try:
        tree = side("a", stack).tree
    except InvalidLayer:
        return
    for hidden in (False, True):
        found = weigh(tree, depth=None, files=True, hidden=hidden)
        weights = {weight.path: weight for weight in found}
        assert len(weights) == len(found)
        assert found[-1].path == b""
        for number, weight in enumerate(found):
            inside = weight.path + b"/" if weight.path else b""
            below = [
                other
                for other in found
                if other.path.startswith(inside)
                and other.path != weight.path
                and b"/" not in other.path[len(inside) :]
            ]
            if below:
                assert weight.size >= sum(other.size for other in below)
                if hidden is False:
                    assert weight.size == sum(other.size for other in below)
            assert all(found.index(other) < number for other in below)  # as du: a directory comes last
        visible = {tree.path(node) for node in tree.walk()}
        assert visible <= weights.keys()
        assert hidden or visible == weights.keys()
        shallow = weigh(tree, depth=1, files=True, hidden=hidden)
        assert {w.path: w.sizes for w in shallow} == {
            path: weight.sizes for path, weight in weights.items() if path.count(b"/") == 0
        }


def test_du_of_a_part_counts_a_hardlink_once_and_finds_what_is_hidden() -> None:
    tree = merge(
        [
            layer_index(
                ("a/", None),
                ("a/one", b"12345"),
                ("b/", None),
                ("b/two", "= a/one"),
                ("gone/", None),
                ("gone/x", b"123"),
            ),
            layer_index((".wh.gone", b""), ("a/.wh.one", b"")),
        ]
    )
    assert [(w.path, w.size) for w in weigh(tree)] == [(b"a", 0), (b"b", 5), (b"", 5)]
    assert [(w.path, w.size, w.sizes) for w in weigh(tree, b"b", files=True)] == [
        (b"b/two", 5, {0: 5}),
        (b"b", 5, {0: 5}),
    ]
    assert [(w.path, w.size) for w in weigh(tree, b"gone", files=True, hidden=True)] == [(b"gone/x", 3), (b"gone", 3)]
    with pytest.raises(PathNotFound):
        weigh(tree, b"gone")


def score(*stack: list[Member]) -> float:
    return efficiency(merge([layer_index(*layer) for layer in stack]))


def test_efficiency() -> None:
    """Comments name the results of dive that differ."""
    assert score([]) == 1.0
    assert score([("empty", b"")]) == 1.0
    one = [("d/", None), ("d/a", b"x" * 100), ("d/b", b"x" * 100)]
    assert score(one) == 1.0  # the score ignores equal content at two paths: `waste` reports it as copies
    assert score(one, [("e", b"x" * 100)]) == 1.0
    # a file written again: the least that its path has had, by all that it has had
    assert score(one, [("d/a", b"y" * 100)]) == pytest.approx(200 / 300)
    assert score(one, [("d/a", b"y" * 50)]) == pytest.approx(150 / 250)
    assert score(one, [("d/a", b"y" * 400)]) == pytest.approx(200 / 600)
    # a whiteout's size is 0, and so is its path's least
    assert score(one, [("d/.wh.a", b"")]) == pytest.approx(100 / 200)
    assert score(one, [("d/.wh.a", b"")], [("d/a", b"z" * 100)]) == pytest.approx(100 / 300)
    assert score(one, [("d/.wh.nothing", b"")]) == 1.0
    # a whole directory (dive takes its bytes for the least as well, and the score for 1.0)
    assert score([*one, ("k", b"x" * 100)], [(".wh.d", b"")]) == pytest.approx(100 / 300)
    # an opaque directory (dive stops looking at the layer where it meets one)
    assert score(one, [("d/.wh..wh..opq", b""), ("d/c", b"x" * 100)]) == pytest.approx(100 / 300)
    assert score(one, [("d/.wh..wh..opq", b""), ("d/a", b"x" * 100)]) == pytest.approx(0 / 300)
    # a file in the place of a directory
    assert score(one, [("d", b"x" * 100)]) == pytest.approx(100 / 300)
    # hardlinks hold no bytes of their own, and keep those that they share
    linked = [("a", b"x" * 100), ("b", "= a")]
    assert score(linked) == 1.0
    assert score(linked, [(".wh.b", b"")]) == 1.0
    assert score(linked, [(".wh.a", b"")]) == 1.0  # dive: 0.0, though b still is the file
    assert score(linked, [(".wh.a", b""), (".wh.b", b"")]) == 0.0
    # dive's own test (filetree/efficiency_test.go) has 0.75: there the removed directory's files are not removed
    nginx = [("etc/nginx/nginx.conf", b"x" * 2000), ("etc/nginx/public", b"x" * 3000)]
    upper = [("etc/nginx/nginx.conf", b"x" * 5000), ("etc/athing", b"x" * 10000)]
    assert score(nginx, upper) == pytest.approx(15000 / 20000)
    assert score(nginx, upper, [("etc/.wh.nginx", b"")]) == pytest.approx(10000 / 20000)
