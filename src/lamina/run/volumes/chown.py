"""The option U of a mount: its source with everything in it is given to the user of the container."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping

from lamina.errors import Conflict, UsageError
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING
from lamina.run.file_copy import DIRECTORY, MAX_DEPTH
from lamina.view.owners import Owners

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.options import Mount

_SYSTEM = (
    *("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc", "root"),
    *("run", "sbin", "srv", "sys", "tmp", "usr", "var"),
    *("etc/passwd", "etc/shadow", "etc/ssh", "usr/bin", "usr/lib", "usr/lib64", "usr/local", "usr/sbin", "usr/share"),
    *("var/cache", "var/lib", "var/log", "var/run", "var/spool", "var/tmp"),
)


def check_chown(path: str) -> None:
    """Raises Conflict if giving this path of the host away would break the host. ``path``: without symlinks."""
    forbidden = {"/", *(os.path.join("/", name) for name in _SYSTEM), os.path.expanduser("~")}
    if path in forbidden or path.startswith(("/proc/", "/sys/", "/dev/")):
        raise Conflict(
            f"option U would give {path} of this host to the container's user", hint="mount a directory of your own"
        )


def give_to_user(mounts: Iterable[Mount], user: Mapping[str, Any], owners: Owners) -> None:
    """Do so for the mounts with option U. ``mounts``: with absolute sources. ``user``: of the runtime spec's process.
    ``owners``: the ids of the container. Raises Conflict, UsageError, SystemFailure."""
    wanted = [mount for mount in mounts if mount.kind == "bind" and "U" in mount.options]
    if not wanted:
        return
    uid, gid = owners.outside(user["uid"], user["gid"])
    if not (privileges.has_id(uid) and privileges.has_id(gid, group=True)):
        raise Conflict(
            f"option U: this user has no right to give files to the IDs {user['uid']}:{user['gid']}",
            hint="add lines to /etc/subuid and /etc/subgid, or leave U out",
        )
    for mount in wanted:
        check_chown(mount.source)
        with reported(mount.source):
            _give(mount.source, uid, gid)


def _give(path: str, uid: int, gid: int) -> None:
    """Change the owner of ``path`` and of everything below it. No symlink is followed, and other file systems that
    are mounted below are left alone."""
    opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        state = os.fstat(opened)
        if stat.S_ISDIR(state.st_mode):
            directory = os.open(path, DIRECTORY)
            try:
                _below(directory, uid, gid, state.st_dev, 0)
            finally:
                os.close(directory)
        if (state.st_uid, state.st_gid) != (uid, gid):
            os.chown(f"/proc/self/fd/{opened}", uid, gid)
    finally:
        os.close(opened)


def _below(directory: int, uid: int, gid: int, device: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UsageError(f"directories are nested more than {MAX_DEPTH} deep", hint="leave option U out")
    with os.scandir(directory) as found:
        names = [one.name for one in found]
    for name in names:
        try:
            state = os.lstat(name, dir_fd=directory)
            if state.st_dev != device:
                continue
            if stat.S_ISDIR(state.st_mode):
                below = os.open(name, DIRECTORY, dir_fd=directory)
                try:
                    if os.fstat(below).st_dev != device:
                        continue
                    _below(below, uid, gid, device, depth + 1)
                    if (state.st_uid, state.st_gid) != (uid, gid):
                        os.fchown(below, uid, gid)
                finally:
                    os.close(below)
            elif (state.st_uid, state.st_gid) != (uid, gid):
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # a program in another container has replaced it
        except OSError as error:
            if error.errno != errno.ELOOP:  # a symlink in the place of the directory
                raise
