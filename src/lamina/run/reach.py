"""Where the root of a container's user namespace, who is nobody outside, reaches its root file system: the store is
closed to it, and so may be a directory above the store."""

from __future__ import annotations

import os
import stat

from lamina.host import privileges
from lamina.host.files import reported
from lamina.view import kernel
from lamina.view.overlay.lower import UNNEEDED, unmount_quietly, unneeded
from lamina.view.owners import Owners

_TOP = "/run/lamina-open"
_NOBODY = 65534  # who is shown for an id that a namespace has not (proc_sys_kernel(5), overflowuid)


def open_way(identity: str, owners: Owners, rootfs: str) -> str:
    """A path at which the root of ``owners`` reaches what is mounted at ``rootfs``. Raises SystemFailure."""
    if not owners:
        return rootfs
    if privileges.is_root():
        place = _place(identity)
        with reported(place):
            os.makedirs(place)
            # its own root's alone: what is set-user-ID in there must be nobody else's to call
            os.chown(os.path.dirname(place), *owners.root)
            os.chmod(os.path.dirname(place), 0o700)
        kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
        return place
    place = "" if _is_open(rootfs) else unneeded(rootfs)
    if place:
        kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
    return place or rootfs


def close_way(identity: str, way: str = "") -> None:
    """Take away what ``open_way`` made, if it did: ``way`` is what it gave."""
    if way in UNNEEDED:
        kernel.unmount(way)
    place = _place(identity)
    if os.path.isdir(place):
        unmount_quietly(place)
        os.rmdir(os.path.dirname(place))


def _place(identity: str) -> str:
    return os.path.join(_TOP, identity, "rootfs")


def _is_open(path: str) -> bool:
    """Whether who has all rights over this namespace's ids may go through all directories above ``path``."""
    while path != os.sep:
        path = os.path.dirname(path)
        state = os.stat(path)
        if not state.st_mode & stat.S_IXOTH and _NOBODY in (state.st_uid, state.st_gid):
            return False
    return True
