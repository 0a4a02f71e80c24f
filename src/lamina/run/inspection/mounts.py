"""``Mounts`` of docker's inspect: what is mounted in the container, by target."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lamina.light import replace
from lamina.run.options import Mount
from lamina.run.volumes.points import described, is_option
from lamina.run.volumes.points import mounts_of as stated

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


def mounts_of(
    store: Store, container: Container, wanted: ContainerOptions, declared: Iterable[str]
) -> list[dict[str, Any]]:
    """``declared``: the volumes of the image. Raises StoreDamaged."""
    if container.mounts is not None:
        found = stated(store, container)
    else:
        found = list(_of_older(store, container, wanted, declared))
    return sorted(found, key=lambda one: str(one["Destination"]))


def _of_older(
    store: Store, container: Container, wanted: ContainerOptions, declared: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Of a container of an older lamina, with its anonymous volumes in its own directory."""
    given = {os.path.normpath(mount.target) for mount in wanted.mounts}
    more = [Mount("volume", "", target) for target in declared if os.path.normpath(target) not in given]
    for number, mount in enumerate((*wanted.mounts, *more)):
        if is_option(mount):
            continue
        if mount.kind == "volume" and not mount.source:
            place = store.containers.path(container.id, "volumes", str(number))
            yield described(replace(mount, source=str(number)), place)
        else:
            yield described(mount, store.volumes.path(mount.source))
