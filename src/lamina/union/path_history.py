"""The history of a path through the stack: every state it had, what ended each state, and what hid it.

It is read from the records that ``merge`` keeps in the ``Tree``; no rule of the union is applied here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from lamina.errors import PathNotFound
from lamina.layer.entry import Entry, Kind
from lamina.union.tree import UNSTATED, Ending, HiddenBy, Tree

_WHITEOUT = int(Kind.WHITEOUT)


@dataclass(frozen=True, slots=True)
class StateEnd:
    """How a state ended. ``how`` is "whiteout", "opaque", "replaced", or "restated" (a later layer states the
    attributes of a directory again). The cause is an entry of ``layer`` (from 0) at ``path``: the path itself or a
    parent."""

    how: str
    layer: int
    path: bytes


@dataclass(frozen=True, slots=True)
class State:
    """One state of a path. ``stated`` is False for a directory that ``layer`` (from 0) only implies. ``changed``
    lists what differs from the state before; it is empty for the first."""

    layer: int
    stated: bool
    entry: Entry
    ended: StateEnd | None
    changed: tuple[str, ...]
    holder: int
    """The layer (from 0) whose tar has the content: a lower one if the path is a hard link to a file below."""


@dataclass(frozen=True, slots=True)
class PathHistory:
    """The history of one path. ``states`` are newest first; the first is what the union shows, unless ``hidden``.
    ``idle_whiteouts`` are layers (from 0) with a whiteout of this path that hid nothing."""

    path: bytes
    hidden: bool
    states: tuple[State, ...]
    idle_whiteouts: tuple[int, ...] = ()


def path_history(tree: Tree, path: bytes) -> PathHistory:
    """Return the history of one literal path. Raises PathNotFound if no layer ever had it."""
    nodes = _nodes_at(tree, path)
    if not nodes:
        raise _not_found(path)
    return _history_of(tree, path, nodes, _idle(tree, path))


def has_history(tree: Tree, path: bytes) -> bool:
    """Whether a layer has or had this literal path."""
    return tree.find(path) is not None or bool(_nodes_at(tree, path))


def _nodes_at(tree: Tree, path: bytes) -> list[int]:
    """Return the nodes of a literal path, oldest first; none if no layer ever had it."""
    if not path:
        return [0]
    name = path.rpartition(b"/")[2]
    nodes = [node for node in _ended_nodes(tree) if tree.names[node] == name and tree.path(node) == path]
    alive = tree.find(path)
    if alive is not None:
        nodes.append(alive)
    return sorted(nodes)


def histories_under(tree: Tree, path: bytes) -> Iterator[PathHistory]:
    """Yield the history of ``path`` and of every path below it that exists or existed, sorted by component. Raises
    PathNotFound if there is none."""
    earlier = _earlier(tree)
    for at, nodes in nodes_by_path(tree, path):
        yield _history_of(tree, at, nodes, (), earlier)


class Summary(NamedTuple):
    """A path's history in short: the ``node`` of the newest state, and the number of states."""

    path: bytes
    hidden: bool
    node: int
    states: int


def summaries_under(tree: Tree, path: bytes) -> Iterator[Summary]:
    """Yield what ``histories_under`` does, in short and without creating each state."""
    earlier, ended = _earlier(tree), tree.endings_of
    for at, nodes in nodes_by_path(tree, path):
        states = len(nodes)
        for node in nodes:
            if node in earlier:
                states += len(_history(tree, node, earlier)) - 1
        node = nodes[-1]
        yield Summary(at, bool(ended[node]), node, states)


def nodes_by_path(tree: Tree, path: bytes) -> Iterator[tuple[bytes, list[int]]]:
    """Yield ``path`` and every path below it that exists or existed, sorted by component, with their nodes, oldest
    first. Raises PathNotFound if there is none."""
    gone: dict[int, list[int]] = {}
    for node in _ended_nodes(tree):
        gone.setdefault(tree.parents[node], []).append(node)
    names, kids, ended = tree.names, tree.kids, tree.endings_of

    def below(nodes: list[int]) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for node in nodes:
            for child in gone.get(node, ()):
                found.setdefault(names[child], []).append(child)
            children = kids[node]
            if children and not ended[node]:  # the children of an ended node are in ``gone``
                for name, child in children.items():
                    found.setdefault(name, []).append(child)
        return found

    nodes: list[int] = [0]
    for name in path.split(b"/") if path else ():
        nodes = below(nodes).get(name, [])
    if not nodes:
        raise _not_found(path)
    pending = [(path, nodes)]
    while pending:
        at, nodes = pending.pop()
        if len(nodes) > 1:
            nodes.sort()  # numbers grow as the layers are applied
        yield at, nodes
        if len(nodes) == 1 and not kids[nodes[0]] and nodes[0] not in gone:
            continue
        inside = at + b"/" if at else b""
        children = below(nodes)
        pending += [(inside + name, children[name]) for name in sorted(children, reverse=True)]


