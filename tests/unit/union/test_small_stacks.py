"""Stacks of a few entries, one for each detail of the merge."""

from __future__ import annotations

from typing import Any

import pytest

from lamina.errors import InvalidLayer, PathNotFound
from lamina.layer.build_layer import index_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.union import partial as glance_module
from lamina.union.glob import glob
from lamina.union.merge import LayerMerge, merge, merge_both
from lamina.union.partial import PartialMerge, through_symlinks
from lamina.union.path_history import histories_under
from lamina.union.squashed import squashed
from lamina.union.stacked import Stacked, stacked
from lamina.union.tree import MAX_LINKS, UNSTATED, HiddenBy, Tree
from support import layer_index

F, D, L, H, W, OPQ = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.WHITEOUT, Kind.OPAQUE)
MODES = {D: 0o755, L: 0o777}


def layer(*rows: tuple[Any, ...]) -> LayerIndex:
    """Rows as (kind, path), of links with their target."""
    return index_of(
        [Entry(path, kind, MODES.get(kind, 0o644), link=more[0] if more else b"") for kind, path, *more in rows]
    )


# the merge


def test_a_fork_has_the_warnings_so_far_and_its_own_from_there() -> None:
    shared = [layer((F, b"d"), (F, b"e")), layer((F, b"d/f"))]
    one, other = merge_both([*shared, layer((F, b"e/f"))], [*shared, layer((F, b"x"))], 2)
    assert (len(one.warnings), len(other.warnings)) == (2, 1)
    assert other.warnings == one.warnings[:1] == merge(shared).warnings


def test_a_node_has_the_layer_that_states_it_and_none_if_it_is_implied() -> None:
    tree = merge([layer((F, b"a")), layer((F, b"d/f"))])
    assert [tree.layer(tree.lookup(path)) for path in (b"", b"a", b"d", b"d/f")] == [None, 0, None, 1]


def test_a_whiteout_below_a_file_hides_nothing() -> None:
    tree = merge([layer((F, b"d")), layer((W, b"d/x"), (W, b"d/e/x"), (OPQ, b"d"), (OPQ, b"d/e"))])
    assert [tree.path(node) for node in tree.walk()] == [b"", b"d"]
    assert tree.endings == []


def test_a_mark_counts_in_its_own_directory_and_what_it_ended_names_its_row() -> None:
    tree = merge([layer((F, b"a/b/x"), (F, b"a/b/y"), (F, b"b/x")), layer((F, b"n"), (W, b"a/b/x"), (OPQ, b"a/b"))])
    assert [tree.path(node) for node in tree.walk()] == [b"", b"a", b"a/b", b"b", b"b/x", b"n"]
    told = [(ending.how, tree.path(ending.node), ending.layer, ending.row) for ending in tree.endings]
    assert told == [(HiddenBy.WHITEOUT, b"a/b/x", 1, 1), (HiddenBy.OPAQUE, b"a/b/y", 1, 2)]


def test_a_replaced_entry_names_the_row_that_replaced_it() -> None:
    tree = merge([layer((F, b"a"), (F, b"d/x"), (F, b"e")), layer((F, b"n"), (F, b"a"), (F, b"d"), (F, b"e/f"))])
    told = [(ending.how, tree.path(ending.node), ending.layer, ending.row) for ending in tree.endings]
    assert told == [
        (HiddenBy.REPLACED, b"a", 1, 1),
        (HiddenBy.REPLACED, b"d", 1, 2),
        (HiddenBy.REPLACED, b"e", 1, UNSTATED),
    ]


def test_the_warning_for_a_file_that_becomes_a_directory_names_layer_path_and_kind() -> None:
    tree = merge(
        [
            layer((F, b"a")),
            layer((F, b"d/\xff\xc3\xa4"), (L, b"l", b"a")),
            layer((F, b"d/\xff\xc3\xa4/x"), (F, b"l/x")),
        ]
    )
    assert tree.warnings == [
        "layer 3 has entries below /d/\\xff\u00e4, which is a file: it becomes a directory",
        "layer 3 has entries below /l, which is a symlink: it becomes a directory",
    ]


@pytest.mark.parametrize(
    ("rows", "message", "hint"),
    [
        (
            [(H, b"h", b"d/none")],
            "layer 2: the hard link b'h' names b'd/none', which was not found",
            "check the base image: the layer was made for another base, or is malformed",
        ),
        (
            [(H, b"d/h", b"d")],
            "layer 2: hard link b'd/h' names the directory b'd'",
            "fetch or build the layer again: hard links to directories are not allowed",
        ),
    ],
)
def test_the_error_for_an_invalid_hard_link_names_its_layer(
    rows: list[tuple[Any, ...]], message: str, hint: str
) -> None:
    with pytest.raises(InvalidLayer) as caught:
        merge([layer((F, b"d/f")), layer(*rows)])
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_trees_that_are_merged_of_the_same_names_share_them() -> None:
    index = layer((F, b"a/first"), (F, b"a/second"))
    names = list(index.each_basename())
    tree = Tree([index])
    LayerMerge(tree, 0, index).apply(names)
    assert [tree.path(node) for node in tree.walk()] == [b"", b"a", b"a/first", b"a/second"]
    assert [one for one in names if any(one is name for name in tree.names)] == names


