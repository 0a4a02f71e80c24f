"""Blame: the history of a path, with the layers' digests and the build steps that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lamina.layer.entry import Entry, Kind
from lamina.source.stack import Stack
from lamina.union.path_history import (
    PathHistory,
    State,
    has_history,
    histories_under,
    path_history,
    summaries_under,
)
from lamina.union.tree import Tree


@dataclass(frozen=True, slots=True)
class Ended:
    """How a state ended. ``layer`` counts from 1; ``path`` is the path itself or a parent."""

    how: str
    layer: int
    path: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A state of the path in ``layer`` (from 1). ``changed`` lists what differs from the state before, with "content"
    if two files of the same size have different bytes."""

    layer: int
    stated: bool
    digest: str
    step: str | None
    entry: Entry
    changed: tuple[str, ...]
    ended: Ended | None


@dataclass(frozen=True, slots=True)
class Blame:
    """The history of a path. ``states`` are newest first; the first is what the union shows, unless ``hidden``.
    ``whiteouts`` are (layer from 1, path) of whiteouts of this path that hide nothing."""

    path: bytes
    hidden: bool
    states: tuple[Stage, ...]
    whiteouts: tuple[tuple[int, bytes], ...]


def blame(stack: Stack, path: bytes) -> Blame:
    """Return the history of ``path``. If no layer has or had that very path, it is the history of what the path names
    in the union, with symlinks on the way followed. Raises PathNotFound."""
    tree = stack.partial([path])
    literal = _literal(stack, tree, path)
    if literal != path:
        tree = stack.partial([literal])
    return _told(stack, path_history(tree, literal), _names(stack))


def blame_under(stack: Stack, path: bytes) -> Iterator[Blame]:
    """Yield the history of ``path`` (found as ``blame`` finds it) and of everything below it that exists or existed.
    Raises PathNotFound."""
    names, tree = _names(stack), stack.tree()
    for item in histories_under(tree, _literal(stack, tree, path)):
        yield _told(stack, item, names)


class Line(NamedTuple):
    """A ``Blame`` in short: its newest state, and the number of older states that it hides."""

    path: bytes
    hidden: bool
    kind: Kind
    layer: int
    digest: str
    step: str | None
    shadows: int


def lines_under(stack: Stack, path: bytes) -> Iterator[Line]:
    """Yield short histories, without creating each state: for many paths. Raises PathNotFound."""
    tree, names = stack.tree(), _names(stack)
    layers = tree.origin_layers
    for at, hidden, node, states in summaries_under(tree, _literal(stack, tree, path)):
        number = layers[node]
        yield Line(at, hidden, tree.kind(node), stack.first + number, *names[number], states - (not hidden))


def line_of(item: Blame) -> Line:
    newest = item.states[0]
    shadows = len(item.states) - (not item.hidden)
    return Line(item.path, item.hidden, newest.entry.kind, newest.layer, newest.digest, newest.step, shadows)


def _literal(stack: Stack, tree: Tree, path: bytes) -> bytes:
    """Return ``path`` if a layer has or had it, else the path of what it names in the union, if there is any."""
    if has_history(tree, path):
        return path
    found = stack.leads_to(path)
    return path if found is None else found


def _told(stack: Stack, item: PathHistory, names: _Names) -> Blame:
    stages = tuple(
        _stage(stack, item.path, state, item.states[number + 1] if number + 1 < len(item.states) else None, names)
        for number, state in enumerate(item.states)
    )
    idle = tuple((stack.first + layer, item.path) for layer in item.idle_whiteouts)
    return Blame(item.path, item.hidden, stages, idle)


def _stage(stack: Stack, path: bytes, state: State, below: State | None, names: _Names) -> Stage:
    ended = None
    if state.ended is not None:
        layer = stack.first + state.ended.layer
        text = _ended_text(state.ended.how, layer, state.ended.path, path)
        ended = Ended(state.ended.how, layer, state.ended.path, text)
    changed = state.changed
    if below is not None and _same_length(state.entry, below.entry):
        content = "content" if _differ(stack, state, below) else None
        changed = (content, *changed) if content else changed or ("nothing",)
    return Stage(
        stack.first + state.layer,
        state.stated,
        *names[state.layer],
        state.entry,
        changed,
        ended,
    )


_Names = list[tuple[str, str | None]]


def _names(stack: Stack) -> _Names:
    """Return digest and build step of each layer; for an image without layers, of its root directory."""
    found = [(str(handle.descriptor.digest), _step(stack, number)) for number, handle in enumerate(stack.layers)]
    return found or [("", None)]


def _step(stack: Stack, layer: int) -> str | None:
    step = stack.steps[layer] if layer < len(stack.steps) else None
    return (step.created_by or step.comment or None) if step else None


def _ended_text(how: str, layer: int, by: bytes, path: bytes) -> str:
    where = "it" if by == path else "/" + by.decode("utf-8", "backslashreplace")
    if how == "whiteout":
        return f"hidden by layer {layer}: a whiteout of {where}"
    if how == "opaque":
        return f"hidden by layer {layer}: the opaque mark of the directory above {where}"
    if how == "restated":
        return f"layer {layer} states the directory again"
    return f"replaced by layer {layer}" + ("" if by == path else f", which replaces {where}")


def _same_length(entry: Entry, below: Entry) -> bool:
    return entry.kind == below.kind == Kind.FILE and entry.size == below.size


def _differ(stack: Stack, state: State, below: State) -> bool:
    """Whether two files of the same size have different bytes: read in parallel, up to the first difference."""
    from lamina.layer.file_content import Content

    def opened(of: State) -> Content:
        return Content(of.entry.size, of.entry.offset, of.entry.sparse, stack.layers[of.holder].open)

    with opened(state) as one, opened(below) as other:
        while True:
            piece = one.read(1 << 20)
            if piece != other.read(len(piece) if piece else 1):
                return True
            if not piece:
                return False
