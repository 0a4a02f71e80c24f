"""``Mounts`` of docker's inspect: what is mounted in the container, by target."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lamina.run.options import Mount

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


def mounts_of(
    store: Store, container: Container, wanted: ContainerOptions, declared: Iterable[str]
) -> list[dict[str, Any]]:
    """``declared``: the volumes of the image."""
    given = {os.path.normpath(mount.target) for mount in wanted.mounts}
    mounts = [
        *wanted.mounts,
        *(Mount("volume", "", target) for target in declared if os.path.normpath(target) not in given),
    ]
    found = [_mount(store, container, number, one) for number, one in enumerate(mounts)]
    return sorted(found, key=lambda one: str(one["Destination"]))


def _mount(store: Store, container: Container, number: int, mount: Mount) -> dict[str, Any]:
    source: dict[str, Any] = {"Source": mount.source}
    if mount.kind == "volume":
        above = (
            os.path.join(store.paths.root, "volumes")
            if mount.source
            else store.containers.path(container.id, "volumes")
        )
        name = mount.source or str(number)
        source = {"Name": name, "Source": os.path.join(above, name)}
    return {
        "Type": mount.kind,
        **source,
        "Destination": mount.target,
        **({"Driver": "local"} if mount.kind == "volume" else {}),
        "Mode": "ro" if mount.read_only else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation if mount.kind == "bind" else "",
    }
