"""Which views of a union this machine has for this user, tried for real in a directory; one line for each refusal."""

from __future__ import annotations

import os
import tempfile

from lamina.errors import LaminaError, SystemFailure
from lamina.files import reported
from lamina.view import kernel
from lamina.view.mount import check_rights


def probe(directory: str) -> dict[str, str]:
    """View to "" (it works), or why not. ``directory``: of the store, for which it is asked."""
    through_fuse = {"fuse": _refusal(_fuse, directory)}
    try:
        check_rights()
    except LaminaError as error:
        return dict.fromkeys(("erofs", "overlay"), error.message) | through_fuse
    return {"erofs": _refusal(_erofs, directory), "overlay": _refusal(_overlay, directory)} | through_fuse


def _refusal(attempt: object, directory: str) -> str:
    try:
        with reported(directory), tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as scratch:
            attempt(scratch)  # type: ignore[operator]
    except LaminaError as error:
        return error.message
    return ""


def _erofs(scratch: str) -> None:
    from lamina.layer.index import IndexBuilder
    from lamina.union.merge import merge
    from lamina.view.erofs import write_erofs

    tar, image, target = (os.path.join(scratch, name) for name in ("tar", "image", "mnt"))
    tree = merge([IndexBuilder().finish(1024)])
    for path, data in ((tar, bytes(1024)), (image, write_erofs(tree))):
        with open(path, "wb") as file:
            file.write(data)
    os.mkdir(target)
    kernel.mount("erofs", [("source", image), ("device", tar)], target)
    kernel.unmount(target)


def _fuse(scratch: str) -> None:
    from lamina.layer.index import IndexBuilder
    from lamina.union.merge import merge
    from lamina.view import fuse

    target = os.path.join(scratch, "mnt")
    os.mkdir(target)
    fuse.serve(merge([IndexBuilder().finish(1024)]), (), target)
    try:
        os.listdir(target)
    finally:
        fuse.unmount(target)


def _overlay(scratch: str) -> None:
    paths = {name: os.path.join(scratch, name) for name in ("lower", "upper", "work", "mnt")}
    for path in paths.values():
        os.mkdir(path)
    options = [("lowerdir+", paths["lower"]), ("upperdir", paths["upper"]), ("workdir", paths["work"])]
    kernel.mount("overlay", options, paths["mnt"], attributes=0)
    try:
        # what whiteouts and opaque directories are made of
        os.setxattr(paths["upper"], "trusted.overlay.opaque", b"n")
    except OSError as error:
        raise SystemFailure(f"its file system keeps no trusted xattrs: {error.strerror}") from None
    finally:
        kernel.unmount(paths["mnt"])
