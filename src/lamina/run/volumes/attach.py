"""What a container gets when it starts: its mounts with sources that exist on this host.

A volume is filled with the image's files when the first container mounts it, by docker's rule. It is filled under a
temporary name, so that a volume with its own name is always complete. Volumes are filled one at a time in a store: a
second process waits and uses the first one's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from lamina.errors import NotFound, StoreDamaged
from lamina.host import mountinfo
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.options import Mount
from lamina.run.volumes.points import points_of
from lamina.store.fault import point
from lamina.store.journal import note
from lamina.store.volumes import LOCAL, Volume, new_volume
from lamina.view import kernel
from lamina.view.owners import Owners

if TYPE_CHECKING:
    from lamina.run.rootfs import Inside
    from lamina.store.containers import Container
    from lamina.store.store import Store


def make_volumes(store: Store, container: Container, mounts: Iterable[Mount]) -> None:
    """Make the missing volumes of a new container, empty: the image's files come when it starts. Raises Conflict,
    SystemFailure."""
    for mount in mounts:
        if mount.kind == "volume":
            _make(store, container, mount, lambda directory: None, fresh=True)


def attached(
    store: Store, container: Container, wanted: Sequence[Mount], inside: Inside, view: str = ""
) -> list[Mount]:
    """The container's mounts for the runtime: binds with absolute sources, and tmpfs. Missing volumes are made.
    ``wanted``: ``asked_for``. ``inside``: its root file system. ``view``: as in ``mount_union``, for images. Raises
    NotFound, Unsupported, StoreDamaged, SystemFailure."""
    found = []
    for number, mount in enumerate(wanted):
        if mount.kind == "tmpfs":
            found.append(mount)
        elif mount.kind == "bind":
            found.append(_bind(mount))
        elif mount.kind == "image":
            from lamina.run.volumes.images import attach_image

            found.append(attach_image(store, container, number, mount, view))
        elif not mount.source:
            found.append(_of_older(store, container, number, mount, inside))
        else:
            found.append(_volume(store, container, number, mount, inside))
    return found


def asked_for(container: Container, wanted: Iterable[Mount], declared: Iterable[str]) -> list[Mount]:
    """The mounts of the container as its record states them; for a container of an older lamina, as it was asked for
    and as its image declares. Raises StoreDamaged."""
    found = points_of(container)
    if found is not None:
        return found
    found = list(wanted)
    given = {os.path.normpath(mount.target) for mount in found}
    return found + [Mount("volume", "", target) for target in declared if os.path.normpath(target) not in given]


def _bind(mount: Mount) -> Mount:
    source = os.path.realpath(mount.source)
    if not os.path.lexists(source):
        if "create" not in mount.options:
            raise NotFound(
                f"{source!r:.200}, to be mounted at {mount.target}, was not found",
                hint="check the path of --mount, or add bind-create-src=true",
            )
        with reported(source):
            os.makedirs(source, mode=0o755, exist_ok=True)
    return _read_only_below(replace(mount, source=source))


def _read_only_below(mount: Mount) -> Mount:
    """A read-only bind whose source has other mounts below it: Linux 5.12 and later can make those read-only too."""
    if not mount.read_only or "bind" in mount.options or kernel.release() < (5, 12):
        return mount
    if any(place != mount.source for place in mountinfo.below(mount.source)):
        return replace(mount, options=(*mount.options, "rro"))
    return mount


def _volume(store: Store, container: Container, number: int, mount: Mount, inside: Inside) -> Mount:
    def fill(directory: str) -> None:
        _fill(directory, mount, inside, lasting=_is_lasting(container, mount))

    name, owner = mount.source, _owner(container)
    _make(store, container, mount, fill, fresh=False)
    volume = store.volumes.checked(name)
    found = replace(mount, kind="bind", source=store.volumes.path(name))
    if volume.options:
        from lamina.run.volumes import driver

        found = driver.mounted(store, volume, mount)
    if volume.fresh:
        with store.volumes.alone():
            volume = store.volumes.checked(name)
            if volume.fresh:
                _fill_first(store, volume, found, fill, owner)
    note(
        store.paths.root,
        "volume",
        "mount",
        name,
        {
            "container": container.id,
            "destination": mount.target,
            "driver": LOCAL,
            "propagation": "",
            "read/write": "false" if mount.read_only else "true",
        },
    )
    if mount.subpath:
        from lamina.run.volumes.images import pinned

        return replace(found, source=pinned(store, container, number, found.source, mount))
    return found


def _make(store: Store, container: Container, mount: Mount, fill: Callable[[str], object], *, fresh: bool) -> None:
    if store.volumes.exists(mount.source):
        return
    if mount.driver_options:
        from lamina.run.volumes.driver import check_options

        check_options(dict(mount.driver_options))
    made = new_volume(
        mount.source,
        mount.labels,
        mount.driver_options,
        anonymous=mount.anonymous,
        container=container.id,
        fresh=fresh or bool(mount.driver_options),  # the driver mounts it later
    )
    filling = fill if not made.fresh else lambda directory: None
    if store.volumes.make_with(made, filling, owner=_owner(container), lasting=_is_lasting(container, mount)):
        note(store.paths.root, "volume", "create", mount.source, {"driver": LOCAL})


def _fill_first(
    store: Store, volume: Volume, mount: Mount, fill: Callable[[str], object], owner: tuple[int, int]
) -> None:
    """Give the first container of a volume that was made before it the image's files. Call it in a block of
    ``alone``."""
    path = store.volumes.path(volume.name)
    if mount.source != path or os.path.ismount(path):  # by its driver: it can't be renamed
        if mount.kind == "bind" and not os.listdir(mount.source):
            fill(mount.source)
        store.volumes.write(replace(volume, fresh=False))
        return
    with reported(path):
        if owner != (0, 0) and not os.listdir(path):
            os.chown(path, *owner)
    store.volumes.refill(volume, fill)


def _fill(directory: str, mount: Mount, inside: Inside, *, lasting: bool) -> None:
    """Copy the image's files at the target into a new volume, with their owners."""
    if "nocopy" in mount.options or mount.subpath or not inside.is_there(mount.target):
        return
    from lamina.run.file_copy import copy_out

    copy_out(inside, mount.target, directory, content_only=True, lasting=lasting)


