"""The rules of the union, one by one, on small stacks with a known result."""

from __future__ import annotations

import hashlib
import io

import pytest

from lamina.errors import InvalidLayer, LimitExceeded, PathNotFound
from lamina.layer.entry import Kind
from lamina.layer.file_digests import LayerDigests
from lamina.union.merge import merge
from lamina.union.partial import through_symlinks
from lamina.union.path_history import StateEnd, path_history
from lamina.union.stacked import stacked
from lamina.union.tree import Tree
from support import layer_index, make_tar


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
    tree = union([("d/", None, {"mode": 0o711, "mtime": 5.25})], [("d/e/f", b"")])
    assert tree.entry(tree.lookup(b"d")).mode == 0o711
    implied = tree.entry(tree.lookup(b"d/e"))
    assert (implied.mode, implied.uid, implied.mtime) == (0o755, 0, 5_250_000_000)
    assert tree.origin(tree.lookup(b"d/e")) is None


def test_a_hard_link_binds_to_the_file_of_that_moment_and_outlives_the_other_name() -> None:
    tree = union([("a", b"one")], [("b", "= a")], [("a", b"other")], [(".wh.a", b"")])
    entry = tree.entry(tree.lookup(b"b"))
    assert (entry.kind, entry.size) == (Kind.FILE, 3)
    assert tree.content(tree.lookup(b"b"))[0] == 0
    assert tree.links(tree.lookup(b"b")) == 1


def test_a_link_to_a_link_is_the_file_itself() -> None:
    for layers in (
        [[("a", b"one"), ("b", "= a"), ("c", "= b"), ("d", "= c")]],
        [[("a", b"one")], [("b", "= a")], [("c", "= b")], [("d", "= c")]],
    ):
        tree = union(*layers)
        assert {tree.inode(tree.lookup(path)) for path in (b"a", b"b", b"c", b"d")} == {tree.lookup(b"a")}
        assert {tree.links(tree.lookup(path)) for path in (b"a", b"b", b"c", b"d")} == {4}
        assert tree.content(tree.lookup(b"d")) == (0, 0)
        assert tree.entry(tree.lookup(b"d")).size == 3


def test_the_history_of_the_root_begins_with_the_first_layer_that_states_it() -> None:
    layers = [[("a", b"1")], [("./", None, {"mode": 0o711})], [("./", None, {"mode": 0o700})]]
    states = path_history(union(*layers), b"").states
    assert [(state.layer, state.entry.mode, state.stated) for state in states] == [(2, 0o700, True), (1, 0o711, True)]
    assert states[1].ended == StateEnd("restated", 2, b"")
    (only,) = path_history(union(layers[0]), b"").states
    assert (only.stated, only.entry.mode) == (False, 0o755)


def test_a_directory_has_one_link_and_a_link_to_itself_changes_nothing() -> None:
    tree = union([("d/", None), ("d/a", b"1"), ("b", "= d/a")], [("b", "= d/a"), ("d/a", "= d/a"), ("d/a", "= b")])
    assert tree.links(tree.lookup(b"d")) == 1
    assert [tree.origin(tree.lookup(path)) for path in (b"d/a", b"b")] == [(0, 1), (0, 2)]
    assert tree.endings == []


def test_duplicate_entries_last_wins_but_earlier_links_keep_their_data() -> None:
    tree = union([("a", b"1"), ("l", "= a"), ("a", b"22")])
    assert tree.entry(tree.lookup(b"a")).size == 2
    assert tree.entry(tree.lookup(b"l")).size == 1


@pytest.mark.parametrize("target", ["none", "d"])
def test_hardlink_to_nothing_or_to_a_directory_names_both_paths(target: str) -> None:
    with pytest.raises(InvalidLayer, match=rf"layer 2.*'link'.*'{target}'"):
        union(DIR, [("link", f"= {target}")])


USR = [("usr/", None), ("usr/lib/", None), ("usr/lib/a", b"one"), ("d/", None)]


