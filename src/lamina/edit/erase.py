"""Paths taken out of every layer that has them: no bytes of them are left in the new image.

A layer is written again only where it must be: because it states a path, hides it, or links to it. A file that
also has another name keeps its data there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lamina.edit.layer_rows import below, speaks_of, stated_rows
from lamina.edit.publish import (
    Layer,
    Packing,
    docker_format,
    made_layer,
    own_config,
    publish,
    require_bottom,
    timestamp,
    without_base,
)
from lamina.edit.squash import items_of
from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.light import TYPE_CHECKING
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History
from lamina.union.partial import through_symlinks
from lamina.union.squashed import squashed
from lamina.union.tree import Tree

if TYPE_CHECKING:
    from lamina.source.protocols import Writer


@dataclass(frozen=True, slots=True)
class Erased:
    """``layers``: numbers (from 1) of those that are written again. ``entries`` that went, ``size`` in bytes of
    their files. ``elsewhere``: other names of the same files, which keep the data."""

    paths: tuple[bytes, ...]
    layers: tuple[int, ...]
    entries: int
    size: int
    elsewhere: tuple[bytes, ...] = ()


def plan_erase(base: Stack, paths: Sequence[bytes]) -> Erased:
    """What ``erase`` would do. A path that no layer has is looked up in the union, symlinks on its way followed.
    Raises PathNotFound, UsageError (the root)."""
    require_bottom(base)
    indexes = [handle.index() for handle in base.layers]
    tops = tuple(sorted({_literal(base, indexes, path) for path in paths}))
    layers, entries, size = [], 0, 0
    winding = through_symlinks(indexes)
    for number, index in enumerate(indexes):
        if number in winding or speaks_of(index, tops):
            layers.append(number + 1)
        stated = stated_rows(index, tops)
        entries += len(stated)
        size += sum(index.size[row] for row in stated if index.kind[row] == Kind.FILE)
    return Erased(tops, tuple(layers), entries, size, _other_names(base.tree(), below(tops)))


def erase(
    base: Stack,
    plan: Erased,
    target: Writer,
    name: str,
    *,
    created_by: str,
    comment: str = "",
    packing: Packing = Packing(),  # noqa: B008  (frozen)
) -> Descriptor:
    """Write what ``plan_erase`` found; the union of the new image is the old one without these paths. The history
    says so in a step without a layer. Raises as ``squash``."""
    indexes = [handle.index() for handle in base.layers]
    config, created = own_config(base), timestamp(packing.epoch)
    docker = docker_format([base], packing)
    gone = below(plan.paths)
    layers: list[Layer] = [handle.descriptor for handle in base.layers]
    diff_ids = list(config.diff_ids)
    with ExitStack() as files:
        for number in plan.layers:
            stated = squashed(indexes[:number], number - 1, left_out=gone, marks=True)
            made = files.enter_context(made_layer(items_of(base, stated), packing, docker=docker))
            layers[number - 1], diff_ids[number - 1] = made, made.diff_id
        step = History(created=created, created_by=created_by, comment=comment, empty_layer=True)
        new = config.with_layers(diff_ids, [*config.aligned_history(), step.to_json()]).with_(created=created)
        return publish(
            target,
            name,
            layers,
            new,
            docker=docker,
            purpose="erase",
            annotations=without_base(base.manifest.annotations),
        )


def _literal(base: Stack, indexes: Sequence[LayerIndex], path: bytes) -> bytes:
    if not path:
        raise UsageError("the root can't be erased", hint="name what is in it")
    if any(stated_rows(index, (path,)) for index in indexes):
        return path
    tree = base.tree()
    try:
        found = tree.path(tree.lookup(path))
    except PathNotFound:
        text = path.decode("utf-8", "backslashreplace")
        raise PathNotFound(f"no layer of {base.name} has /{text:.300}", hint="see `lamina ls`") from None
    if not found:
        raise UsageError("the root can't be erased", hint="name what is in it")
    return found


def _other_names(tree: Tree, gone: Callable[[bytes], bool]) -> tuple[bytes, ...]:
    files: dict[int, set[bytes]] = {}
    for node, inode in tree.hardlinks.items():
        files.setdefault(inode, {tree.path(inode)}).add(tree.path(node))
    found: set[bytes] = set()
    for names in files.values():
        left = {name for name in names if not gone(name)}
        if len(left) < len(names):
            found |= left
    return tuple(sorted(found))