def test_a_directory_that_no_layer_states_has_the_time_of_the_nearest_above_or_none() -> None:
    assert merge([layer((F, b"d/e/f"))]).entry(1).mtime == 0
    stated = index_of([Entry(b"d", D, 0o700, mtime=7_000_000_003), Entry(b"d/e/f", F)])
    tree = merge([stated])
    assert [tree.entry(tree.lookup(path)).mtime for path in (b"", b"d", b"d/e")] == [0, 7_000_000_003, 7_000_000_003]
    assert (tree.name(0), tree.origin(0), tree.content(0)) == (b"", None, (0, UNSTATED))


def test_a_path_below_what_took_a_directorys_place_makes_a_new_one() -> None:
    tree = merge([layer((F, b"d/a"), (F, b"d"), (F, b"d/b"), (F, b"e/f/a"), (F, b"e"), (F, b"e/f/b"))])
    assert [tree.path(node) for node in tree.walk()] == [b"", b"d", b"d/b", b"e", b"e/f", b"e/f/b"]


@pytest.mark.parametrize("count", [MAX_LINKS, MAX_LINKS + 1])
def test_a_lookup_follows_forty_symlinks_and_no_more(count: int) -> None:
    tree = merge(
        [layer(*[(L, b"l%d" % number, b"l%d" % (number + 1)) for number in range(count)], (F, b"l%d" % count))]
    )
    if count == 40:
        assert tree.path(tree.lookup(b"l0", follow=True)) == b"l40"
    else:
        with pytest.raises(PathNotFound) as caught:
            tree.lookup(b"l0", follow=True)
        assert (caught.value.message, caught.value.hint) == (
            "/l0: too many symlinks",
            "check the symlinks: they form a loop",
        )


@pytest.mark.parametrize(
    ("path", "shown", "hint"),
    [
        (b"x/y", "x/y", "/ has no x"),
        (b"d/x", "d/x", "/d has no x"),
        (b"d/f/x/y", "d/f/x/y", "/d/f is not a directory"),
        (b"d/\xff\xc3\xa4", "d/\\xff\u00e4", "/d has no \\xff\u00e4"),
        (b"d/" + b"n" * 400, "d/" + "n" * 298, "/d has no " + "n" * 300),
    ],
)
def test_the_error_of_a_lookup_names_the_nearest_existing_directory(path: bytes, shown: str, hint: str) -> None:
    with pytest.raises(PathNotFound) as caught:
        merge([layer((F, b"d/f"))]).lookup(path)
    assert (caught.value.message, caught.value.hint) == (f"/{shown} was not found in the image", hint)


@pytest.mark.parametrize(
    ("target", "found"),
    [(b"f", b"d/f"), (b"/f", b"f"), (b"//./f", b"f"), (b"../f", b"f"), (b"../../f", b"f"), (b"/d/../d/f", b"d/f")],
)
def test_a_symlink_is_relative_to_its_directory_or_to_the_root(target: bytes, found: bytes) -> None:
    tree = merge([layer((F, b"f"), (F, b"d/f"), (L, b"d/l", target))])
    assert tree.path(tree.lookup(b"d/l", follow=True)) == found


# trails


def test_histories_are_sorted_by_path_components_and_stay_below_the_path() -> None:
    """``-`` and ``.`` come before ``/``: by bytes, ``a-b`` would stand between ``a`` and ``a/b``."""
    paths = [b"a/b", b"a/c/d", b"a-b", b"a.b/c", b"ab"]
    tree = merge([layer(*[(F, path) for path in paths]), layer((W, b"a/b"), (W, b"nothing"))])
    everything = [b"", b"a", b"a/b", b"a/c", b"a/c/d", b"a-b", b"a.b", b"a.b/c", b"ab"]
    assert [one.path for one in histories_under(tree, b"")] == everything
    assert [one.path for one in histories_under(tree, b"a")] == everything[1:5]
    assert [one.path for one in histories_under(tree, b"a/c")] == [b"a/c", b"a/c/d"]
    assert [one.path for one in histories_under(tree, b"a-b")] == [b"a-b"]
    assert {one.idle_whiteouts for one in histories_under(tree, b"")} == {()}


# glances


