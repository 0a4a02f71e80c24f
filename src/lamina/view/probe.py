"""Which views of a union this machine has for this user, tried for real in a directory; one line for each refusal."""

from __future__ import annotations

import os
import tempfile
from functools import partial

from lamina import rights
from lamina.errors import LaminaError, SystemFailure
from lamina.files import reported
from lamina.view import kernel
from lamina.view.attach import FILES, LOOPS, mount_erofs


def probe(directory: str) -> dict[str, str]:
    """View to "" (it works), or why not; "erofs-loop" is the erofs view from loop devices, which is taken where the
    files themselves are refused. ``directory``: of the store, for which it is asked. A plain user's are tried in a
    user namespace, but for FUSE."""

    def tried() -> dict[str, str]:
        ways = {"erofs": FILES, "erofs-loop": LOOPS}
        if rights.is_root():
            found = {name: _refusal(partial(_erofs, source=source), directory) for name, source in ways.items()}
        else:
            found = dict.fromkeys(ways, "only the machine's root may mount it")
        return {**found, "overlay": _refusal(_overlay, directory)}

    try:
        found: dict[str, str] = rights.as_root(tried)
    except LaminaError as error:
        found = dict.fromkeys(("erofs", "erofs-loop", "overlay"), f"{error.message} ({error.hint})")
    return {**found, "fuse": _refusal(_fuse, directory)}


def _refusal(attempt: object, directory: str) -> str:
    try:
        with reported(directory), tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as scratch:
            attempt(scratch)  # type: ignore[operator]
    except LaminaError as error:
        return error.message
    return ""


def _erofs(scratch: str, source: str) -> None:
    from lamina.layer.index import IndexBuilder
    from lamina.union.merge import merge
    from lamina.view.erofs import write_erofs

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
    options: list[tuple[str, str | None]] = [("lowerdir+", paths["lower"])]
    options += [("upperdir", paths["upper"]), ("workdir", paths["work"])]
    kind = "trusted" if rights.is_root() else "user"
    if kind == "user":
        options.append(("userxattr", None))
    kernel.mount("overlay", options, paths["mnt"], attributes=0)
    try:
        # what whiteouts and opaque directories are made of
        os.setxattr(paths["upper"], f"{kind}.overlay.opaque", b"n")
    except OSError as error:
        raise SystemFailure(f"its file system keeps no {kind} xattrs: {error.strerror}") from None
    finally:
        kernel.unmount(paths["mnt"])
