"""Tests whether a file system can hold the upper directory of an overlay, with its whiteouts (Linux).

overlayfs itself can't: on it, as in most containers, the kernel accepts no upper directory and no whiteouts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial

from lamina.errors import LaminaError, SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.view import kernel

_KNOWN_GOOD = (0xEF53, 0x58465342, 0x9123683E)  # ext4, XFS, btrfs (f_type of statfs(2)): no test is needed


@cache
def refusal(directory: str) -> str:
    """Return why ``directory`` can't hold an upper directory; "" if it can. For root, of the host or of a
    namespace. Raises SystemFailure if it can't be tested."""
    if kernel.kind_of(directory) in _KNOWN_GOOD:
        return ""
    return try_overlay(directory)


def try_overlay(directory: str, *, writable: bool = True) -> str:
    """Return why no overlay can be mounted in the directory, by trying; "" if it can. With ``writable`` False, a
    read-only one."""
    return failure_of(partial(_overlay, writable=writable), directory)


def failure_of(work: Callable[[str], object], directory: str) -> str:
    """Return why ``work`` fails in a temporary directory below ``directory``; "" if it works."""
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
        if writable:  # overlayfs needs them for whiteouts and opaque directories
            os.setxattr(paths["upper"], f"{kind}.overlay.opaque", b"n")
    except OSError as error:
        raise SystemFailure(f"its file system keeps no {kind} xattrs: {error.strerror}") from None
    finally:
        kernel.unmount(paths["mnt"])
