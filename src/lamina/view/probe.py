"""Tests which views work on this host for this user, by mounting in a directory; one line for each refusal."""

from __future__ import annotations

import os
from functools import partial

from lamina.errors import LaminaError
from lamina.host import privileges
from lamina.view import kernel
from lamina.view.erofs.attach import FILES, LOOPS, mount_erofs
from lamina.view.upper_check import failure_of, try_overlay


def probe(directory: str) -> dict[str, str]:
    """Map each view to "" if it works, else to the reason. "erofs-loop" is the erofs view from loop devices, used
    where files can't be mounted directly; "upper" is whether the store can hold what containers write. ``directory``
    is in the store. For an unprivileged user, all but FUSE are tried in a user namespace."""

    def mounts() -> dict[str, str]:
        ways = {"erofs": FILES, "erofs-loop": LOOPS}
        if privileges.is_root():
            found = {name: failure_of(partial(_erofs, source=source), directory) for name, source in ways.items()}
        else:
            found = dict.fromkeys(ways, "only root of the host may mount it")
        writable = try_overlay(directory)
        # if layers can't be stacked, one tree of all of them is used
        return {**found, "overlay": writable and try_overlay(directory, writable=False), "upper": writable}

    try:
        found: dict[str, str] = privileges.as_root(mounts)
    except LaminaError as error:
        found = dict.fromkeys(("erofs", "erofs-loop", "overlay", "upper"), f"{error.message} ({error.hint})")
    return {**found, "fuse": failure_of(_fuse, directory)}


def _erofs(scratch: str, source: str) -> None:
    from lamina.layer.index import IndexBuilder
    from lamina.union.merge import merge
    from lamina.view.erofs.write import write_erofs

    tar, image, target = (os.path.join(scratch, name) for name in ("tar", "image", "mnt"))
    tree = merge([IndexBuilder().finish(1024)])
    for path, data in ((tar, bytes(1024)), (image, write_erofs(tree))):
        with open(path, "wb") as file:
            file.write(data)
    os.mkdir(target)
    mount_erofs(image, [tar], target, sources=[source])
    kernel.unmount(target)


def _fuse(scratch: str) -> None:
    from lamina.layer.index import IndexBuilder
    from lamina.union.merge import merge
    from lamina.view.fuse import fuse_mount

    target = os.path.join(scratch, "mnt")
    os.mkdir(target)
    fuse_mount.serve(merge([IndexBuilder().finish(1024)]), (), target)
    try:
        os.listdir(target)
    finally:
        fuse_mount.unmount(target)