@pytest.mark.parametrize(
    "link", ["-> usr/lib", "-> /usr/lib", "-> ../../usr/lib", "-> usr/./lib/", "-> d/../usr/lib", "-> other"]
)
@pytest.mark.parametrize("lower", [True, False])
def test_a_hardlinks_target_leads_through_symlinks_inside_the_image(link: str, lower: bool) -> None:
    start = [*USR, ("other", "-> /usr/lib"), ("lib", link)]
    tree = union(start, [("x", "= lib/a")]) if lower else union([*start, ("x", "= lib/a")])
    assert tree.inode(tree.lookup(b"x")) == tree.lookup(b"usr/lib/a")
    assert tree.links(tree.lookup(b"x")) == 2
    assert tree.kind(tree.lookup(b"lib")) == Kind.SYMLINK
    # the layers as overlay stacks them, or as one: the link stays what it was
    if not lower:
        (one,) = stacked([layer_index(*start, ("x", "= lib/a"))])
        assert one.tree.links(one.tree.lookup(b"x")) == 2


def test_a_hardlink_to_a_symlink_is_that_symlink() -> None:
    tree = union([("a", b"one"), ("l", "-> a"), ("s", "-> ."), ("x", "= s/l")])
    assert (tree.kind(tree.lookup(b"x")), tree.link_target(tree.lookup(b"x"))) == (Kind.SYMLINK, b"a")
    assert tree.inode(tree.lookup(b"x")) == tree.lookup(b"l")


@pytest.mark.parametrize("target", ["lib/none", "loop/a", "up/usr", "file/a"])
def test_a_hardlink_that_leads_to_nothing_through_symlinks_names_both_paths(target: str) -> None:
    links = [("lib", "-> usr/lib"), ("loop", "-> loop"), ("up", "-> ."), ("file", "-> usr/lib/a")]
    with pytest.raises(InvalidLayer, match=rf"layer 1.*'x'.*'{target}'"):
        union([*USR, *links, ("x", f"= {target}")])


def test_layers_with_links_through_symlinks_are_known() -> None:
    layers = [
        layer_index(*USR, ("lib", "-> usr/lib"), ("y", "= usr/lib/a")),
        layer_index(("x", "= lib/a")),
        layer_index(("z", "= d/q"), ("d/q", b"")),
    ]
    assert through_symlinks(layers) == [1]
    assert through_symlinks(layers[1:]) == []


AUFS = [
    (".wh..wh.aufs", b""),
    (".wh..wh.orph/", None),
    (".wh..wh.orph/z", b"z"),
    (".wh..wh.plnk/", None),
    (".wh..wh.plnk/1.2", b"one", {"mode": 0o4755, "uid": 7}),
    (".wh..wh.plnk/3.4", b"never linked"),
    ("first", b"1"),
]


def test_files_that_aufs_keeps_for_hardlinks_are_seen_by_their_other_names_only() -> None:
    index = layer_index(*AUFS, ("x", "= .wh..wh.plnk/1.2"), ("d/y", "= ./.wh..wh.plnk/1.2"), ("z", "= x"))
    assert index.warnings == ()
    tree = merge([index])
    assert paths(tree) == ["d", "d/y", "first", "x", "z"]
    entry = tree.entry(tree.lookup(b"d/y"))
    assert (entry.kind, entry.size, entry.mode, entry.uid) == (Kind.FILE, 3, 0o4755, 7)
    assert {tree.inode(tree.lookup(path)) for path in (b"x", b"d/y", b"z")} == {tree.lookup(b"x")}
    assert tree.links(tree.lookup(b"z")) == 3
    data = make_tar([*AUFS, ("x", "= .wh..wh.plnk/1.2")])
    assert data[entry.offset : entry.offset + 3] == b"one"
    digests = LayerDigests.make(index, lambda start, end: io.BytesIO(data[start:end]))
    assert {index.path(row): digest for row, digest in digests.by_row().items()} == {
        path: hashlib.sha256(content).digest() for path, content in ((b"first", b"1"), (b"x", b"one"))
    }


