"""Removes paths from every layer that has them, so that the new image contains none of their bytes.

A layer is rewritten only if it states a path, hides it, or has a hard link to it. A file that also has another name
keeps its data there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

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
from lamina.edit.rows_at_paths import at_or_below, mentions, stated_rows
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
    """The plan of an erase. ``layers`` are the numbers (from 1) of the layers to rewrite, ``entries`` the number of
    entries to remove, ``size`` the bytes of their files. ``elsewhere`` are other hard links of the same files, which
    keep the data."""

    paths: tuple[bytes, ...]
    layers: tuple[int, ...]
    entries: int
    size: int
    elsewhere: tuple[bytes, ...] = ()


def plan_erase(base: Stack, paths: Sequence[bytes]) -> Erased:
    """Plan what ``erase`` does. A path that no layer has is looked up in the union, following symlinks on the way.
    Raises PathNotFound, UsageError (the root)."""
    require_bottom(base)
    indexes = [handle.index() for handle in base.layers]
    tops = tuple(sorted({_literal(base, indexes, path) for path in paths}))
    layers, entries, size = [], 0, 0
    winding = through_symlinks(indexes)
    for number, index in enumerate(indexes):
        if number in winding or mentions(index, tops):
            layers.append(number + 1)
        stated = stated_rows(index, tops)
        entries += len(stated)
        size += sum(index.size[row] for row in stated if index.kind[row] == Kind.FILE)
    return Erased(tops, tuple(layers), entries, size, _other_names(base.tree(), at_or_below(tops)))


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
    """Write the image that ``plan_erase`` planned: its union is the old one without these paths. The history gets a
    step without a layer. Raises as ``squash``."""
    indexes = [handle.index() for handle in base.layers]
    config, created = own_config(base), timestamp(packing.epoch)
    docker = docker_format([base], packing)
    gone = at_or_below(plan.paths)
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
        raise UsageError("the root can't be erased", hint="name a path in it")
    if any(stated_rows(index, (path,)) for index in indexes):
        return path
    found = base.leads_to(path)
    if found is None:
        text = path.decode("utf-8", "backslashreplace")
        raise PathNotFound(f"/{text:.300} was not found in any layer of {base.name}", hint="list with `lamina ls`")
    if not found:
        raise UsageError("the root can't be erased", hint="name a path in it")
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
