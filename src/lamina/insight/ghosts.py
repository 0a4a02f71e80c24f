"""Ghosts: files that are in the layers although the union hides them, and how to recover them.

It reads the endings that the merge recorded; it applies no rules of whiteouts.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Kind
from lamina.layer.file_content import Content
from lamina.source.stack import Stack
from lamina.union.path_history import State, path_history
from lamina.union.tree import Ending, Tree


@dataclass(frozen=True, slots=True)
class Ghost:
    """Something hidden, with everything below it that was hidden at the same time: ``paths`` is their number,
    ``size`` the bytes of content that no visible path has. ``layers`` (from 1, ascending) added them, ``hidden_by``
    hid them; ``how`` as in ``blame``."""

    path: bytes
    kind: Kind
    paths: int
    size: int
    layers: tuple[int, ...]
    hidden_by: int
    how: str
    node: int
    """Its number in the tree."""


def ghosts(stack: Stack, *, each: bool = False) -> list[Ghost]:
    """List what is hidden, the largest first. ``each``: every path by itself, instead of only the topmost ones."""
    tree = stack.tree()
    sizes = hidden_sizes(tree)
    groups: dict[int, list[int]] = {}
    for node, number in enumerate(tree.endings_of):
        if number:
            groups.setdefault(number - 1, []).append(node)
    found = []
    for number, nodes in groups.items():
        ending = tree.endings[number]
        for top, members in [(node, [node]) for node in nodes] if each else [(ending.node, nodes)]:
            found.append(_ghost(stack, tree, ending, top, members, sizes))
    found.sort(key=lambda ghost: (-ghost.size, ghost.path))
    return found


def _ghost(stack: Stack, tree: Tree, ending: Ending, top: int, members: list[int], sizes: dict[int, int]) -> Ghost:
    return Ghost(
        tree.path(top),
        tree.kind(top),
        len(members),
        sum(sizes.get(node, 0) for node in members),
        tuple(sorted({stack.first + tree.origin_layers[node] for node in members})),
        stack.first + ending.layer,
        ending.how.name.lower(),
        top,
    )


def hidden_sizes(tree: Tree) -> dict[int, int]:
    """Return the bytes of each hidden regular file without a visible hard link; each file once."""
    linked = {inode for link, inode in tree.hardlinks.items() if tree.is_alive(link)}
    found = {}
    for node, ended in enumerate(tree.endings_of):
        if ended and node not in tree.hardlinks and node not in linked and tree.kind(node) == Kind.FILE:
            layer, row = tree.content(node)
            found[node] = int(tree.layers[layer].size[row])
    return found


def recover(stack: Stack, path: bytes, *, layer: int | None = None, hidden_first: bool = True) -> Content:
    """Return content that ``path`` had: in ``layer`` (from 1), else the newest hidden one, else the visible one; with
    ``hidden_first`` False, visible before hidden.

    Raises PathNotFound, UsageError (a layer out of range, not a regular file).
    """
    top = stack.first + len(stack.layers) - 1
    if layer is not None and not stack.first <= layer <= top:
        raise UsageError(
            f"{stack.name} has layers {stack.first} to {top}, not {layer}", hint="list them with `lamina layers`"
        )
    states = path_history(stack.tree(), path).states
    text = path.decode("utf-8", "backslashreplace")
    if layer is not None:
        having = sorted({stack.first + state.layer for state in states})
        states = tuple(state for state in states if stack.first + state.layer == layer)
        if not states:
            raise PathNotFound(
                f"layer {layer} has no /{text:.300}", hint=f"use layer {' or '.join(map(str, having))}"
            )
    files = [state for state in states if state.entry.kind == Kind.FILE]
    if not files:
        kind = states[0].entry.kind.name.lower()
        raise UsageError(
            f"/{text:.300} was a {kind}, not a regular file", hint="show its history with `lamina blame`"
        )
    files.sort(key=lambda state: _is_hidden(state) != hidden_first)
    entry, holder = files[0].entry, stack.layers[files[0].holder]
    return Content(entry.size, entry.offset, entry.sparse, holder.open)


def _is_hidden(state: State) -> bool:
    return state.ended is not None