@pytest.mark.parametrize("layer", [[], [("x", "= .wh..wh.plnk/1.2"), (".wh..wh.plnk/1.2", b"late")]])
def test_a_hardlink_to_what_aufs_did_not_keep_names_both_paths(layer: list[tuple[object, ...]]) -> None:
    with pytest.raises(InvalidLayer, match=r"'x'.*plnk/1\.2"):
        union(layer or [("d/.wh..wh.plnk/1.2", b"elsewhere"), ("x", "= .wh..wh.plnk/1.2")])


def test_entries_below_a_whiteout_name_are_skipped_with_a_warning() -> None:
    index = layer_index(("d/", None), ("d/.wh.x/", None), ("d/.wh.x/y", b"1"), ("d/.wh..wh.plnk/z", b"2"))
    assert paths(merge([index])) == ["d"]
    assert len(index.warnings) == 2
    assert "'d/.wh.x/y' is below a whiteout name" in index.warnings[0]


def test_too_many_aufs_link_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.layer.tar.MAX_AUFS_LINKS", 2)
    layer_index(*AUFS)
    with pytest.raises(LimitExceeded, match=r"more than 2 files in \.wh\.\.wh\.plnk"):
        layer_index(*AUFS, (".wh..wh.plnk/5.6", b""))


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


@pytest.mark.parametrize(
    "first", [("d/.wh.x", b""), ("./", None), ("d/", None), ("h", "= d/x"), ("d/x", "= d/x"), ("d/.wh..wh..opq", b"")]
)
def test_entries_after_one_that_makes_no_node_are_applied(first: tuple[object, ...]) -> None:
    tree = union([*DIR, ("h", "= d/x")], [first, ("new", b"1"), ("d/.wh.y", b"")])
    assert "new" in paths(tree)
    assert "d/y" not in paths(tree)
    assert [tree.origin(tree.lookup(b"new"))] == [(1, 1)]


def test_a_whiteout_of_nothing_does_not_stop_later_whiteouts() -> None:
    """Neither one in no directory, nor one in a file, nor one of a name that is not there."""
    for nothing in ("none/.wh.x", "d/x/.wh.y", "d/.wh.none", "none/.wh..wh..opq", "d/x/.wh..wh..opq"):
        assert paths(union(DIR, [(nothing, b""), ("d/.wh.y", b""), ("d/.wh.x", b"")])) == ["d"]


def test_a_stack_may_have_ten_thousand_layers() -> None:
    empty = layer_index()
    assert len(merge([empty] * 10_000)) == 0
    with pytest.raises(LimitExceeded, match="too many layers: 10001") as caught:
        merge([empty] * 10_001)
    assert "10000" in (caught.value.hint or "")


def test_directories_that_paths_imply_are_bounded_also_those_that_are_hidden() -> None:
    deep = "/".join("d" * 50)
    again = layer_index(*[one for _ in range(20) for one in ((f"{deep}/f", b""), ("d", b"a file in its place"))])
    apart = layer_index(*[(f"{number}/{deep}/f", b"") for number in range(20)])
    for layer in (again, apart):
        assert len(merge([layer], most=1100).names) > 1000
        with pytest.raises(LimitExceeded, match="more than 1000 files and directories"):
            merge([layer], most=1000)


@pytest.mark.parametrize("count", [99, 100, 101])
def test_a_union_keeps_a_hundred_warnings(count: int) -> None:
    """A warning does not change the result."""
    tree = union([(f"f{n:03}", b"") for n in range(count)], [(f"f{n:03}/x", b"") for n in range(count)])
    assert len(tree.warnings) == min(count, 100)
    assert "/f000, which is a file" in tree.warnings[0]
    assert len(tree) == 2 * count