def _is_lasting(container: Container, mount: Mount) -> bool:
    return not (container.remove and mount.anonymous)


def _owner(container: Container) -> tuple[int, int]:
    return Owners(container.users, container.groups).root


def _of_older(store: Store, container: Container, number: int, mount: Mount, inside: Inside) -> Mount:
    """An anonymous volume of an older lamina, in the container's directory."""
    from lamina.host.temporary import TemporaryDirectory
    from lamina.store.foreign_trees import remove_tree

    above = store.containers.path(container.id, "volumes")
    path = os.path.join(above, str(number))
    with reported(path):
        os.makedirs(above, mode=0o700, exist_ok=True)
        if not os.path.isdir(path):
            with TemporaryDirectory(above, f".{number}", remove=remove_tree) as made:
                os.chmod(made.path, 0o755)
                os.chown(made.path, *_owner(container))
                _fill(made.path, mount, inside, lasting=True)
                point("volume.filled")
                made.put(path)
    return replace(mount, kind="bind", source=path)


def detached(store: Store, container: Container, *, was_mounted: bool) -> None:
    """After the container's end: unmount what drivers have mounted for its volumes, if no other running container has
    them. ``was_mounted``: its root file system was mounted until now. Raises SystemFailure."""
    volumes = _volumes_of(container)
    for name in volumes if was_mounted else ():
        note(store.paths.root, "volume", "unmount", name, {"container": container.id, "driver": LOCAL})
    if any(os.path.ismount(store.volumes.path(name)) for name in volumes):
        from lamina.run.volumes.driver import unmount

        with store.volumes.alone():
            for name in volumes:
                unmount(store, name, but=container.id)


def _volumes_of(container: Container) -> list[str]:
    try:
        return [mount.source for mount in points_of(container) or () if mount.kind == "volume"]
    except StoreDamaged:
        return []
