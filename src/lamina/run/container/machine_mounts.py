"""The mounts of a machine: what it shares with this host, and what is mounted where inside it."""

from __future__ import annotations

import os
import posixpath
from contextlib import ExitStack
from stat import S_IMODE

from lamina.errors import NotFound, Unsupported
from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.shares import PROGRAMS, Shared
from lamina.run.options import PROPAGATIONS
from lamina.run.runtime import find_program
from lamina.run.spec import tmpfs_options
from lamina.store.fault import point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.run.container.preparing import Preparation
    from lamina.run.options import Mount
    from lamina.view.path import ImagePath

_NOT_THE_KERNELS = ("tmpcopyup", "notmpcopyup", *PROPAGATIONS)
_FLAGS = ("nosuid", "nodev", "noexec")
_DEFAULT_MODE = "1777"
_MOST_LINKS = 40  # as the kernel follows


class Mounts(Value):
    """``mounts``: what, type, options and target, as ``initramfs.Settings`` has them. ``virtiofsd``: its path, "" if
    nothing is shared. ``missing``: mount points, and directories on their way, that the image lacks. ``attached``:
    the mounts as a runtime would get them."""

    shared: tuple[Shared, ...] = ()
    mounts: tuple[tuple[str, str, str, str], ...] = ()
    virtiofsd: str = ""
    missing: tuple[str, ...] = ()
    attached: tuple[Mount, ...] = ()


def mounts_for(made: Preparation, root: ImagePath) -> Mounts:
    """Raises NotFound, Unsupported, SystemFailure."""
    if not made.wanted.mounts:
        return Mounts()
    for mount in made.wanted.mounts:
        if mount.kind != "tmpfs" and mount.propagation.removeprefix("r") != "private":
            raise Unsupported(
                f"a virtual machine has no mount with the propagation {mount.propagation}", hint="leave it out"
            )
    found = sorted(_attached(made), key=lambda mount: posixpath.normpath(mount.target).count("/"))
    shared: list[Shared] = []
    mounts, missing = [], []
    for mount in found:
        if mount.kind == "tmpfs":
            mounts.append(("tmpfs", "tmpfs", _tmpfs_text(mount.options, root, mount.target), mount.target))
            missing += missing_in(root, mount.target)
            continue
        name, alone = str(len(shared)), "bind" in mount.options
        shared.append(Shared(os.path.abspath(mount.source), name, mount.read_only, alone))
        words = ["ro" if mount.read_only else "rw", *(word for word in _FLAGS if word in mount.options)]
        mounts.append((name, "shared", ",".join(words), mount.target))
        missing += missing_in(root, mount.target, file=not os.path.isdir(mount.source))
    virtiofsd = _virtiofsd() if shared else ""
    return Mounts(tuple(shared), tuple(mounts), virtiofsd, tuple(missing), tuple(found))


def _attached(made: Preparation) -> Sequence[Mount]:
    from lamina.run.rootfs import Inside
    from lamina.run.volumes.attach import attached
    from lamina.view import kernel
    from lamina.view.overlay.lower import sweep
    from lamina.view.overlay.mount import mount_union

    wanted, rootfs = made.wanted.mounts, made.sandbox.directories.rootfs
    with ExitStack() as ends:
        inside = Inside(rootfs)
        if any(mount.kind == "volume" for mount in wanted):  # new ones get the image's files
            ends.callback(sweep, made.store)
            mount_union(made.store, made.stack, rootfs)
            ends.callback(kernel.unmount, rootfs)
            point("machine.mounted")
            ends.enter_context(inside)
        return attached(made.store, made.container, wanted, inside, made.wanted.view)


def _tmpfs_text(given: Sequence[str], root: ImagePath, target: str) -> str:
    """With docker's defaults. A tmpfs over a directory of the image has the directory's mode."""
    options = [word for word in tmpfs_options(given) if word not in _NOT_THE_KERNELS]
    if not any(word.startswith("mode=") for word in options):
        place = root / posixpath.normpath(target).lstrip("/")
        options.append(f"mode={S_IMODE(place.stat().st_mode):o}" if place.is_dir() else f"mode={_DEFAULT_MODE}")
    if "tmpcopyup" in given:
        options.append("tmpcopyup")  # machine.sh does it
    return ",".join(options)


def missing_in(root: ImagePath, target: str, *, file: bool = False) -> list[str]:
    """The mount point, if the image lacks it, and the directories on its way. ``file``: it is not a directory."""
    found = []
    path = _real(root, target)
    if file and (root / path.lstrip("/")).exists():
        return []
    while path != "/" and not (root / path.lstrip("/")).is_dir():
        found.append(path)
        path = posixpath.dirname(path)
    return found


def _real(root: ImagePath, target: str) -> str:
    """The path without symlinks, as `real` of program.sh finds it: what they lead to may be missing."""
    at: list[str] = []
    rest, links = target.split("/"), 0
    while rest:
        one = rest.pop(0)
        if one == "..":
            at = at[:-1]
        elif one not in ("", "."):
            at.append(one)
            place = root / "/".join(at)
            if links < _MOST_LINKS and place.is_symlink():
                links += 1
                link = place.readlink()
                at = [] if link.startswith("/") else at[:-1]
                rest = [*link.split("/"), *rest]
    return "/" + "/".join(at)


def _virtiofsd() -> str:
    found = next(filter(None, map(find_program, PROGRAMS)), "")
    if not found:
        raise NotFound("virtiofsd is not installed", hint="install it (Debian: virtiofsd, or qemu-system-common)")
    return found
