"""A partial merge reads and merges only what concerns its paths, also for a hostile image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest

from lamina.errors import PathNotFound
from lamina.layer.build_layer import index_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.union import partial as partial_module
from lamina.union.merge import merge
from lamina.union.partial import MANY, PartialMerge, through_symlinks
from lamina.union.tree import Tree

F, D, L, H, W, OPQ = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.WHITEOUT, Kind.OPAQUE)
Rows = list[tuple[Any, ...]]


def layer(rows: Rows) -> LayerIndex:
    """Rows as (kind, path), of links with their target."""
    return index_of([Entry(path, kind, 0o755, link=more[0] if more else b"") for kind, path, *more in rows])


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The paths of each merge of a few."""
    asked: list[list[bytes]] = []
    original = PartialMerge._merged

    def spy(
        self: PartialMerge, layers: Sequence[LayerIndex], known: Collection[bytes], inside: Collection[bytes]
    ) -> Tree:
        asked.append(list(known))
        return original(self, layers, known, inside)

    monkeypatch.setattr(PartialMerge, "_merged", spy)
    return asked


# how often


@pytest.mark.parametrize(
    ("rows", "wanted", "inside", "expected"),
    [
        # targets of hardlinks are known before the merge
        ([(F, b"a"), (H, b"b", b"a"), (H, b"c", b"b")], [b"c"], (), [[b"c", b"b", b"a"]]),
        ([(F, b"x"), (F, b"y"), (H, b"d/h", b"x"), (H, b"e/h", b"y")], (), [b"d"], [[b"d", b"x"]]),
        ([(F, b"x"), (H, b"d/h", b"x")], [b"d"], (), [[b"d"]]),
        # those of symlinks are not wanted
        ([(F, b"x"), (L, b"s", b"x"), (H, b"h", b"x")], [b"s"], (), [[b"s"]]),
        # nor anything beside the path
        ([(F, b"x"), (H, b"a/h", b"x"), (F, b"a/b/c")], [b"a/b/c"], (), [[b"a/b/c"]]),
        # a target that leads through a symlink takes one more for each thing it comes to, and none for links of those
        (
            [(F, b"x/f"), (H, b"x/h", b"x/f"), (L, b"l", b"x"), (H, b"k", b"l/h")],
            [b"k"],
            (),
            [[b"k", b"l/h"], [b"k", b"l/h", b"x"], [b"k", b"l/h", b"x", b"x/h", b"x/f"]],
        ),
    ],
)
def test_a_tree_is_merged_once_for_all_that_can_be_known_before(
    merged: list[list[bytes]], rows: Rows, wanted: list[bytes], inside: list[bytes], expected: list[list[bytes]]
) -> None:
    PartialMerge().tree([layer(rows)], wanted, inside=inside)
    assert merged == expected


LOOKED = [(F, b"a/b/c"), (L, b"a/l", b"b"), (L, b"top", b"/a/l")]


@pytest.mark.parametrize(
    ("path", "follow", "found", "expected"),
    [
        (b"a/b/c", False, b"a/b/c", [[b"a/b/c"]]),
        (b"/a/b/c", False, b"a/b/c", [[b"a/b/c"]]),
        (b"./a//b/./c/", False, b"a/b/c", [[b"a/b/c"]]),
        (b"", True, b"", [[b""]]),
        (b"top", False, b"top", [[b"top"]]),
        (b"a/l", True, b"a/b", [[b"a/l"], [b"a/l", b"a/b"]]),
        (b"a/l/c", False, b"a/b/c", [[b"a/l/c"], [b"a/l/c", b"a/b"], [b"a/l/c", b"a/b", b"a/b/c"]]),
    ],
)
def test_a_lookup_merges_once_more_for_each_thing_that_a_symlink_leads_to(
    merged: list[list[bytes]], path: bytes, follow: bool, found: bytes, expected: list[list[bytes]]
) -> None:
    tree, node = PartialMerge().lookup([layer(LOOKED)], path, follow=follow)
    assert (tree.path(node), merged) == (found, expected)


def test_a_lookup_does_not_follow_a_symlink_at_its_end_if_not_told_to() -> None:
    tree, node = PartialMerge().lookup([layer(LOOKED)], b"top")
    assert (tree.path(node), tree.kind(node)) == (b"top", L)


