"""Where the root of a container's user namespace, who is nobody outside, reaches its root file system: the store is
closed to it, and so may be a directory above the store."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from lamina import rights
from lamina.errors import SystemFailure
from lamina.files import reported
from lamina.view import kernel
from lamina.view.owners import Owners

_TOP = "/run/lamina-open"
_OURS = ("/mnt", "/media")
"""Directories that a plain user may cover in a mount namespace of its own."""
_NOBODY = 65534  # who is shown for an id that a namespace has not (proc_sys_kernel(5), overflowuid)


def open_way(identity: str, owners: Owners, rootfs: str) -> str:
    """A path at which the root of ``owners`` reaches what is mounted at ``rootfs``. Raises SystemFailure."""
    if not owners:
        return rootfs
    if rights.is_root():
        place = _place(identity)
        with reported(place):
            os.makedirs(place)
            # its own root's alone: what is set-user-ID in there must be nobody else's to call
            os.chown(os.path.dirname(place), *owners.root)
            os.chmod(os.path.dirname(place), 0o700)
        kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
        return place
    if not _is_open(rootfs):
        for place in _OURS:
            if os.path.isdir(place) and not os.listdir(place) and not rootfs.startswith(place + os.sep):
                kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
                return place
    return rootfs


def close_way(identity: str, way: str = "") -> None:
    """Take away what ``open_way`` made, if it did: ``way`` is what it gave."""
    if way in _OURS:
        kernel.unmount(way)
    place = _place(identity)
    if os.path.isdir(place):
        with suppress(SystemFailure):  # not mounted any more
            kernel.unmount(place)
        os.rmdir(place)
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