def _not_found(path: bytes) -> PathNotFound:
    text = path.decode("utf-8", "backslashreplace")
    return PathNotFound(f"/{text:.300} was not found in any layer", hint="list the files with `lamina ls`")


def shadows(tree: Tree) -> Iterator[tuple[int, Ending]]:
    """Yield every hidden node with what hid it, in the order in which the layers added them."""
    for node in _ended_nodes(tree):
        ending = tree.ending(node)
        assert ending is not None
        yield node, ending


def _ended_nodes(tree: Tree) -> list[int]:
    return [node for node, ended in enumerate(tree.endings_of) if ended]


def _idle(tree: Tree, path: bytes) -> tuple[int, ...]:
    parent, _, name = path.rpartition(b"/")
    busy = {(ending.layer, ending.row) for ending in tree.endings if ending.how == HiddenBy.WHITEOUT}
    found = []
    for number, index in enumerate(tree.layers):
        for row in index.rows_of(_WHITEOUT):
            if (
                (number, row) not in busy
                and index.basename(row) == name
                and index.directory_path(index.directory[row]) == parent
            ):
                found.append(number)
    return tuple(dict.fromkeys(found))


def _earlier(tree: Tree) -> dict[int, list[tuple[int, int]]]:
    """Return the earlier states of directories, (layer, row), by node."""
    found: dict[int, list[tuple[int, int]]] = {}
    for node, layer, row in tree.restatements:
        found.setdefault(node, []).append((layer, row))
    return found


def _history(tree: Tree, node: int, earlier: Mapping[int, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return (layer, row) of every state of a node, oldest first."""
    history = [*earlier.get(node, ()), (tree.origin_layers[node], tree.rows[node])]
    if node == 0 and len(history) > 1:
        del history[0]  # the root before any layer stated it
    return history


def _history_of(
    tree: Tree,
    path: bytes,
    nodes: list[int],
    idle: tuple[int, ...],
    earlier: Mapping[int, list[tuple[int, int]]] | None = None,
) -> PathHistory:
    """Make the history of a path from its nodes, oldest first."""
    earlier = _earlier(tree) if earlier is None else earlier
    states: list[State] = []
    below: Entry | None = None
    for node in nodes:
        history = _history(tree, node, earlier)
        for number, (layer, row) in enumerate(history):
            entry = _state(tree, node, layer, row, path)
            if number + 1 < len(history):
                ended: StateEnd | None = StateEnd("restated", history[number + 1][0], path)
            else:
                ending = tree.ending(node)
                ended = ending and StateEnd(ending.how.name.lower(), ending.layer, tree.path(ending.node))
            holder = tree.content(node)[0] if node in tree.hardlinks else layer
            states.append(State(layer, row != UNSTATED, entry, ended, _changed(below, entry), holder))
            below = entry
    states.reverse()
    return PathHistory(path, states[0].ended is not None, tuple(states), idle)


def _state(tree: Tree, node: int, layer: int, row: int, path: bytes) -> Entry:
    inode = tree.inode(node)
    if inode == node:
        return tree.state(node, layer, row, path)
    return replace(tree.entry(inode), path=path)


def _changed(below: Entry | None, entry: Entry) -> tuple[str, ...]:
    if below is None:
        return ()
    changes = []
    if below.kind != entry.kind:
        changes.append(f"kind ({below.kind.name.lower()} to {entry.kind.name.lower()})")
    elif below.kind == Kind.FILE and below.size != entry.size:
        changes.append(f"size ({below.size} to {entry.size})")
    if below.link != entry.link and entry.kind == below.kind == Kind.SYMLINK:
        changes.append("target")
    if below.mode != entry.mode:
        changes.append(f"mode ({below.mode:04o} to {entry.mode:04o})")
    if (below.uid, below.gid) != (entry.uid, entry.gid):
        changes.append(f"owner ({below.uid}:{below.gid} to {entry.uid}:{entry.gid})")
    if below.rdev != entry.rdev:
        changes.append("device")
    if below.xattrs != entry.xattrs:
        changes.append("xattrs")
    if below.mtime != entry.mtime:
        changes.append("time")
    return tuple(changes)