@pytest.mark.parametrize(("count", "all_of_it"), [(MANY - 1, False), (MANY, False), (MANY + 1, True)])
def test_above_a_number_of_paths_the_whole_union_is_merged(count: int, all_of_it: bool) -> None:
    paths = [b"d/f%d" % number for number in range(MANY + 5)]
    tree = PartialMerge().tree([layer([(F, path) for path in paths])], paths[:count])
    assert len(tree) == 1 + (len(paths) if all_of_it else count)


def test_targets_count_as_paths(merged: list[list[bytes]]) -> None:
    """A chain of hardlinks, and one of symlinks among their directories."""
    files = [(F, b"f"), *[(H, b"h%d" % n, b"h%d" % (n - 1) if n else b"f") for n in range(MANY)]]
    assert len(PartialMerge().tree([layer([*files, (F, b"other")])], [b"h%d" % (MANY - 2)])) == MANY
    assert len(merged) == 1
    assert len(PartialMerge().tree([layer([*files, (F, b"other")])], [b"h%d" % (MANY - 1)])) == MANY + 2
    assert len(merged) == 1


def test_a_layer_is_read_once_for_each_path(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[type, bytes]] = []
    original = partial_module._Trace.__init__

    def spy(self: Any, index: LayerIndex, path: bytes) -> None:
        read.append((type(self), path))
        original(self, index, path)

    monkeypatch.setattr(partial_module._Trace, "__init__", spy)
    merger, layers = PartialMerge(), [layer([(F, b"a/b")]), layer([(F, b"a/c")])]
    for _ in range(2):
        assert merger.tree(layers, [b"a"]).find(b"a/b") is None
        assert len(merger.tree(layers, (), inside=[b"a"])) == 3
        assert len(merger.tree(layers[:1], [b"a"])) == 1
    plain, inside = partial_module._Trace, partial_module._InsideTrace
    assert read == [(plain, b"a"), (plain, b"a"), (inside, b"a"), (inside, b"a")]


# how much


@pytest.mark.parametrize(
    ("path", "speaking"),
    [
        (b"a", [0]),
        (b"c", [2, 3]),
        (b"c/d", [2, 3]),
        (b"n", [4]),
        (b"n/c", [4]),
        (b"p/q/r", [5]),
        (b"none", []),
        (b"", []),
    ],
)
def test_only_layers_with_an_entry_on_the_path_are_merged(
    monkeypatch: pytest.MonkeyPatch, path: bytes, speaking: list[int]
) -> None:
    marks: list[Rows] = [[(W, b"c/d")], [(W, b"n")]]
    layers = [layer(rows) for rows in ([(F, b"a")], [(F, b"b")], [(F, b"c/d")], *marks, [(F, b"p/q")])]
    seen: list[int] = []
    original = partial_module._PartialLayerMerge.apply_traces

    def spy(self: Any, traces: Any) -> None:
        seen.append(self.number)
        original(self, traces)

    monkeypatch.setattr(partial_module._PartialLayerMerge, "apply_traces", spy)
    PartialMerge().tree(layers, [path])
    assert seen == speaking
    PartialMerge().tree([*layers, layer([(D, b"")])], [path])  # whose root concerns every path
    assert seen == [*speaking, *speaking, 6]


