"""Which views of a union this machine has for this user, tried for real in a directory; one line for each refusal."""

from __future__ import annotations

import os
import tempfile

from lamina import rights
from lamina.errors import LaminaError, SystemFailure
from lamina.files import reported
from lamina.view import kernel


def probe(directory: str) -> dict[str, str]:
    """View to "" (it works), or why not. ``directory``: of the store, for which it is asked. A plain user's are tried
    in a user namespace."""

    def tried() -> dict[str, str]:
        erofs = _refusal(_erofs, directory) if rights.is_root() else "only the machine's root may mount it"
        return {"erofs": erofs, "overlay": _refusal(_overlay, directory)}

    try:
        found: dict[str, str] = rights.as_root(tried)
    except LaminaError as error:
        return dict.fromkeys(("erofs", "overlay"), f"{error.message} ({error.hint})")
    return found


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
