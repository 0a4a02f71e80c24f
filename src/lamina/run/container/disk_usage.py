"""What images, containers, volumes and the build cache use on the disk, as docker counts it."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.light import TYPE_CHECKING
from lamina.run.volumes.remove import unused
from lamina.store.foreign_trees import tree_bytes
from lamina.store.usage import usage

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.store.usage import Usage

KINDS = ("Images", "Containers", "Local Volumes", "Build Cache")


@dataclass(frozen=True, slots=True)
class Part:
    """``total``, ``active``: how many there are, and how many of them are used. ``size``, ``reclaimable``: bytes."""

    total: int
    active: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """``parts``: by KINDS. ``containers``, ``volumes``: the bytes of each, by ID and by name. ``users``: how many
    containers have an image, by the digest of its manifest."""

    parts: dict[str, Part]
    containers: dict[str, int]
    volumes: dict[str, int]
    users: dict[str, int]
    images: Usage


def disk_usage(store: Store) -> DiskUsage:
    """Raises SystemFailure, StoreDamaged."""
    used = usage(store)
    every = store.containers.every()
    users: dict[str, int] = {}
    for one in every:
        users[one.manifest] = users.get(one.manifest, 0) + 1
    free_images = [image for image in used.per_image if str(image.digest) not in users]
    images = Part(
        len(used.per_image),
        len(used.per_image) - len(free_images),
        used.images,
        used.images if len(free_images) == len(used.per_image) else sum(image.unique for image in free_images),
    )
    sizes = {one.id: tree_bytes(store.containers.path(one.id)) for one in every}
    running = {one.id for one in every if store.containers.is_running(one)}
    containers = Part(
        len(every), len(running), sum(sizes.values()), sum(sizes[one] for one in sizes.keys() - running)
    )
    volume_sizes = {one.name: tree_bytes(store.volumes.path(one.name)) for one in store.volumes.every()}
    free = {one.name for one in unused(store)}
    volumes = Part(
        len(volume_sizes),
        len(volume_sizes.keys() - free),
        sum(volume_sizes.values()),
        sum(size for name, size in volume_sizes.items() if name in free),
    )
    cache = Part(int(used.build > 0), 0, used.build, used.build)
    parts = dict(zip(KINDS, (images, containers, volumes, cache), strict=True))
    return DiskUsage(parts, sizes, volume_sizes, users, used)