@pytest.mark.parametrize(
    ("rows", "path", "inside", "expected"),
    [
        # each directory on the way, at its first row
        ([(F, b"a/x"), (F, b"a/y"), (F, b"a/b/x"), (F, b"a/b/y")], b"a/b/c", False, [(0, b"a"), (2, b"a/b")]),
        ([(F, b"a/b/x"), (F, b"a/y"), (F, b"n")], b"a/b/c", False, [(0, b"a/b")]),
        ([(F, b"a/b/x/y"), (F, b"a/b/z")], b"a/b", False, [(0, b"a/b")]),
        ([(W, b"a/x"), (OPQ, b"a"), (F, b"a/y")], b"a/b", False, [(2, b"a")]),
        # not where it was stated
        ([(D, b"a"), (F, b"a/x"), (F, b"a/b/y")], b"a/b/c", False, [(2, b"a/b")]),
        ([(D, b"a"), (D, b"a/b"), (F, b"a/b/x")], b"a/b/c", False, []),
        ([(D, b""), (F, b"a/x")], b"a/b", False, [(1, b"a")]),
        # again behind what took its place, but not those above it
        ([(F, b"a/b/x"), (F, b"a/b"), (F, b"a/y"), (F, b"a/b/z")], b"a/b/c", False, [(0, b"a/b"), (3, b"a/b")]),
        ([(F, b"a/b/x"), (F, b"a"), (F, b"a/y")], b"a/b/c", False, [(0, b"a/b"), (2, b"a")]),
        # with its entries
        ([(F, b"d/e/x"), (F, b"d/e/y"), (F, b"d/f")], b"d", True, [(0, b"d"), (0, b"d/e")]),
        (
            [(F, b"d/e/x"), (F, b"d/g/x"), (F, b"d/e"), (F, b"d/g/y"), (F, b"d/e/z")],
            b"d",
            True,
            [(0, b"d"), (0, b"d/e"), (1, b"d/g"), (4, b"d/e")],
        ),
        (
            [(F, b"d/e/x"), (F, b"d"), (F, b"d/e/y"), (F, b"d/e/z")],
            b"d",
            True,
            [(0, b"d"), (2, b"d"), (0, b"d/e"), (2, b"d/e")],
        ),
        ([(F, b"a/x"), (F, b"n"), (F, b"a/y")], b"", True, [(0, b"a")]),
        ([(F, b"a/x"), (D, b"a"), (F, b"a/y")], b"", True, [(0, b"a")]),
    ],
)
def test_rows_pass_through_a_directory_only_if_they_may_change_it(
    rows: Rows, path: bytes, inside: bool, expected: list[tuple[int, bytes]]
) -> None:
    index = layer(rows)
    trace = (partial_module._InsideTrace if inside else partial_module._Trace)(index, path)
    assert [(row, index.directory_path(directory)) for row, directory in trace.passing()] == expected


@pytest.mark.parametrize(
    ("below", "rows", "path", "plain"),
    [
        ([(F, b"a/b/x")], [(F, b"a/b/c")], b"a/b/c", True),
        ([(F, b"a/b/x")], [(D, b"a/b"), (F, b"a/b/c")], b"a/b/c", True),
        ([(F, b"a/b/x")], [(D, b"a"), (F, b"a/b/c/d")], b"a/b/c", False),
        ([(F, b"a/b/x")], [(F, b"a"), (F, b"a/b/c")], b"a/b/c", False),
        ([(F, b"a/b/x")], [(F, b"a/b/c"), (F, b"a/b")], b"a/b/c", False),
        ([(F, b"a/b")], [(F, b"a/b/c")], b"a/b/c", False),
        ([(F, b"a/c")], [(F, b"a/b/c")], b"a/b/c", False),
        ([(F, b"a")], [(F, b"b")], b"b", True),
    ],
)
def test_a_layer_is_plain_if_it_changes_no_directory_on_the_path(
    below: Rows, rows: Rows, path: bytes, plain: bool
) -> None:
    assert partial_module._Trace(layer(rows), path).is_plain(merge([layer(below)])) is plain


@pytest.mark.parametrize(
    ("rows", "path", "known"),
    [
        ([(F, b"a/x/y")], b"a/d", [b"", b"a"]),
        ([(F, b"a/x/y"), (F, b"n/m")], b"a", [b"", b"a", b"a/x"]),
        ([(F, b"a/d/x/y"), (F, b"a/e/f")], b"a/d", [b"", b"a", b"a/d", b"a/d/x"]),
        ([(F, b"a/x"), (F, b"b")], b"", [b"", b"a", b"b"]),
        ([(F, b"a/x")], b"a/x", [b"", b"a", b"a/x"]),
    ],
)
def test_a_tree_inside_a_path_has_the_entries_below_it_and_no_others(
    rows: Rows, path: bytes, known: list[bytes]
) -> None:
    tree = PartialMerge().tree([layer(rows)], (), inside=[path])
    assert [tree.path(node) for node in tree.walk()] == known


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [([(L, b"l", b"f"), (F, b"f")], {H}), ([(L, b"l", b"f"), (H, b"h", b"f")], {H}), ([(H, b"h", b"d/f")], {H, L})],
)
def test_symlinks_matter_only_if_a_hardlink_names_something_in_a_directory(
    monkeypatch: pytest.MonkeyPatch, rows: Rows, kinds: set[Kind]
) -> None:
    asked: set[int] = set()
    original = LayerIndex.rows_of

    def spy(self: LayerIndex, kind: int) -> Iterator[int]:
        asked.add(kind)
        return original(self, kind)

    monkeypatch.setattr(LayerIndex, "rows_of", spy)
    assert through_symlinks([layer(rows)]) == []
    assert asked == kinds


