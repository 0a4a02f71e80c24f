"""Squashed layers and erased paths, compared with the union of the original layers.

That the union itself is right is proved against a naive model (``test_merge_equals_the_model``).
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from generated import numbered, paths, stacks
from lamina.errors import InvalidLayer
from lamina.layer.build_layer import index_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.layer.tar_write import write_layer
from lamina.union.merge import merge
from lamina.union.squashed import squashed
from lamina.union.tree import UNSTATED, Tree
from support import rounds


def original(stack: Any) -> list[LayerIndex]:
    """A stack in which every entry has an owner, a time and an xattr of its own; some files are sparse."""
    layers = []
    for layer in numbered(stack):
        entries = []
        for kind, path, target, mode, number in layer:
            entry = Entry(path, kind, mode, number, number + 1, mtime=number * 10**9 + 5, link=target)
            if kind == Kind.FILE:
                sparse = ((3, 4), (9, number % 50 + 1)) if number % 3 == 0 else None
                entry = replace(entry, size=100 + number, offset=number * 1000, sparse=sparse)
            if kind not in (Kind.WHITEOUT, Kind.OPAQUE, Kind.HARDLINK):
                entry = replace(entry, xattrs={b"user.n": b"%d" % number})
            entries.append(entry)
        layers.append(index_of(entries))
    return layers


def shown(tree: Tree) -> dict[bytes, Entry]:
    """Every path with all that the union says of it."""
    entries = [tree.entry(node) for node in tree.walk()]
    return {entry.path: entry for entry in entries}


def groups(tree: Tree) -> set[frozenset[bytes]]:
    """Names that are one file."""
    found: dict[int, set[bytes]] = {}
    for node in tree.walk():
        if not tree.is_directory(node):
            found.setdefault(tree.inode(node), set()).add(tree.path(node))
    return {frozenset(names) for names in found.values()}


def implied_paths(*trees: Tree) -> set[bytes]:
    return {tree.path(node) for tree in trees for node in tree.walk() if tree.rows[node] == UNSTATED}


def same(one: Tree, other: Tree, *, times: bool) -> None:
    mine, theirs = shown(one), shown(other)
    if not times:  # a directory that no layer states has the time of its parent, until it has to be stated
        for path in implied_paths(one, other):
            for found in (mine, theirs):
                if path in found:
                    found[path] = replace(found[path], mtime=0)
    assert mine == theirs
    assert groups(one) == groups(other)


def closed(entries: list[Entry]) -> bool:
    """Each path is stated once, and each hard link after its target in the same layer."""
    made: set[bytes] = set()
    for entry in entries:
        if entry.kind in (Kind.WHITEOUT, Kind.OPAQUE):
            continue
        if entry.path in made or (entry.kind == Kind.HARDLINK and entry.link not in made):
            return False
        made.add(entry.path)
    return True


def written(entries: list[Entry], *, ordered: bool) -> bytes:
    """The archive; with ``ordered`` the entries are taken as they come."""
    out = io.BytesIO()
    contents = [bytes(entry.size) if entry.kind == Kind.FILE else None for entry in entries]
    write_layer(zip(entries, contents, strict=True), out.write, ordered=ordered)
    return out.getvalue()


@settings(max_examples=rounds(400), deadline=None)
@given(stacks, st.data())
def test_squashing_any_range_does_not_change_the_union(stack: Any, data: Any) -> None:
    layers = original(stack)
    try:
        before = merge(layers)
    except InvalidLayer:
        return
    low = data.draw(st.integers(0, len(layers) - 1))
    high = data.draw(st.integers(low + 1, len(layers)))
    top = high == len(layers)
    entries = [one.entry for one in squashed(layers[:high], low, implied=top)]
    assert closed(entries)
    if low == 0:
        assert written(entries, ordered=True) == written(entries, ordered=False)
    after = merge([*layers[:low], index_of(entries), *layers[high:]])
    same(before, after, times=top)


@settings(max_examples=rounds(150), deadline=None)
@given(stacks)
def test_a_flattened_image_has_only_the_entries_of_the_union(stack: Any) -> None:
    layers = original(stack)
    try:
        tree = merge(layers)
    except InvalidLayer:
        return
    stated = list(squashed(layers, 0, implied=True))
    root = tree.origin(0) is not None
    assert {one.entry.path for one in stated} == {tree.path(node) for node in tree.walk() if node or root}
    assert all(one.entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE) for one in stated)
    for one in stated:
        if one.entry.kind == Kind.FILE:
            node = tree.find(one.entry.path)
            assert node is not None
            assert one.content == tree.content(node)
        else:
            assert one.content is None


@settings(max_examples=rounds(400), deadline=None)
@given(stacks, paths)
def test_erased_paths_are_in_no_layer_and_other_paths_are_unchanged(stack: Any, gone: bytes) -> None:
    layers = original(stack)
    try:
        before = merge(layers)
    except InvalidLayer:
        return

    def is_gone(path: bytes) -> bool:
        return path == gone or path.startswith(gone + b"/")

    stated = [[one.entry for one in squashed(layers[: n + 1], n, left_out=is_gone)] for n in range(len(layers))]
    for entries in stated:
        assert closed(entries)
        assert not any(is_gone(entry.path) or is_gone(entry.link) for entry in entries if entry.kind != Kind.SYMLINK)
    after = merge([index_of(entries) for entries in stated])
    wanted, found = shown(before), shown(after)
    for path in implied_paths(before, after):
        for one in (wanted, found):
            if path in one:
                one[path] = replace(one[path], mtime=0)
    assert found == {path: entry for path, entry in wanted.items() if not is_gone(path)}
    left = {frozenset(name for name in names if not is_gone(name)) for names in groups(before)}
    assert groups(after) == left - {frozenset()}


def test_a_new_directory_in_the_place_of_an_old_one_is_opaque_and_stated() -> None:
    layers = [
        index_of([Entry(b"d", Kind.DIRECTORY, 0o700), Entry(b"d/old", Kind.FILE)]),
        index_of([Entry(b"d", Kind.WHITEOUT)]),
        index_of([Entry(b"d/new", Kind.FILE)]),
    ]
    found = [(one.entry.kind, one.entry.path, one.entry.mode) for one in squashed(layers, 1)]
    assert found == [
        (Kind.OPAQUE, b"d", 0o644),
        (Kind.DIRECTORY, b"d", 0o755),
        (Kind.FILE, b"d/new", 0o644),
    ]


def test_marks_are_left_out_only_where_their_path_is() -> None:
    layers = [
        index_of([Entry(path, Kind.FILE) for path in (b"d/a", b"e/b", b"f", b"g")]),
        index_of([Entry(b"d", Kind.OPAQUE), Entry(b"e", Kind.OPAQUE), Entry(b"f", Kind.WHITEOUT)]),
        index_of([Entry(b"g", Kind.WHITEOUT)]),
    ]
    found = [one.entry for one in squashed(layers, 1, left_out=lambda path: path in (b"d", b"g"))]
    assert [(entry.kind, entry.path) for entry in found] == [(Kind.OPAQUE, b"e"), (Kind.WHITEOUT, b"f")]


def test_a_path_added_and_removed_inside_the_range_leaves_no_entry() -> None:
    layers = [
        index_of([Entry(b"base", Kind.FILE)]),
        index_of([Entry(b"tmp", Kind.FILE)]),
        index_of([Entry(b"tmp", Kind.WHITEOUT)]),
    ]
    assert list(squashed(layers, 1)) == []


def test_a_hardlink_to_a_file_below_takes_the_data_and_the_other_name_along() -> None:
    layers = [
        index_of([Entry(b"a", Kind.FILE, size=5, offset=512)]),
        index_of([Entry(b"b", Kind.HARDLINK, link=b"a")]),
    ]
    found = [(one.entry.kind, one.entry.path, one.entry.link, one.content) for one in squashed(layers, 1)]
    assert found == [(Kind.FILE, b"a", b"", (0, 0)), (Kind.HARDLINK, b"b", b"a", None)]
    alone = [(one.entry.kind, one.entry.path, one.content) for one in squashed(layers, 1, relink=1)]
    assert alone == [(Kind.FILE, b"b", (0, 0))]


def test_a_link_to_a_device_states_no_device_of_its_own() -> None:
    """Nor content, xattrs or a size: all that is its file's."""
    layers = [
        index_of(
            [
                Entry(b"a", Kind.CHAR, rdev=(5, 6), xattrs={b"user.k": b"v"}),
                Entry(b"b", Kind.HARDLINK, link=b"a"),
                Entry(b"f", Kind.FILE, size=3, offset=512, xattrs={b"user.k": b"v"}, sparse=((0, 3),)),
                Entry(b"g", Kind.HARDLINK, link=b"f"),
            ]
        )
    ]
    found = {one.entry.path: one.entry for one in squashed(layers, 0)}
    assert found[b"a"].rdev == (5, 6)
    for path, link in ((b"b", b"a"), (b"g", b"f")):
        entry = found[path]
        assert (entry.kind, entry.link, entry.rdev, entry.xattrs) == (Kind.HARDLINK, link, (0, 0), {})
        assert (entry.size, entry.offset, entry.sparse) == (0, 0, None)


def test_a_directory_that_no_layer_states_is_stated_only_if_asked_for() -> None:
    layers = [index_of([Entry(b"a", Kind.FILE)]), index_of([Entry(b"d/f", Kind.FILE)])]
    assert [one.entry.path for one in squashed(layers, 1)] == [b"d/f"]
    assert [one.entry.path for one in squashed(layers, 1, implied=True)] == [b"d", b"d/f"]


def test_a_range_without_layers_states_nothing() -> None:
    layers = [index_of([Entry(b"a", Kind.FILE), Entry(b"f", Kind.FILE)]), index_of([Entry(b"a", Kind.WHITEOUT)])]
    assert list(squashed(layers, 2)) == []
    assert list(squashed([], 0)) == []
