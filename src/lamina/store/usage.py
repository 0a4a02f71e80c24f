"""What the store's bytes are for. Every byte on the disk is counted once: the parts add up to the whole.

Bytes are those of the disk (blocks), so holes of sparse tars cost nothing and hard links count once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.host.files import names_of_files
from lamina.spec.digest import Digest
from lamina.store.foreign_trees import disk_bytes, tree_bytes
from lamina.store.mark import Marked, Memory, mark, of_containers, of_names, of_roots
from lamina.store.refs import name_of
from lamina.store.roots import GRACE

if TYPE_CHECKING:
    from lamina.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """``size``: all that the image needs; ``shared`` of it with other images; ``unique``: what deleting this image
    alone frees. ``names`` that it has."""

    digest: Digest
    names: tuple[str, ...]
    size: int
    shared: int
    unique: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk: ``images`` (what some image needs), ``held`` (what no image needs, but a container, or a command
    that runs or ended less than an hour ago), ``unneeded`` (what prune deletes), ``ingest``, ``containers``,
    ``frame`` (index.json, roots and the like). They add up to ``total``. The first three are, seen otherwise,
    ``blobs`` (an uncompressed layer is one), ``tars`` and ``indexes`` (checkpoints among them)."""

    per_image: tuple[ImageUsage, ...]
    images: int
    held: int
    unneeded: int
    ingest: int
    containers: int
    frame: int
    blobs: int
    tars: int
    indexes: int

    @property
    def total(self) -> int:
        return self.images + self.held + self.unneeded + self.ingest + self.containers + self.frame


NOTHING = Usage((), 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Of a store that is not there yet."""


def usage(store: Store) -> Usage:
    """Look at everything once. Raises SystemFailure, StoreDamaged."""
    names: dict[Digest, list[str]] = {}
    entries = store.refs.entries()
    for entry in entries:
        names.setdefault(entry.digest, []).append(name_of(entry))
    sizes, owners = _files(store)
    memory: Memory = {}
    needs = {
        entry.digest: _needed(mark(store, of_names([entry]), memory=memory, strict=False), owners)
        for entry in {entry.digest: entry for entry in entries}.values()
    }
    users: dict[tuple[int, int], int] = {}
    for needed in needs.values():
        for file in needed:
            users[file] = users.get(file, 0) + 1
    per_image = []
    for digest, needed in needs.items():
        size = sum(sizes[file] for file in needed)
        unique = sum(sizes[file] for file in needed if users[file] == 1)
        held = tuple(sorted(filter(None, names[digest])))
        per_image.append(ImageUsage(digest, held, size, size - unique, unique))
    needed_all = sum(sizes[file] for file in users)
    others = mark(store, [*of_containers(store), *of_roots(store, GRACE)], memory=memory, strict=False)
    held_all = sum(sizes[file] for file in _needed(others, owners) - users.keys())
    everything = sum(sizes[file] for file in {file for files in owners.values() for file in files})
    root = store.paths.root
    ingest = tree_bytes(store.paths.ingest)
    containers = sum(tree_bytes(os.path.join(root, name)) for name in ("containers", "volumes"))
    total = tree_bytes(root)
    frame = total - everything - ingest - containers
    per_image.sort(key=lambda image: (-image.size, image.names))
    blobs, tars = _by_kind(store, sizes)
    return Usage(
        tuple(per_image),
        needed_all,
        held_all,
        everything - needed_all - held_all,
        ingest,
        containers,
        frame,
        blobs,
        tars,
        everything - blobs - tars,
    )


def _by_kind(store: Store, sizes: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Bytes of blobs, and of tars that are no blob at the same time."""

    def seen(paths: Iterable[str]) -> set[tuple[int, int]]:
        found = set()
        for path in paths:
            with suppress(FileNotFoundError):
                state = os.lstat(path)
                found.add((state.st_dev, state.st_ino))
        return found & set(sizes)

    blobs = seen(store.blobs.path(digest) for digest in store.blobs)
    tars = seen(store.paths.tar(diff_id) for diff_id in store.layers.diff_ids()) - blobs
    return sum(sizes[file] for file in blobs), sum(sizes[file] for file in tars)


def _files(store: Store) -> tuple[dict[tuple[int, int], int], dict[Digest, list[tuple[int, int]]]]:
    """Bytes of each file (by device and inode), and the files of each blob and of each layer's diff_id."""
    sizes: dict[tuple[int, int], int] = {}
    owners: dict[Digest, list[tuple[int, int]]] = {}

    def note(owner: Digest, path: str) -> None:
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            return
        key = (state.st_dev, state.st_ino)
        sizes[key] = disk_bytes(state)
        owners.setdefault(owner, []).append(key)

    for digest in store.blobs:
        note(digest, store.blobs.path(digest))
    for diff_id in store.layers.diff_ids():
        directory = store.paths.layer(diff_id)
        for name in names_of_files(directory):
            note(diff_id, os.path.join(directory, name))
    return sizes, owners


def _needed(marked: Marked, owners: dict[Digest, list[tuple[int, int]]]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    both: Iterable[Digest] = marked.blobs | marked.diff_ids
    for digest in both:
        found.update(owners.get(digest, ()))
    return found
