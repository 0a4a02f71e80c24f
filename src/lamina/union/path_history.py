"""What happened to a path on its way up the stack: every state it had, what ended each, and what hid it.

Read off the records that ``merge`` keeps in the ``Tree``; no rule of the union stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from lamina.errors import PathNotFound
from lamina.layer.entry import Entry, Kind
from lamina.union.tree import UNSTATED, Ending, How, Tree

_WHITEOUT = int(Kind.WHITEOUT)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a state ended: ``how`` is "whiteout", "opaque", "replaced" or "restated" (a directory whose attributes
    a later layer states again); ``layer`` (from 0) did it by an entry at ``path``: the path itself, or a parent."""

    how: str
    layer: int
    path: bytes


@dataclass(frozen=True, slots=True)
class State:
    """One state of a path. ``stated`` is False for a directory that layer ``layer`` (from 0) only implies.
    ``changed`` names what differs from the state below; empty for the first."""

    layer: int
    stated: bool
    entry: Entry
    ended: Ended | None
    changed: tuple[str, ...]
    holder: int
    """The layer (from 0) whose tar holds the content: another one where a hardlink leads down."""


@dataclass(frozen=True, slots=True)
class Trail:
    """``states`` newest first; the first is what the union shows unless ``hidden``. ``idle_whiteouts``: layers
    (from 0) with a whiteout of this path that hid nothing."""

    path: bytes
    hidden: bool
    states: tuple[State, ...]
    idle_whiteouts: tuple[int, ...] = ()


def trail(tree: Tree, path: bytes) -> Trail:
    """The story of one literal path. Raises PathNotFound where no layer ever had it."""
    if not path:
        return _tell(tree, path, [0], _idle(tree, path))
    name = path.rpartition(b"/")[2]
    nodes = [node for node in _ended_nodes(tree) if tree.names[node] == name and tree.path(node) == path]
    alive = tree.find(path)
    if alive is not None:
        nodes.append(alive)
    if not nodes:
        raise _unheard_of(path)
    return _tell(tree, path, sorted(nodes), _idle(tree, path))


def trails_under(tree: Tree, path: bytes) -> Iterator[Trail]:
    """The story of ``path`` and of each path below it that is or ever was, in order of their components.
    Raises PathNotFound where there is none."""
    earlier = _earlier(tree)
    for at, nodes in stories(tree, path):
        yield _tell(tree, at, nodes, (), earlier)


class Summary(NamedTuple):
    """A ``Trail`` in short: ``node`` of the newest state, and how many states there were."""

    path: bytes
    hidden: bool
    node: int
    states: int


def summaries_under(tree: Tree, path: bytes) -> Iterator[Summary]:
    """As ``trails_under``, without a value for each state."""
    earlier, ended = _earlier(tree), tree.endings_of
    for at, nodes in stories(tree, path):
        states = len(nodes)
        for node in nodes:
            if node in earlier:
                states += len(_history(tree, node, earlier)) - 1
        node = nodes[-1]
        yield Summary(at, bool(ended[node]), node, states)


def stories(tree: Tree, path: bytes) -> Iterator[tuple[bytes, list[int]]]:
    """``path`` and each path below it that is or ever was, in order of their components, with the nodes that were
    there, oldest first. Raises PathNotFound where there is none."""
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
            if children and not ended[node]:  # those of one that ended have ended with it
                for name, child in children.items():
                    found.setdefault(name, []).append(child)
        return found

    nodes: list[int] = [0]
    for name in path.split(b"/") if path else ():
        nodes = below(nodes).get(name, [])
    if not nodes:
        raise _unheard_of(path)
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


def _unheard_of(path: bytes) -> PathNotFound:
    text = path.decode("utf-8", "backslashreplace")
    return PathNotFound(f"no layer has or had /{text:.300}", hint="see `lamina ls`")


def shadows(tree: Tree) -> Iterator[tuple[int, Ending]]:
    """Every hidden node with what hid it, in the order in which the layers brought them."""
    for node in _ended_nodes(tree):
        ending = tree.ending(node)
        assert ending is not None
        yield node, ending


def _ended_nodes(tree: Tree) -> list[int]:
    return [node for node, ended in enumerate(tree.endings_of) if ended]


def _idle(tree: Tree, path: bytes) -> tuple[int, ...]:
    parent, _, name = path.rpartition(b"/")
    busy = {(ending.layer, ending.row) for ending in tree.endings if ending.how == How.WHITEOUT}
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
    """(layer, row) of the states that directories had before, by node."""
    found: dict[int, list[tuple[int, int]]] = {}
    for node, layer, row in tree.restatements:
        found.setdefault(node, []).append((layer, row))
    return found


def _history(tree: Tree, node: int, earlier: Mapping[int, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """(layer, row) of every state of a node, oldest first."""
    history = [*earlier.get(node, ()), (tree.origin_layers[node], tree.rows[node])]
    if node == 0 and len(history) > 1:
        del history[0]  # the root before any layer spoke of it
    return history


def _tell(
    tree: Tree,
    path: bytes,
    nodes: list[int],
    idle: tuple[int, ...],
    earlier: Mapping[int, list[tuple[int, int]]] | None = None,
) -> Trail:
    """``nodes`` oldest first."""
    earlier = _earlier(tree) if earlier is None else earlier
    states: list[State] = []
    below: Entry | None = None
    for node in nodes:
        history = _history(tree, node, earlier)
        for number, (layer, row) in enumerate(history):
            entry = _state(tree, node, layer, row, path)
            if number + 1 < len(history):
                ended: Ended | None = Ended("restated", history[number + 1][0], path)
            else:
                ending = tree.ending(node)
                ended = ending and Ended(ending.how.name.lower(), ending.layer, tree.path(ending.node))
            holder = tree.content(node)[0] if node in tree.hardlinks else layer
            states.append(State(layer, row != UNSTATED, entry, ended, _changed(below, entry), holder))
            below = entry
    states.reverse()
    return Trail(path, states[0].ended is not None, tuple(states), idle)


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
