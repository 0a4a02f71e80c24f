"""Parts: the lower directories of which an overlay makes a union, one for each layer or one for all (derived data).

A part is a tree and the layers whose tars have its files. Usually each layer is a part, so that images with common
layers share their page cache. All layers are merged into one part if a layer can't be expressed alone (a hard link to
a file of a lower layer), and for deep stacks, in which an overlay makes lookups slow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set

from lamina.errors import Unsupported
from lamina.host.files import replace_file
from lamina.light import TYPE_CHECKING, Value
from lamina.source.stack import Stack
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.union.stacked import Stacked
    from lamina.union.tree import Tree

VERSION = 4
"""Version of the data that is derived here and in ``erofs``; it is part of every key."""
DEEPEST = 100
"""A stack of more layers becomes one part (the kernel's limit is 500)."""

_MOST_NEW = 8
"""The number of layers on top of known ones that are looked at alone: with more of them a merge is cheaper."""
_ALL_MERGED = "-"
_HIDDEN = "."
"""Stands for the key of a layer that an opaque root hides: it is not a part."""


class Part(Value):
    """A part. ``key`` (hex digits) names its directory in the store. ``layers`` are those whose tars it needs.
    ``make_tree`` returns its tree as a layer of an overlay, its opaque directories, and the numbers of ``layers`` in
    the tree."""

    key: str
    layers: tuple[Digest, ...]
    make_tree: Callable[[], tuple[Tree, Set[int], list[int]]]

    @property
    def uuid(self) -> bytes:
        """The UUID of its EROFS image."""
        return bytes.fromhex(self.key)[:16]


def image_of(store: Store, part: Part) -> str:
    """Return the path of the part's EROFS image."""
    return os.path.join(store.paths.union(part.key), "erofs")


def parts_of(store: Store, stack: Stack, *, merged: bool | None = None) -> list[Part]:
    """Return the parts of the stack's union, bottom first, from the lowest visible layer on.

    ``merged`` True forces one part, False one for each layer (Unsupported if that is impossible). The choice is
    stored, so that the next mount of the stack needs no merge.
    """
    if merged or not stack.layers or (merged is None and is_deep(len(stack.layers))):
        return [merged_part(stack)]
    trees = _Trees(stack)
    note = os.path.join(stack_directory(store, stack), "parts")
    keys = _stored_keys(note)
    if not keys:
        try:
            keys = _keys_over_known(store, stack, trees) or trees.keys()
        except Unsupported:
            if merged is not None:
                raise
            keys = [_ALL_MERGED]
        replace_file(note, [" ".join(keys).encode()], lasting=False)
    if keys == [_ALL_MERGED] or len(keys) != len(stack.layers):
        if merged is not None:
            trees.keys()
        return [merged_part(stack)]
    return _layer_parts(stack, keys, trees)


def _keys_over_known(store: Store, stack: Stack, trees: _Trees) -> list[str]:
    """Return the keys, if most layers were mounted before without the upper ones: then only these are looked at. []
    where that is not so, or not cheaper than a merge. Raises Unsupported."""
    count = len(stack.layers)
    for known in range(count - 1, max(0, count - 1 - _MOST_NEW), -1):
        below = stack.slice(stack.first, stack.first + known - 1)
        keys = _stored_keys(os.path.join(store.paths.union(_stack_key(below)), "parts"))
        if len(keys) != known or keys == [_ALL_MERGED]:
            continue
        for number in range(known, count):
            top = trees.top(number)
            if top is None:
                return []
            keys.append(trees.key_of(top))
        return keys
    return []


def is_deep(layers: int) -> bool:
    """Whether a stack of so many layers becomes one part."""
    return layers > DEEPEST


def possible_parts(store: Store, stack: Stack) -> list[Part]:
    """Return the parts that may exist for the stack: one for all layers, and one for each layer if that was chosen
    before. Nothing is written or merged."""
    keys = _stored_keys(os.path.join(store.paths.union(_stack_key(stack)), "parts"))
    if keys == [_ALL_MERGED] or len(keys) != len(stack.layers):
        return [merged_part(stack)]
    return [merged_part(stack), *_layer_parts(stack, keys, _Trees(stack))]


def layer_parts(stack: Stack) -> list[Part]:
    """Return one part for each visible layer, bottom first: they don't depend on the layers above. Nothing is stored.
    Raises Unsupported if that is impossible."""
    trees = _Trees(stack)
    return _layer_parts(stack, trees.keys(), trees)


def _layer_parts(stack: Stack, keys: list[str], trees: _Trees) -> list[Part]:
    return [
        Part(key, (diff_id,), trees.maker(number))
        for number, (key, diff_id) in enumerate(zip(keys, stack.diff_ids, strict=True))
        if key != _HIDDEN
    ]


def stack_directory(store: Store, stack: Stack) -> str:
    """Return the directory of data of the whole stack; it is created if it does not exist."""
    from lamina.store.unions import make_union

    return make_union(store.paths, _stack_key(stack), stack.diff_ids)


def new_mount_point(store: Store, stack: Stack) -> str:
    """Return a new mount point in the directory of the stack; it is not created."""
    from lamina.store.unions import MOUNT_POINT_PREFIX

    return os.path.join(store.paths.union(_stack_key(stack)), f"{MOUNT_POINT_PREFIX}{os.urandom(6).hex()}")


def merged_part(stack: Stack) -> Part:
    """Return all layers as one part."""

    def made() -> tuple[Tree, Set[int], list[int]]:
        return stack.tree(), frozenset(), list(range(len(stack.layers)))

    return Part(_key("merged", *map(str, stack.diff_ids)), stack.diff_ids, made)


class _Trees:
    """The layers' own trees, merged on first need."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._tops: dict[int, Stacked | None] = {}

    def keys(self) -> list[str]:
        keys = [_HIDDEN] * len(self.stack.layers)
        for one in self.stack.stacked():
            keys[one.layer] = self.key_of(one)
        return keys

    def key_of(self, one: Stacked) -> str:
        return _key("layer", str(self.stack.diff_ids[one.layer]), one.context)

    def top(self, number: int) -> Stacked | None:
        """The tree of a layer, without a merge of all layers below it; None if it needs one. Raises Unsupported."""
        if number not in self._tops:
            from lamina.union.stacked import stacked_top

            self._tops[number] = stacked_top([layer.index() for layer in self.stack.layers[: number + 1]])
        return self._tops[number]

    def maker(self, number: int) -> Callable[[], tuple[Tree, Set[int], list[int]]]:
        def made() -> tuple[Tree, Set[int], list[int]]:
            one = self._tops.get(number)
            if one is None:
                (one,) = (one for one in self.stack.stacked() if one.layer == number)
            return one.tree, one.opaque, [number]

        return made


def _stack_key(stack: Stack) -> str:
    return _key("parts", *map(str, stack.diff_ids))


def _key(*words: str) -> str:
    return Digest.of("\n".join([f"part {VERSION}", *words]).encode()).encoded


def _stored_keys(path: str) -> list[str]:
    """Read the stored keys; [] if there are none or the file was truncated by a crash."""
    try:
        with open(path, encoding="utf-8") as file:
            keys = file.read().split()
    except (OSError, ValueError):
        return []
    whole = all(len(key) == 64 and not key.strip("0123456789abcdef") for key in keys)
    return keys if whole or keys == [_ALL_MERGED] else []
