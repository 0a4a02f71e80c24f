"""Whether a file system can hold what is written to an overlay, its marks for what is hidden among it (Linux).

An overlay can't: there, as in a container, the kernel takes no upper directory, and lets nobody make whiteouts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial

from lamina.errors import LaminaError, SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.view import kernel

_SURE = (0xEF53, 0x58465342, 0x9123683E)  # ext4, XFS, btrfs (statfs(2)): nothing has to be tried


@cache
def refusal(directory: str) -> str:
    """Why an upper directory in ``directory`` does not do, or "". For root, of the machine or of a namespace. Raises
    SystemFailure where not even that can be tried."""
    if kernel.kind_of(directory) in _SURE:
        return ""
    return attempt(directory)


def attempt(directory: str, *, writable: bool = True) -> str:
    """Why no overlay can be mounted in there, or "": really tried. Not ``writable``: one to be read."""
    return tried(partial(_overlay, writable=writable), directory)


def tried(work: Callable[[str], object], directory: str) -> str:
    """Why ``work`` fails in a directory of its own below ``directory``, or ""."""
    import tempfile

    try:
        with reported(directory), tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as scratch:
            work(scratch)
    except LaminaError as error:
        return error.message
    return ""


def _overlay(scratch: str, writable: bool) -> None:
    paths = {name: os.path.join(scratch, name) for name in ("lower", "below", "upper", "work", "mnt")}
    for path in paths.values():
        os.mkdir(path)
    options: list[tuple[str, str | None]] = [("lowerdir+", paths["lower"]), ("lowerdir+", paths["below"])]
    if writable:
        options += [("upperdir", paths["upper"]), ("workdir", paths["work"])]
    kind = "trusted" if privileges.is_root() else "user"
    if kind == "user":
        options.append(("userxattr", None))
    kernel.mount("overlay", options, paths["mnt"], attributes=0)
    try:
        if writable:  # what whiteouts and opaque directories are made of
            os.setxattr(paths["upper"], f"{kind}.overlay.opaque", b"n")
    except OSError as error:
        raise SystemFailure(f"its file system keeps no {kind} xattrs: {error.strerror}") from None
    finally:
        kernel.unmount(paths["mnt"])
