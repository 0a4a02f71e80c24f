"""The diff of two trees compared with a naive one: both are unpacked into dictionaries and compared path by path."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings

from lamina.errors import InvalidLayer, PathNotFound, UsageError
from lamina.host.files import FileRange
from lamina.insight.change import ADDED, CHANGED, FIELDS, REMOVED, RENAMED, Change
from lamina.insight.compare import ASPECTS, compare
from lamina.insight.diff import parse_fields
from lamina.insight.side import Side
from lamina.layer.entry import Kind
from sides import MadeLayer, layers, side, twins
from support import rounds


class Unpacked(NamedTuple):
    kind: Kind
    mode: int
    owner: int
    time: int
    target: bytes
    content: bytes
    inode: int


def unpacked(one: Side) -> dict[bytes, Unpacked]:
    tree, found = one.tree, {}
    for node in tree.walk():
        if node:
            entry = tree.entry(node)
            content = b""
            if entry.kind == Kind.FILE:
                with one.open(node) as stream:
                    content = stream.read()
            found[entry.path] = Unpacked(
                entry.kind, entry.mode, entry.uid, entry.mtime, entry.link, content, tree.inode(node)
            )
    return found


def naive(before: dict[bytes, Unpacked], after: dict[bytes, Unpacked]) -> set[tuple[str, bytes, frozenset[str]]]:
    found = {(REMOVED, path, frozenset[str]()) for path in before.keys() - after.keys()}
    found |= {(ADDED, path, frozenset[str]()) for path in after.keys() - before.keys()}
    both = before.keys() & after.keys()
    like = {path for path in both if before[path].kind == after[path].kind}
    for path in both:
        one, other = before[path], after[path]
        if one.kind != other.kind:
            found.add((CHANGED, path, frozenset({"kind"})))
            continue
        fields = {
            name for name in ("content", "target", "owner", "time") if getattr(one, name) != getattr(other, name)
        }
        if one.mode != other.mode and one.kind != Kind.SYMLINK:
            fields.add("mode")
        if one.kind != Kind.DIRECTORY:
            linked = {name for name in like if before[name].inode == one.inode}
            if linked != {name for name in like if after[name].inode == other.inode}:
                fields.add("links")
        if fields:
            found.add((CHANGED, path, frozenset(fields)))
    return found


def told(changes: tuple[Change, ...]) -> set[tuple[str, bytes, frozenset[str]]]:
    return {(change.how, change.path, frozenset(change.fields)) for change in changes}


def pair(common: Any, one: Any, other: Any) -> tuple[Side, Side] | None:
    """Two sides with common lower layers; None if a hard link has no target."""
    sides = side("a", [*common, *one]), side("b", [*common, *other])
    try:
        _ = sides[0].tree, sides[1].tree
    except InvalidLayer:
        return None
    return sides


@settings(max_examples=rounds(400), deadline=None)
@given(layers, twins)
def test_diff_equals_a_naive_diff(common: Any, both: Any) -> None:
    sides = pair(common, *both)
    if sides is None:
        return
    before, after = map(unpacked, sides)
    found = compare(*sides, renames=False).changes
    assert told(found) == naive(before, after)
    assert len(found) == len(told(found))
    assert [change.path.split(b"/") for change in found] == sorted(change.path.split(b"/") for change in found)
    for change in found:
        assert (change.before and change.before.path) in (None, change.path)
        assert (change.after and change.after.path) in (None, change.path)
    assert not compare(sides[0], sides[0]).differ


@settings(max_examples=rounds(150), deadline=None)
@given(layers, twins)
def test_renames_pair_removed_and_added_files(common: Any, both: Any) -> None:
    sides = pair(common, *both)
    if sides is None:
        return
    before, after = map(unpacked, sides)
    plain, found = compare(*sides, renames=False).changes, compare(*sides).changes
    apart = told(tuple(change for change in found if change.how != RENAMED))
    for change in found:
        if change.how == RENAMED:
            assert before[change.old_path].content == after[change.path].content != b""
            apart |= {(REMOVED, change.old_path, frozenset()), (ADDED, change.path, frozenset())}
    assert apart == told(plain)
    gone = {before[change.path].content for change in found if change.how == REMOVED}
    came = {after[change.path].content for change in found if change.how == ADDED}
    assert gone & came <= {b""}


@settings(max_examples=rounds(150), deadline=None)
@given(layers, twins)
def test_ignored_changes_are_not_reported(common: Any, both: Any) -> None:
    sides = pair(common, *both)
    if sides is None:
        return
    plain = compare(*sides, renames=False).changes
    for field in FIELDS[1:]:
        expected = {
            (how, path, fields - {field}) for how, path, fields in told(plain) if how != CHANGED or fields - {field}
        }
        assert told(compare(*sides, renames=False, ignore={field}).changes) == expected


def file(path: bytes, content: bytes, mode: int = 0o644) -> Any:
    return (Kind.FILE, path, b"", mode, content, 0, 0)


def test_shared_layers_are_not_read() -> None:
    """Files of different sizes are not read either; only pairs of the same size are, also for renames."""
    base = [file(b"same", b"xxxx"), file(b"grown", b"1"), file(b"edited", b"one")]
    one = Side("a", [MadeLayer(base), MadeLayer([file(b"old", b"abc"), file(b"gone", b"abcdef")])])
    other = Side(
        "b", [MadeLayer(base), MadeLayer([file(b"grown", b"22"), file(b"edited", b"two"), file(b"new", b"abc")])]
    )
    found = compare(one, other).changes
    assert [(change.how, change.path, change.fields) for change in found] == [
        (CHANGED, b"edited", ("content",)),
        (REMOVED, b"gone", ()),
        (CHANGED, b"grown", ("content",)),
        (RENAMED, b"new", ()),
    ]
    assert [layer.opened for layer in (*one.layers, *other.layers)] == [1, 1, 0, 2]  # type: ignore[attr-defined]


class DigestedLayer(MadeLayer):
    """A layer that knows the digests of all rows but row 0."""

    def kept_digests(self) -> DigestedLayer:
        return self

    def by_row(self) -> dict[int, bytes]:
        index = self.index()
        places = {row: slice(index.offset[row], index.offset[row] + index.size[row]) for row in range(1, len(index))}
        return {row: hashlib.sha256(self._data[place]).digest() for row, place in places.items()}


def test_stored_digests_are_used_instead_of_contents() -> None:
    one = [file(b"unknown", b"a"), file(b"same", b"x" * 50), file(b"other", b"y" * 50)]
    other = [file(b"unknown", b"b"), file(b"same", b"x" * 50), file(b"other", b"z" * 50), file(b"new", b"1")]
    sides = Side("a", [DigestedLayer(one)]), Side("b", [DigestedLayer(other)])
    found = [(change.how, change.path) for change in compare(*sides).changes]
    assert found == [(ADDED, b"new"), (CHANGED, b"other"), (CHANGED, b"unknown")]
    assert [layer.opened for side in sides for layer in side.layers] == [1, 1]  # type: ignore[attr-defined]
    large = [*one, file(b"large", b"0" * 1000)]
    sides = Side("a", [DigestedLayer(large)]), Side("b", [DigestedLayer([file(b"first", b""), *other])])
    assert [change.path for change in compare(*sides, renames=False).changes if change.how == CHANGED] == [
        b"other",
        b"unknown",
    ]


class FiledLayer(MadeLayer):
    """A layer whose tar is part of a file; it has no digests."""

    def __init__(self, path: Path, entries: list[Any], cut: int = 0) -> None:
        super().__init__(entries)
        self._path = path
        path.write_bytes(b"before it" + self._data[: len(self._data) - cut])

    def kept_digests(self) -> None:
        return None

    def open(self, start: int = 0, end: int | None = None) -> FileRange:  # type: ignore[override]
        self.opened += 1
        size = 9 + len(self._data)
        return FileRange(str(self._path), 9 + start, size if end is None else 9 + end)


def test_tars_are_opened_once_and_compared_completely(tmp_path: Path) -> None:
    large = b"x" * 300_000
    one = [file(b"first", b"1"), file(b"large", large), file(b"last", large), file(b"small", b"abc")]
    other = [file(b"last", large[:-1] + b"y"), file(b"small", b"abd"), file(b"first", b"1"), file(b"large", large)]
    layers = FiledLayer(tmp_path / "one", one), FiledLayer(tmp_path / "other", other)
    found = compare(Side("a", [layers[0]]), Side("b", [layers[1]])).changes
    assert [(change.path, change.fields) for change in found] == [(b"last", ("content",)), (b"small", ("content",))]
    assert [layer.opened for layer in layers] == [1, 1]
    short = FiledLayer(tmp_path / "short", other, cut=1)
    with pytest.raises(InvalidLayer):
        compare(Side("a", [layers[0]]), Side("b", [short]))


def test_of_equal_files_the_one_with_the_same_name_is_the_renamed_one() -> None:
    one = side("a", [[file(b"a/x", b"same"), file(b"a/y", b"same")]])
    other = side("b", [[file(b"b/y", b"same"), file(b"c/z", b"same", 0o600)]])
    found = [change for change in compare(one, other).changes if change.how == RENAMED]
    assert [(change.old_path, change.path, change.fields) for change in found] == [
        (b"a/y", b"b/y", ()),
        (b"a/x", b"c/z", ("mode",)),
    ]


def test_many_copies_of_one_content_are_paired_in_linear_time() -> None:
    count = 20_000
    one = side("a", [[file(b"a%d" % number, b"same") for number in range(count)]])
    other = side("b", [[file(b"b%d" % number, b"same") for number in range(count)]])
    assert [change.how for change in compare(one, other).changes] == [RENAMED] * count


def test_a_path_alone_is_compared_and_symlinks_to_directories_are_followed() -> None:
    link = (Kind.SYMLINK, b"bin", b"usr/bin", 0o777, b"", 0, 0)
    one = side("a", [[file(b"usr/bin/sh", b"1"), link, file(b"else", b"1")]])
    other = side("b", [[file(b"usr/bin/sh", b"2"), link, file(b"else", b"2")]])
    assert [change.path for change in compare(one, other, b"bin").changes] == [b"bin/sh"]
    assert [change.path for change in compare(one, other, b"usr").changes] == [b"usr/bin/sh"]
    assert [change.path for change in compare(one, other, b"else").changes] == [b"else"]
    with pytest.raises(PathNotFound, match="/nope was not found on either side"):
        compare(one, other, b"nope")


def test_fields_have_the_names_that_people_use() -> None:
    assert parse_fields("mtime, mode,xattr,hardlinks,created", ASPECTS) == {
        "time",
        "mode",
        "xattrs",
        "links",
        "created",
    }
    for word in ("kind", "sizes"):
        with pytest.raises(UsageError, match=word):
            parse_fields(word)


def test_a_file_of_a_common_layer_that_one_side_links_to_later() -> None:
    """The entry is the same on both sides, but its names differ."""
    common = [file(b"a", b"x"), file(b"d/in", b"")]
    linked = side("a", [common, [(Kind.HARDLINK, b"b", b"a", 0o644, b"", 0, 0)]])
    apart = side("b", [common, [file(b"b", b"x")]])
    for one, other in ((linked, apart), (apart, linked)):
        found = compare(one, other).changes
        assert [(change.how, change.path, change.fields) for change in found] == [
            (CHANGED, b"a", ("links",)),
            (CHANGED, b"b", ("links",)),
        ]
        assert not compare(one, other, ignore={"links"}).changes


def test_paths_that_are_of_another_kind_are_in_no_group_of_links() -> None:
    linked = side("a", [[file(b"a", b"x"), (Kind.HARDLINK, b"b", b"a", 0o644, b"", 0, 0)]])
    symlink = (Kind.SYMLINK, b"b", b"a", 0o644, b"", 0, 0)
    apart = side("b", [[file(b"a", b"x"), symlink]])
    for changes in (compare(linked, apart).changes, compare(apart, linked).changes):
        assert [(change.path, change.fields) for change in changes] == [(b"b", ("kind",))]


def test_a_root_that_a_layer_does_not_state_is_like_any_other() -> None:
    def root(mode: int) -> Any:
        return (Kind.DIRECTORY, b"", b"", mode, b"", 0, 5)

    unstated = side("a", [[file(b"a", b"x"), file(b"d/in", b"")]])
    stated = side("b", [[root(0o700), file(b"a", b"x"), file(b"d/in", b"")]])
    other = side("c", [[root(0o711), file(b"a", b"x"), file(b"d/in", b"")]])
    assert not compare(unstated, stated).changes
    assert not compare(stated, unstated).changes
    assert [(change.path, change.fields) for change in compare(stated, other).changes] == [(b"", ("mode",))]
    directory = (Kind.DIRECTORY, b"d", b"", 0o700, b"", 0, 0)
    (change,) = compare(unstated, side("d", [[file(b"a", b"x"), directory, file(b"d/in", b"")]])).changes
    # for other directories the layer that states them does not matter
    assert (change.path, change.fields) == (b"d", ("mode",))


def test_hardlinks_are_compared_as_groups_of_paths_that_both_have() -> None:
    def linked(path: bytes, target: bytes) -> Any:
        return (Kind.HARDLINK, path, target, 0o644, b"", 0, 0)

    apart = [file(b"a", b"x"), file(b"b", b"x"), file(b"c", b"x")]
    one = side("a", [[file(b"a", b"x"), linked(b"b", b"a"), file(b"c", b"x")]])
    found = compare(one, side("b", [apart])).changes
    assert [(change.path, change.fields) for change in found] == [(b"a", ("links",)), (b"b", ("links",))]
    more = side("b", [[file(b"a", b"x"), linked(b"b", b"a"), file(b"c", b"x"), linked(b"new", b"a")]])
    assert [(change.how, change.path) for change in compare(one, more).changes] == [(ADDED, b"new")]
    other_kind = side("b", [[file(b"a/in", b"x"), file(b"b", b"x"), file(b"c", b"x")]])
    found = compare(one, other_kind, renames=False).changes
    assert [(change.path, change.fields) for change in found] == [(b"a", ("kind",)), (b"a/in", ())]