LISTED = [layer((F, b"d/f"), (F, b"d/g"), (D, b"d/e"), (L, b"l", b"d"), (H, b"d/h", b"d/f"))]


def test_a_listing_follows_a_symlink_at_its_end_if_not_told_otherwise() -> None:
    tree, node = PartialMerge().listing(LISTED, b"l")
    assert (tree.path(node), sorted(tree.children(node))) == (b"d", [b"e", b"f", b"g", b"h"])
    tree, node = PartialMerge().listing(LISTED, b"l", follow=False)
    assert (tree.path(node), tree.kind(node)) == (b"l", L)
    assert not tree.children(node)


def test_a_listing_goes_into_a_directory_only_if_told_to() -> None:
    tree, node = PartialMerge().listing(LISTED, b"d", into=False)
    assert tree.is_directory(node)
    assert not tree.children(node)
    tree, node = PartialMerge().listing(LISTED, b"d/f")
    assert (tree.path(node), len(tree)) == (b"d/f", 2)


def test_a_listing_looks_for_other_names_only_if_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, node = PartialMerge().listing(LISTED, b"d", links=True)
    assert sorted(tree.children(node)) == [b"e", b"f", b"g", b"h"]
    assert tree.links(tree.children(node)[b"f"]) == 2

    def asked(*_: object) -> list[bytes]:
        raise AssertionError

    monkeypatch.setattr(glance_module, "_other_names", asked)
    tree, node = PartialMerge().listing(LISTED, b"d")
    assert sorted(tree.children(node)) == [b"e", b"f", b"g", b"h"]


@pytest.mark.parametrize(
    ("link", "target", "leads"),
    [
        (b"l", b"l/f", True),
        (b"l", b"l/b/c/f", True),
        (b"a/l", b"a/l/f", True),
        (b"a/l", b"a/l/c/f", True),
        (b"a/b/l", b"a/b/l/f", True),
        (b"l", b"l", False),  # at its end
        (b"l", b"a/l/f", False),
        (b"a/l", b"l/f", False),
        (b"a/l", b"a/f/l", False),
        (b"l", b"f", False),
    ],
)
def test_a_hardlinks_target_may_lead_through_a_symlink_however_deep(link: bytes, target: bytes, leads: bool) -> None:
    links, others = layer((L, link, b"/")), layer((F, b"x"), (H, b"h", target))
    assert through_symlinks([links, others]) == ([1] if leads else [])
    assert through_symlinks([others, links]) == ([0] if leads else [])
    assert through_symlinks([links]) == []


# patterns


def test_two_stars_behind_a_pattern_begin_in_every_directory_that_fits() -> None:
    union = merge([layer((F, b"a/f"), (F, b"b/g"), (F, b"c"))])
    assert glob(union, 0, [b"*", b"**"]) == [b"a", b"a/f", b"b", b"b/g"]


def test_a_pattern_may_lead_upwards_but_not_out() -> None:
    union = merge([layer((F, b"d/e/f"), (F, b"d/g"))])
    assert glob(union, 0, [b"d", b"e", b"..", b"g"]) == [b"d/e/../g"]
    assert glob(union, 0, [b"..", b"..", b"d", b"g"]) == [b"../../d/g"]


def test_a_name_that_is_not_utf8_is_matched_by_its_bytes() -> None:
    union = merge([layer((F, b"\xff"), (F, "\u00e9".encode()), (F, b"ab"))])
    assert glob(union, 0, [b"?"]) == ["\u00e9".encode(), b"\xff"]
    assert glob(union, 0, [b"[\xff]"]) == [b"\xff"]


# layers made one


def stated(layers: list[LayerIndex], low: int) -> list[tuple[Kind, bytes]]:
    return [(one.entry.kind, one.entry.path) for one in squashed(layers, low)]


@pytest.mark.parametrize(
    ("layers", "low", "expected"),
    [
        # what the layers below hid among themselves is none of this one's
        ([[(F, b"a"), (F, b"d/x")], [(W, b"a"), (OPQ, b"d")], [(F, b"n")]], 2, [(F, b"n")]),
        # a directory that was emptied and then hidden
        ([[(F, b"d/a"), (F, b"b")], [(OPQ, b"d")], [(W, b"d"), (W, b"b")]], 1, [(W, b"d"), (W, b"b")]),
        # something of the range's own goes before something of below
        ([[(F, b"b")], [(F, b"n")], [(W, b"n"), (W, b"b")]], 1, [(W, b"b")]),
        # the first node of the range is what an emptied directory has now
        ([[(F, b"d/a"), (F, b"d/b")], [(OPQ, b"d"), (F, b"d/n")]], 1, [(OPQ, b"d"), (F, b"d/n")]),
        # files that have several names below get none here
        ([[(F, b"a"), (H, b"b", b"a")], [(F, b"n")]], 1, [(F, b"n")]),
        ([[(F, b"a"), (H, b"b", b"a")], [(F, b"n"), (H, b"m", b"n")]], 1, [(F, b"m"), (H, b"n")]),
    ],
)
def test_a_range_states_what_it_does_to_those_below_and_no_more(
    layers: list[list[tuple[Any, ...]]], low: int, expected: list[tuple[Kind, bytes]]
) -> None:
    assert stated([layer(*rows) for rows in layers], low) == expected


