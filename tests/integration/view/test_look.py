"""ls, stat and cat of an image with a stored union: the same answers, and nothing is merged."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

import lamina as library
from generated import attributed, numbered, stacks
from lamina.archive.layout import LayoutReader
from lamina.errors import InvalidLayer, PathNotFound
from lamina.layer.entry import Kind
from lamina.source.stack import Stack
from lamina.spec.platform import Platform
from lamina.store.gc import collect
from lamina.store.store import Store
from lamina.transfer.copy import copy
from lamina.union.merge import merge
from lamina.union.tree import Tree, Union
from lamina.view.erofs.open_stored import DEEPEST, open_union, write_merged
from lamina.view.erofs.read import ErofsImage
from lamina.view.erofs.stored_union import StoredUnion
from lamina.view.erofs.write import DEEP, write_erofs
from lamina.view.parts import image_of, merged_part
from support import lamina, rounds, write_layout

LAYERS: list[list[Any] | bytes] = [
    [("etc/", None), ("etc/conf", b"lower"), ("etc/gone", b"g"), ("link", "-> etc/conf"), ("dev", "c 1 3")],
    [("etc/.wh.gone", b""), ("etc/conf", b"upper"), ("implied/x", b"x" * 70_000), ("hard", "= etc/conf")],
    [("etc/again", "= hard"), ("empty", b""), ("loop", "-> loop"), ("odd\udcff", b"odd")],
]


def stored(where: Path) -> tuple[Store, Stack]:
    write_layout(where / "l", "app", LAYERS)
    store = Store.open(str(where / "s"))
    copy(LayoutReader(str(where / "l")), store, [("app", "app")])
    return store, store.stack("app", Platform.host())


def same(tree: Tree, union: Union) -> None:
    numbers: dict[int, int] = {}
    for node, other in zip(tree.walk(), union.walk(), strict=True):
        entry = tree.entry(node)
        assert union.path(other) == entry.path
        found = union.entry(other)
        if entry.kind == Kind.FILE and not entry.size:
            entry = replace(entry, offset=0)  # an empty file is nowhere
        assert (found, union.kind(other), union.layer(other)) == (entry, entry.kind, tree.layer(node))
        assert (union.links(other), union.is_directory(other)) == (tree.links(node), tree.is_directory(node))
        assert numbers.setdefault(tree.inode(node), union.inode(other)) == union.inode(other)
        if entry.kind == Kind.FILE and entry.size:
            assert union.stored(other) == tree.stored(node)
        for follow in (False, True):
            answers: list[bytes | str] = []
            for one in (tree, union):
                try:
                    answers.append(one.path(one.lookup(entry.path + b"/../" + entry.path, follow=follow)))
                except PathNotFound as error:
                    answers.append(f"{error.message} {error.hint}")
            assert answers[0] == answers[1]


@given(stacks)
@settings(max_examples=rounds(150), deadline=None)
def test_every_question_has_the_same_answer(stack: Any) -> None:
    try:
        tree = merge([attributed(layer) for layer in numbered(stack)])
    except InvalidLayer:
        return
    same(tree, StoredUnion(ErofsImage(write_erofs(tree))))
    listed = StoredUnion(ErofsImage(write_erofs(tree)))  # found by name first, listed then
    for node in reversed(list(tree.walk())):
        listed.lookup(tree.path(node))
    same(tree, listed)


def questions(root: Path) -> list[tuple[int, bytes, bytes]]:
    asked: list[tuple[str, ...]] = [
        ("ls", "-lR", "app"),
        ("ls", "-l", "app", "/etc", "link"),
        ("ls", "-d", "app", "/link", "/"),
        ("ls", "app", "/nothing/there"),
        ("ls", "-R", "--format", "json", "app"),
        ("stat", "app", "/etc/again", "/implied", "/dev", "/", "--format", "json"),
        ("stat", "-L", "app", "/link"),
        ("stat", "app", "/loop/x"),
        ("cat", "app", "link", "implied/x", "empty", "/odd\udcff"),
        ("cat", "app", "/etc"),
    ]
    done = [lamina(*words, root=root) for words in asked]
    return [(one.returncode, one.stdout, one.stderr) for one in done]


def test_the_command_line_answers_the_same(tmp_path: Path) -> None:
    store, stack = stored(tmp_path)
    before = questions(tmp_path / "s")
    write_merged(store, stack, stack.tree())
    for diff_id in stack.diff_ids:  # what a merge would need
        os.rename(store.paths.layer_index(diff_id), store.paths.layer_index(diff_id) + ".away")
    assert questions(tmp_path / "s") == before
    assert not os.path.exists(store.paths.layer_index(stack.diff_ids[0]))
    assert {code for code, _, _ in before} > {0}


def test_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, stack = stored(tmp_path)
    write_merged(store, stack, stack.tree())
    monkeypatch.setattr(Stack, "tree", None)
    image = library.open("app", root=tmp_path / "s")
    assert image.listdir("/etc") == ["again", "conf"]
    assert image.read_bytes("/link") == b"upper"
    assert image.stat("/hard").size == 5
    # a range of its layers is another union, and has no image
    lowest = lamina("ls", "app~1", "/", root=tmp_path / "s").stdout.decode().split()
    assert sorted(image[:1].listdir("/")) == sorted(lowest)
    assert image[:1].listdir("/") != image.listdir("/")


def test_a_union_is_stored_after_a_long_merge_and_removed_with_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stack = stored(tmp_path)
    path = image_of(store, merged_part(stack))
    asked = replace(stack, open_union=partial(open_union, store), _cache={})
    assert isinstance(asked.union(), Tree)
    assert not os.path.exists(path)  # a short one is merged each time
    monkeypatch.setattr("lamina.view.erofs.open_stored.MANY", 5)
    assert isinstance(replace(asked, _cache={}).union(), Tree)
    again = replace(asked, _cache={}).union()
    assert isinstance(again, StoredUnion)
    same(stack.tree(), again)
    assert lamina("fsck", root=tmp_path / "s").returncode == 0
    assert lamina("rmi", "app", root=tmp_path / "s").returncode == 0
    collect(store, grace=0)
    assert os.listdir(store.paths.unions) == []


def test_a_deep_stack_is_merged_each_time(tmp_path: Path) -> None:
    assert DEEPEST == DEEP
    store, stack = stored(tmp_path)
    deep = replace(stack, layers=stack.layers[:2] * 150, open_union=partial(open_union, store), _cache={})
    write_merged(store, deep, deep.tree())
    assert isinstance(replace(deep, _cache={}).union(), Tree)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_stored_union_is_not_used(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, stack = stored(tmp_path)
    write_merged(store, stack, stack.tree())
    path = image_of(store, merged_part(stack))
    data = bytearray(Path(path).read_bytes())
    os.chmod(path, 0o644)
    data[2100] ^= 1
    Path(path).write_bytes({"cut": data[:2048], "changed": bytes(data), "empty": b""}[damage])
    monkeypatch.setattr("lamina.view.erofs.open_stored.MANY", 5)
    asked = replace(stack, open_union=partial(open_union, store), _cache={})
    assert isinstance(asked.union(), Tree)
    assert isinstance(replace(asked, _cache={}).union(), StoredUnion)  # made again


def test_a_union_that_can_not_be_stored_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, stack = stored(tmp_path)
    monkeypatch.setattr("lamina.view.erofs.open_stored.MANY", 5)
    os.rmdir(store.paths.unions)
    Path(store.paths.unions).touch()
    assert isinstance(open_union(store, stack), Tree)
