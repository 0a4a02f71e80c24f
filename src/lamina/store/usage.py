"""Disk usage of the store, by purpose. Every byte on the disk is counted once, so the parts add up to the whole.

Bytes are disk blocks, so the holes of sparse tars cost nothing, and a file with several hard links counts once.
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
from lamina.store.mark import (
    PIN,
    Marked,
    Memory,
    container_holders,
    image_holders,
    mark,
    pushed_holders,
    root_holders,
)
from lamina.store.refs import name_of
from lamina.store.roots import BUILD_PIN, GRACE

if TYPE_CHECKING:
    from lamina.store.store import Store


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """``size``: everything that the image needs. ``shared``: the part of it that other images need too. ``unique``:
    the bytes that deleting only this image frees. ``names``: its names."""

    digest: Digest
    names: tuple[str, ...]
    size: int
    shared: int
    unique: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk: ``images`` (needed by an image), ``held`` (needed by no image, but by a container, or by a
    command that runs or ended less than an hour ago), ``build`` (what builds keep: layers that nothing else needs,
    records, cache mounts), ``unneeded`` (what prune deletes), ``ingest``, ``containers`` (without volumes),
    ``volumes``, ``frame`` (index.json, roots and the like). They add up to ``total``. The layers of the first four
    can also be split into ``blobs`` (including uncompressed layers), ``tars`` and ``indexes`` (including
    checkpoints)."""

    per_image: tuple[ImageUsage, ...]
    images: int
    held: int
    build: int
    unneeded: int
    ingest: int
    containers: int
    volumes: int
    frame: int
    blobs: int
    tars: int
    indexes: int

    @property
    def total(self) -> int:
        layers = self.images + self.held + self.build + self.unneeded
        return layers + self.ingest + self.containers + self.volumes + self.frame


NOTHING = Usage((), *(0,) * 11)
"""The usage of a store that does not exist yet."""


def usage(store: Store) -> Usage:
    """Measure everything once. Raises SystemFailure, StoreDamaged."""
    names: dict[Digest, list[str]] = {}
    entries = store.refs.entries()
    for entry in entries:
        names.setdefault(entry.digest, []).append(name_of(entry))
    sizes, owners = _files(store)
    memory: Memory = {}
    needs = {
        entry.digest: _needed(mark(store, image_holders([entry]), memory=memory, strict=False), owners)
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
        own = tuple(sorted(filter(None, names[digest])))
        per_image.append(ImageUsage(digest, own, size, size - unique, unique))
    needed_all = sum(sizes[file] for file in users)
    roots = root_holders(store, GRACE)
    of_builds = [one for one in roots if one.kind == PIN and one.name == BUILD_PIN]
    others = [*container_holders(store), *(one for one in roots if one not in of_builds), *pushed_holders(store)]
    held = _needed(mark(store, others, memory=memory, strict=False), owners) - users.keys()
    cached = _needed(mark(store, of_builds, memory=memory, strict=False), owners) - users.keys() - held
    held_all, cached_all = sum(sizes[file] for file in held), sum(sizes[file] for file in cached)
    everything = sum(sizes[file] for file in {file for files in owners.values() for file in files})
    root = store.paths.root
    ingest = tree_bytes(store.paths.ingest)
    containers, volumes = (tree_bytes(os.path.join(root, name)) for name in ("containers", "volumes"))
    build = tree_bytes(store.paths.build)
    total = tree_bytes(root)
    frame = total - everything - ingest - containers - volumes - build
    per_image.sort(key=lambda image: (-image.size, image.names))
    blobs, tars = _by_kind(store, sizes)
    return Usage(
        tuple(per_image),
        needed_all,
        held_all,
        cached_all + build,
        everything - needed_all - held_all - cached_all,
        ingest,
        containers,
        volumes,
        frame,
        blobs,
        tars,
        everything - blobs - tars,
    )


def _by_kind(store: Store, sizes: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Bytes of blobs, and of tars that are not hard links to a blob."""

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
    """The bytes of each file (by device and inode), and the files of each blob and of each layer's diff_id."""
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
