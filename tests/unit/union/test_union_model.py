"""The merge against a naive model: layers applied one after the other to a dict of paths, everything copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings

from generated import build, numbered, stacks
from lamina.errors import InvalidLayer
from lamina.layer.entry import Kind
from lamina.union.merge import merge
from lamina.union.path_history import histories_under, path_history, summaries_under
from support import rounds

Op = tuple[Kind, bytes, bytes]  # kind, path, hardlink or symlink target


@dataclass
class Node:
    kind: Kind
    mode: int
    size: int  # says which entry of which layer the content is
    target: bytes = b""  # a symlink's
    ident: object = field(default_factory=object)  # shared by hardlinks


class Impossible(Exception):
    """The model meets a hardlink that can't be made."""


def apply(below: dict[bytes, Node], layer: list[tuple[Kind, bytes, bytes, int, int]]) -> dict[bytes, Node]:
    tree = dict(below)

    def remove(path: bytes, *, itself: bool = True) -> None:
        for other in list(tree):
            if (itself and other == path) or other.startswith(path + b"/") or (not path and not itself):
                del tree[other]

    def parents(path: bytes) -> None:
        parts = path.split(b"/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = b"/".join(parts[:depth])
            if parent in tree and tree[parent].kind != Kind.DIRECTORY:
                remove(parent)
            tree.setdefault(parent, Node(Kind.DIRECTORY, 0o755, 0))

    for kind, path, _, _, _ in layer:
        if kind == Kind.WHITEOUT:
            if all(tree.get(p, Node(Kind.FILE, 0, 0)).kind == Kind.DIRECTORY for p in ancestors(path)):
                remove(path)
        elif kind == Kind.OPAQUE and (not path or (path in tree and tree[path].kind == Kind.DIRECTORY)):
            remove(path, itself=False)
    for kind, path, target, mode, size in layer:
        if kind in (Kind.WHITEOUT, Kind.OPAQUE):
            continue
        parents(path)
        if kind == Kind.HARDLINK:
            named = meant(tree, target)
            node = None if named is None else tree.get(named)
            if node is None or node.kind == Kind.DIRECTORY:
                raise Impossible
            if path in tree and tree[path].ident is node.ident:
                continue
            remove(path)
            tree[path] = node
        elif kind == Kind.DIRECTORY and path in tree and tree[path].kind == Kind.DIRECTORY:
            tree[path] = Node(kind, mode, 0)
        else:
            remove(path)
            tree[path] = Node(kind, mode, size, target)
    return tree


def meant(tree: dict[bytes, Node], target: bytes) -> bytes | None:
    """The path that a hardlink's target names, symlinks on its way followed."""
    pending, done, links = target.split(b"/"), list[bytes](), 0
    while pending:
        name = pending.pop(0)
        if name == b"..":
            done = done[:-1]
        if name in (b"", b".", b".."):
            continue
        node = tree.get(b"/".join([*done, name]))
        if node is None:
            return None
        if node.kind == Kind.SYMLINK and pending:
            links += 1
            if links > 40:
                return None
            pending = node.target.split(b"/") + pending
            done = [] if node.target.startswith(b"/") else done
        else:
            done.append(name)
    return b"/".join(done)


def ancestors(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(1, len(parts))]


@settings(max_examples=rounds(600), deadline=None)
@given(stacks)
def test_merge_equals_the_model(stack: Any) -> None:
    layers = numbered(stack)
    model: dict[bytes, Node] | None = {}
    try:
        for layer in layers:
            model = apply(model or {}, layer)
    except Impossible:
        model = None
    try:
        tree = merge([build(layer) for layer in layers])
    except InvalidLayer:
        assert model is None
        return
    assert model is not None
    found = {tree.path(node): node for node in tree.walk() if node}
    assert sorted(found) == sorted(model)
    assert len(tree) == len(model)
    groups: dict[object, set[int]] = {}
    for path, node in found.items():
        entry, expected = tree.entry(node), model[path]
        assert (entry.path, entry.kind, entry.mode) == (path, expected.kind, expected.mode)
        if entry.kind == Kind.FILE:
            assert entry.size == expected.size
        if entry.kind != Kind.DIRECTORY:
            groups.setdefault(expected.ident, set()).add(tree.inode(node))
            assert tree.links(node) == sum(other.ident is expected.ident for other in model.values())
    assert all(len(inodes) == 1 for inodes in groups.values())


@settings(max_examples=rounds(300), deadline=None)
@given(stacks)
def test_histories_equal_a_replay_layer_by_layer(stack: Any) -> None:
    """After each layer, a path is visible in the prefix's own union exactly if its history says so."""
    indexes = [build(layer) for layer in numbered(stack)]
    try:
        tree = merge(indexes)
    except InvalidLayer:
        return
    prefixes = [merge(indexes[: n + 1]) for n in range(len(indexes))]
    every = {tree.path(node) for node in range(1, len(tree.names))}
    told = list(histories_under(tree, b""))
    assert [t.path for t in told] == sorted(every | {b""}, key=lambda path: path.split(b"/"))
    for one, short in zip(told, summaries_under(tree, b""), strict=True):
        assert one.states == path_history(tree, one.path).states
        assert (short.path, short.hidden, short.states) == (one.path, one.hidden, len(one.states))
        assert tree.path(short.node) == one.path
    for top in every:
        below = [t.path for t in histories_under(tree, top)]
        assert below == [t.path for t in told if t.path == top or t.path.startswith(top + b"/")]
    for path in every:
        story = path_history(tree, path)
        assert story.hidden == (tree.find(path) is None)
        for number, prefix in enumerate(prefixes):
            visible = [
                state
                for state in story.states
                if state.layer <= number and (state.ended is None or state.ended.layer > number)
            ]
            node = prefix.find(path)
            assert len(visible) == (node is not None)
            if node is not None:
                assert visible[0].entry.kind == prefix.kind(node)
                assert visible[0].entry.size == prefix.entry(node).size
