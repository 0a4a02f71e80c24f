"""Adds a layer on top of an image, or makes the first layer of a new one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from lamina.edit.publish import (
    Layer,
    Revision,
    kept_annotations,
    made_layer,
    own_config,
    publish,
    require_bottom,
    timestamp,
)
from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.light import TYPE_CHECKING
from lamina.scan.directory import OnWarning, scan, scan_file
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History, ImageConfig
from lamina.spec.mediatype import OCI_CONFIG, is_docker
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.source.protocols import Writer
    from lamina.spec.image_config import Changes


def append(
    base: Stack | None,
    items: Sequence[Item],
    target: Writer,
    name: str,
    revision: Revision,
    *,
    platform: Platform | None = None,
    below: tuple[str, Sequence[Item]] = ("", ()),
) -> Descriptor:
    """Add ``items`` as one layer on top of ``base`` (None: a new image for ``platform``), and name the result at
    ``target``, which must have the base's layers. ``below``: a further layer between both, with what its line in the
    history says made it. Without items only the config changes.

    ``revision.packing.epoch`` makes it reproducible: the same arguments give the same digest. Returns the manifest's
    descriptor. Raises PathNotFound (the path of a whiteout was not found), InvalidLayer (a path occurs
    twice), UsageError, BlobNotFound (the target lacks a layer), SystemFailure.
    """
    if base is not None:
        require_bottom(base)
    _check_whiteouts(base, items)
    packing = revision.packing
    docker = base is not None and is_docker(base.manifest.media_type) and packing.compression != "zstd"
    created = timestamp(packing.epoch)
    comment = revision.comment
    config = own_config(base) if base else ImageConfig.build(platform or Platform.host(), media_type=OCI_CONFIG)
    layers: list[Layer] = [handle.descriptor for handle in base.layers] if base else []
    with ExitStack() as files:
        for created_by, entries in (below, (revision.created_by, items)):
            if entries:
                made = files.enter_context(made_layer(entries, packing, docker=docker, clamp=True))
                config = config.add_layer(made.diff_id, History(created, created_by, comment=comment))
                layers.append(made)
        merged: Changes = {**(revision.changes or {}), "created": created}
        return publish(
            target,
            name,
            layers,
            config.with_(**merged),
            docker=docker,
            purpose="append",
            annotations=kept_annotations(base) if base is not None else None,
        )


def files_of(
    sources: Iterable[tuple[str | bytes, bytes]],
    removed: Iterable[bytes],
    base: Stack | None,
    *,
    owner: tuple[int, int] | None = (0, 0),
    on_warning: OnWarning = lambda text: None,
) -> list[Item]:
    """Collect the items that ``append`` puts on ``base``: files and directories of this host as (path here, path
    in the image), where a directory stands for its content; whiteouts of ``removed`` (symlinks on the way to such a
    path are followed, one at its end is not); missing parent directories.
    ``owner`` is given to all items; None keeps this host's ids. Raises NotFound, UsageError, SystemFailure."""
    items: list[Item] = []
    for source, target in sources:
        if os.path.isdir(source) and not os.path.islink(source):
            items += scan(source, to=target, owner=owner, on_warning=on_warning)
        else:
            items.append(scan_file(source, target, owner=owner))
    items += map(whiteout, dict.fromkeys(_literal(base, path) for path in removed))
    return with_parents(items, base) if items else []


def _literal(base: Stack | None, path: bytes) -> bytes:
    found = base.leads_to(path) if base else None
    return path if found is None else found


def whiteout(path: bytes) -> Item:
    """Return an item that hides ``path`` of the layers below."""
    return Entry(path, Kind.WHITEOUT), None


def with_parents(items: Sequence[Item], base: Stack | None) -> list[Item]:
    """Return ``items`` with the parent directories that neither they nor the base state: 0755, 0:0."""
    tree = base.tree() if base else None
    stated = {entry.path for entry, _ in items if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE)}
    missing: dict[bytes, Entry] = {}
    for entry, _ in items:
        if entry.kind == Kind.WHITEOUT:
            continue
        parent = entry.path.rpartition(b"/")[0]
        while parent and parent not in stated and parent not in missing:
            node = tree.find(parent) if tree else None
            if tree is None or node is None or not tree.is_directory(node):
                missing[parent] = Entry(parent, Kind.DIRECTORY, 0o755, mtime=entry.mtime)
            parent = parent.rpartition(b"/")[0]
    return [*((entry, None) for entry in missing.values()), *items]


def _check_whiteouts(base: Stack | None, items: Sequence[Item]) -> None:
    hidden = [entry.path for entry, _ in items if entry.kind == Kind.WHITEOUT]
    if not hidden:
        return
    tree = base.tree() if base else None
    for path in hidden:
        if not path:
            raise UsageError("the root can't be removed", hint="name a path in it")
        if tree is None or tree.find(path) is None:
            raise PathNotFound(
                f"nothing to remove: /{path.decode('utf-8', 'backslashreplace')} was not found",
                hint="list with `lamina ls`",
            )