# trees to stack


def contexts(base: tuple[Any, ...], *above: tuple[Any, ...]) -> list[str]:
    return [one.context for one in stacked([layer_index(*base), *[layer_index(*members) for members in above]])]


def alive(one: Stacked) -> bool:
    return all(one.tree.is_alive(node) for node in one.tree.walk())


def test_the_tree_of_a_layer_has_nothing_of_those_above_it() -> None:
    below, above = stacked([layer_index(("d/a", b"")), layer_index(("d/b", b""), (".wh.d", b""), ("e", b""))])
    assert [below.tree.path(node) for node in below.tree.walk()] == [b"", b"d", b"d/a"]
    assert [above.tree.path(node) for node in above.tree.walk()] == [b"", b"d", b"d/b", b"e"]


def test_all_nodes_of_a_layers_tree_are_alive_marks_too() -> None:
    found = stacked(
        [layer_index(("d/a", b""), ("d/b/c", b"")), layer_index(("d/.wh.a", b"")), layer_index(("d/", None))]
    )
    assert [alive(one) for one in found] == [True, True, True]
    assert [len(one.tree) for one in found] == [sum(1 for _ in one.tree.walk()) - 1 for one in found]


def test_the_lowest_layer_has_no_marks() -> None:
    """It may be shown alone, where they would be seen; and a mark on its root hides nothing more."""
    layers = [layer_index(("a", b""), ("d/x", b"")), layer_index((".wh..wh..opq", b""), (".wh.a", b""), ("d/y", b""))]
    (only,) = stacked(layers)
    assert (only.layer, only.opaque) == (1, set())
    assert [only.tree.path(node) for node in only.tree.walk()] == [b"", b"d", b"d/y"]
    assert any(ending.how == HiddenBy.OPAQUE for ending in merge(layers).endings)


D_AND_E = (("d/", None), ("e/", None))


@pytest.mark.parametrize(
    ("bases", "above"),
    [
        # which opaque marks hid something
        ([("d/x", "e/"), ("d/", "e/x")], [*D_AND_E, ("d/.wh..wh..opq", b""), ("e/.wh..wh..opq", b"")]),
        # which whiteouts did
        ([("d/x", "e/"), ("d/", "e/x"), ("d/x", "e/x")], [*D_AND_E, ("d/.wh.x", b""), ("e/.wh.x", b"")]),
        # which directories have the layer's time now
        ([("d/p/f",), ("d/q/f",), ("d/p/f", "d/q/f"), ("d/p/p/f",)], [("d/", None, {"mtime": 5})]),
        # which of a mark and a name it was
        ([("d/x",), ("d/",)], [("d/", None), ("d/.wh..wh..opq", b"")]),
    ],
)
def test_one_layer_on_different_bases_has_one_tree_for_each_base_that_matters(
    bases: list[tuple[str, ...]], above: list[tuple[Any, ...]]
) -> None:
    def base(names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple((name, None if name.endswith("/") else b"") for name in names)

    found = [contexts(base(names), tuple(above))[1] for names in bases]
    assert len(set(found)) == len(bases)
    again = [contexts((*base(names), ("other", b"")), tuple(above))[1] for names in bases]
    assert again == found


def test_a_context_does_not_depend_on_the_order_of_the_archive() -> None:
    """Of two layers that do the same in another order, the same came from below."""
    base = (("d/x", b""), ("e/x", b""), ("d/p/f", b""), ("e/q/f", b""))
    above = [("d/.wh..wh..opq", b""), ("e/.wh..wh..opq", b""), ("d/", None), ("e/", None)]
    marks = [("e/.wh.x", b""), ("d/.wh.x", b""), ("e/", None), ("d/", None)]
    for members in (above, marks):
        assert contexts(base, tuple(members)) == contexts(base, tuple(reversed(members)))


def test_a_file_beside_a_directory_whose_time_changes_does_not_keep_it() -> None:
    names = ("b/a", "b/c/f", "b/d/e/f", "b/z")
    layers = [layer_index(*[(name, b"") for name in names]), layer_index(("b/", None, {"mtime": 5}))]
    tree = stacked(layers)[1].tree
    assert [tree.path(node) for node in tree.walk()] == [b"", b"b", b"b/c", b"b/d", b"b/d/e"]