# the same as the whole


def test_a_listing_counts_names_that_files_have_elsewhere_over_several_links() -> None:
    layers = [
        layer([(F, b"d/f"), (F, b"d/g"), (D, b"d/e"), (H, b"x/one", b"d/f")]),
        layer([(H, b"x/two", b"x/one"), (H, b"three", b"x/two"), (H, b"y", b"d/g"), (F, b"z")]),
        layer([(W, b"x/one")]),
    ]
    tree, node = PartialMerge().listing(layers, b"d", links=True)
    assert {name: tree.links(child) for name, child in tree.children(node).items()} == {b"e": 1, b"f": 3, b"g": 2}
    for path in (b"three", b"d/f", b"x/two"):
        tree, node = PartialMerge().listing(layers, path, links=True)
        assert (tree.path(node), tree.links(node)) == (path, 3)


STACK = [
    [
        (D, b"usr"),
        (F, b"usr/lib/x"),
        (F, b"usr/lib/deep/y"),
        (L, b"lib", b"usr/lib"),
        (L, b"usr/up", b"../lib"),
        (L, b"usr/abs", b"/usr//./lib"),
        (L, b"usr/lib/self", b"."),
        (L, b"round", b"usr/round"),
        (L, b"usr/round", b"../round"),
        (L, b"dead", b"usr/none"),
    ],
    [(W, b"usr/lib/x"), (H, b"usr/lib/h", b"usr/lib/deep/y"), (F, b"usr/lib/z"), (F, b"x")],
    [(OPQ, b"usr/lib/deep"), (F, b"usr/lib/deep/x"), (H, b"x", b"usr/lib/z"), (L, b"usr/lib/deep/out", b"../../..")],
]
WALKED = [b"usr", b"lib", b"up", b"deep", b"x", b"..", b""]
ENDS = [b"h", b"abs", b"self", b"out", b"dead", b"round", b"none", b"."]


def looked_up(look: Callable[[], Any]) -> tuple[Any, tuple[str, str | None] | None]:
    try:
        return look(), None
    except PathNotFound as missing:
        return None, (missing.message, missing.hint)


@pytest.mark.parametrize("above", range(1, len(STACK) + 1))
def test_lookups_of_all_kinds_of_paths_agree_with_the_whole_union(above: int) -> None:
    layers = [layer(rows) for rows in STACK[:above]]
    whole, merger = merge(layers), PartialMerge()
    paths = {b"/".join(parts) for size in range(4) for parts in product(WALKED, repeat=size)}
    paths |= {path + b"/" + end for path in [*paths] if path.count(b"/") < 2 for end in ENDS}
    found = 0
    for path, follow in product(sorted(paths), (False, True)):
        expected, missing = looked_up(partial(whole.lookup, path, follow=follow))
        if expected is None:
            assert looked_up(partial(merger.lookup, layers, path, follow=follow)) == (None, missing)
            continue
        found += 1
        tree, node = merger.lookup(layers, path, follow=follow)
        assert tree.entry(node) == whole.entry(expected)
        tree, node = merger.listing(layers, path, follow=follow, links=True)
        told = [(tree.entry(one), tree.links(one)) for one in [node, *tree.children(node).values()]]
        listed = [(whole.entry(one), whole.links(one)) for one in [expected, *whole.children(expected).values()]]
        assert sorted(told, key=lambda one: one[0].path) == sorted(listed, key=lambda one: one[0].path)
    assert found > 200
