"""Rule by rule: small stacks whose union is known."""

from __future__ import annotations

import pytest

from lamina.errors import InvalidLayer, PathNotFound
from lamina.layer.entry import Kind
from lamina.union.merge import merge
from lamina.union.tree import Tree
from support import layer_index


def union(*layers: list[tuple[object, ...]]) -> Tree:
    return merge([layer_index(*layer) for layer in layers])


def paths(tree: Tree) -> list[str]:
    return [tree.path(node).decode() for node in tree.walk() if node]


DIR = [("d/", None), ("d/x", b"1"), ("d/y/", None), ("d/y/z", b"2")]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([DIR, [(".wh.d", b"")]], []),
        ([DIR, [("d/.wh.x", b"")]], ["d", "d/y", "d/y/z"]),
        ([DIR, [("d/.wh..wh..opq", b"")]], ["d"]),
        ([DIR, [("d/new", b""), ("d/.wh..wh..opq", b"")]], ["d", "d/new"]),
        ([DIR, [("d/x", b"3"), ("d/.wh.x", b"")]], ["d", "d/x", "d/y", "d/y/z"]),
        ([DIR, [(".wh.d", b""), ("d/", None), ("d/q", b"")]], ["d", "d/q"]),
        ([[("d/.wh.x", b""), ("d/", None), ("d/x", b"")]], ["d", "d/x"]),
        ([DIR, [("d/y/.wh.nope", b"")]], ["d", "d/x", "d/y", "d/y/z"]),
        ([DIR, [("e/.wh.x", b"")]], ["d", "d/x", "d/y", "d/y/z"]),
        ([DIR, [("d", b"file")]], ["d"]),
        ([DIR, [("d", "-> elsewhere")]], ["d"]),
        ([[("d", b"file")], [("d/", None)]], ["d"]),
        ([[("d", b"file")], [("d/sub/f", b"")]], ["d", "d/sub", "d/sub/f"]),
        ([[("real/", None), ("d", "-> real")], [("d/f", b"")]], ["d", "d/f", "real"]),
        ([DIR, [("d/.wh..wh.plnk", b"")]], ["d", "d/x", "d/y", "d/y/z"]),
        ([DIR, [("d/.wh.x", "= d/y/z")]], ["d", "d/y", "d/y/z"]),
        ([[("d/.wh..opqX", b"")], []], []),
        ([[("d/", None), ("d/.wh..opqX".replace(".wh.", ""), b"")], [("d/.wh..opqX", b"")]], ["d"]),
        ([[("null", "c 0 0"), ("zero", "c 1 5")]], ["zero"]),
        ([[("./", None), ("./a", b""), ("/b", b"")]], ["a", "b"]),
    ],
)
def test_paths_of_the_union(layers: list[list[tuple[object, ...]]], expected: list[str]) -> None:
    assert paths(union(*layers)) == expected


def test_opaque_mark_with_more_behind_it_hides_that_name() -> None:
    from lamina.layer.whiteout import classify

    assert classify(b".wh..wh..opq") == (Kind.OPAQUE, b"")
    assert classify(b".wh..wh..opqX") == (Kind.WHITEOUT, b".wh..opqX")
    assert classify(b".wh..wh.plnk") == (Kind.WHITEOUT, b"")
    assert classify(b"x.wh.") is None
    for bad in (b".wh.", b".wh..", b".wh..."):
        with pytest.raises(InvalidLayer):
            classify(bad)


def test_directory_over_directory_takes_attributes_and_keeps_children() -> None:
    tree = union(DIR, [("d/", None, {"mode": 0o700, "uid": 7})])
    entry = tree.entry(tree.lookup(b"d"))
    assert (entry.mode, entry.uid) == (0o700, 7)
    assert "d/x" in paths(tree)


def test_unstated_directory_keeps_what_it_has_below_or_is_0755_with_its_parents_time() -> None:
    tree = union([("d/", None, {"mode": 0o711, "mtime": 5})], [("d/e/f", b"")])
    assert tree.entry(tree.lookup(b"d")).mode == 0o711
    implied = tree.entry(tree.lookup(b"d/e"))
    assert (implied.mode, implied.uid, implied.mtime) == (0o755, 0, 5_000_000_000)
    assert tree.origin(tree.lookup(b"d/e")) is None


def test_hardlink_binds_at_its_moment_and_survives_the_other_name() -> None:
    tree = union([("a", b"one")], [("b", "= a")], [("a", b"other")], [(".wh.a", b"")])
    entry = tree.entry(tree.lookup(b"b"))
    assert (entry.kind, entry.size) == (Kind.FILE, 3)
    assert tree.content(tree.lookup(b"b"))[0] == 0
    assert tree.links(tree.lookup(b"b")) == 1


def test_duplicate_entries_last_wins_but_earlier_links_keep_their_data() -> None:
    tree = union([("a", b"1"), ("l", "= a"), ("a", b"22")])
    assert tree.entry(tree.lookup(b"a")).size == 2
    assert tree.entry(tree.lookup(b"l")).size == 1


@pytest.mark.parametrize("target", ["none", "d"])
def test_hardlink_to_nothing_or_to_a_directory_names_both_paths(target: str) -> None:
    with pytest.raises(InvalidLayer, match=rf"layer 2.*'link'.*'{target}'"):
        union(DIR, [("link", f"= {target}")])


def test_literal_parents_warn() -> None:
    tree = union([("d", "-> real"), ("real/", None)], [("d/f", b"")])
    assert len(tree.warnings) == 1
    assert "/d, which is a symlink" in tree.warnings[0]


def test_lookup_follows_links_inside_the_root_only() -> None:
    tree = union(
        [
            ("etc/", None),
            ("etc/passwd", b"in"),
            ("abs", "-> /etc/passwd"),
            ("up", "-> ../../../etc"),
            ("loop", "-> loop"),
        ]
    )
    assert tree.path(tree.lookup(b"abs", follow=True)) == b"etc/passwd"
    assert tree.path(tree.lookup(b"up/passwd")) == b"etc/passwd"
    assert tree.kind(tree.lookup(b"abs")) == Kind.SYMLINK
    for bad in (b"loop/x", b"nope", b"etc/passwd/x"):
        with pytest.raises(PathNotFound):
            tree.lookup(bad, follow=True)


def test_two_thousand_levels_deep() -> None:
    deep = "/".join("d" for _ in range(2000))
    tree = union([(deep, b"x")], [(".wh.d", b"")])
    assert len(tree) == 0
