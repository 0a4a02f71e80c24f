"""Which views of a union this machine has for this user, tried for real in a directory; one line for each refusal."""

from __future__ import annotations

import os
import tempfile
from functools import partial

from lamina import rights
from lamina.errors import LaminaError
from lamina.files import reported
from lamina.view import kernel
from lamina.view.attach import FILES, LOOPS, mount_erofs
from lamina.view.upper import attempt


def probe(directory: str) -> dict[str, str]:
    """View to "" (it works), or why not; "erofs-loop" is the erofs view from loop devices, which is taken where the
    files themselves are refused; "upper" whether the store can hold what containers
    write. ``directory``: of the store, for which it is asked. A plain user's are tried in a user namespace, but for
    FUSE."""

    def tried() -> dict[str, str]:
        ways = {"erofs": FILES, "erofs-loop": LOOPS}
        if rights.is_root():
            found = {name: _refusal(partial(_erofs, source=source), directory) for name, source in ways.items()}
        else:
            found = dict.fromkeys(ways, "only the machine's root may mount it")
        writable = attempt(directory)
        # without the marks of layers upon layers, one tree of all of them is shown
        return {**found, "overlay": writable and attempt(directory, writable=False), "upper": writable}

    try:
        found: dict[str, str] = rights.as_root(tried)
    except LaminaError as error:
        found = dict.fromkeys(("erofs", "erofs-loop", "overlay", "upper"), f"{error.message} ({error.hint})")
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
