"""The volumes of a container: the mounts that it asks for, and new volumes.

A new volume is filled under a temporary name, so that a volume with its own name is always complete. Named volumes
are made one at a time in a store: a second process waits and uses the first one's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from lamina.errors import NotFound
from lamina.host import mountinfo
from lamina.host.files import reported, sync_directory
from lamina.host.lock import acquire, release
from lamina.host.temporary import TemporaryDirectory
from lamina.light import TYPE_CHECKING, replace
from lamina.run.container.record import owner_of
from lamina.run.options import Mount
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lamina.run.rootfs import Inside
    from lamina.store.containers import Container
    from lamina.store.store import Store


def binds(
    store: Store, container: Container, wanted: Iterable[Mount], declared: Iterable[str], inside: Inside
) -> list[Mount]:
    """The mounts that were asked for, with absolute sources, and the volumes that the image ``declared``. New volumes
    are made, for the container's root. ``inside``: the container's root file system. Raises NotFound,
    SystemFailure."""
    owner, lasting = owner_of(container), not container.remove
    mounts = list(wanted)
    given = {os.path.normpath(mount.target) for mount in mounts}
    mounts += [Mount("volume", "", target) for target in declared if os.path.normpath(target) not in given]
    anonymous = store.containers.path(container.id, "volumes")
    found = []
    for number, mount in enumerate(mounts):
        if mount.kind == "tmpfs":
            found.append(mount)
            continue
        if mount.kind == "bind":
            source = os.path.realpath(mount.source)
            if not os.path.exists(source):
                raise NotFound(
                    f"{source!r:.200}, to be mounted at {mount.target}, was not found",
                    hint="check the path of --volume or --mount",
                )
            if mount.read_only and "bind" not in mount.options and _has_mounts(source):
                mount = replace(mount, options=(*mount.options, "rro"))
        else:
            above = os.path.join(store.paths.root, "volumes") if mount.source else anonymous
            source = os.path.join(above, mount.source or str(number))
            if not os.path.isdir(source):
                empty = "nocopy" in mount.options
                _make(source, mount.target, inside, owner, lasting=lasting or bool(mount.source), empty=empty)
        found.append(replace(mount, kind="bind", source=source))
    return found


def _has_mounts(path: str) -> bool:
    """Whether other file systems are mounted below ``path``. Linux 5.12 and later can make those read-only too."""
    if kernel.release() < (5, 12):
        return False
    return any(place != path for place in mountinfo.below(path))


def _make(
    path: str, target: str, inside: Inside, owner: tuple[int, int], *, lasting: bool, empty: bool = False
) -> None:
    """Make a new volume by docker's rule: it starts with the image's files at its target, unless it is to be
    ``empty``. Else ``owner`` owns it."""
    from lamina.run.container.cp import copy_out

    above, name = os.path.split(path)
    with reported(path), _alone(above):
        if os.path.isdir(path):
            return  # made while this process waited
        with TemporaryDirectory(above, f".{name}", remove=remove_tree) as made:
            os.chmod(made.path, 0o755)
            if owner != (0, 0):
                os.chown(made.path, *owner)
            point("volume.directory-made")
            if not empty and inside.is_there(target):
                copy_out(inside, target, made.path, content_only=True, lasting=lasting)
            point("volume.filled")
            made.put(path)
            point("volume.named")
            if lasting:
                sync_directory(above)


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Keep other processes from making a volume in this directory while the block runs."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        acquire(descriptor, directory)
        yield
        release(descriptor, directory)
    finally:
        os.close(descriptor)
