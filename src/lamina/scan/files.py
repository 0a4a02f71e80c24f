"""Trees of files that ``scan`` reads: directories of this host, and what else has names and attributes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from lamina.errors import UsageError
from lamina.host.files import failure, reported
from lamina.layer.tar_write import Readable

_LEFT_OUT = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"system.nfs4_acl")
OPAQUE = (b"trusted.overlay.opaque", b"user.overlay.opaque")
"""The extended attributes by which an overlay marks a directory as opaque, with the value ``y``."""


class FileState(NamedTuple):
    """``mode`` has the format bits (``stat.S_IFREG``...). ``mtime``: nanoseconds. ``identity``: equal for the names
    of one file. ``device``: major and minor number of a device."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    identity: tuple[int, int]
    device: tuple[int, int]


class Files(Protocol):
    """A tree of files. Paths are relative to its root, which is ``b""``. All methods raise SystemFailure, or
    InvalidContent where the tree is not this host's."""

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, in any order."""
        ...

    def state(self, path: bytes) -> FileState: ...

    def link(self, path: bytes) -> bytes:
        """The target of a symlink."""
        ...

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        """The extended attributes that belong into a layer (``belongs``)."""
        ...

    def is_opaque(self, path: bytes) -> bool:
        """Whether an overlay hides what is below this directory."""
        ...

    def opener(self, path: bytes, state: FileState) -> Callable[[], Readable]:
        """A function that opens a regular file, whose state was ``state``."""
        ...

    def shown(self, path: bytes) -> str:
        """The path in messages."""
        ...


def belongs(name: bytes) -> bool:
    """Whether an extended attribute belongs into a layer: those of overlays and of this host's policies do not."""
    return not name.startswith(_LEFT_OUT)


class HostFiles:
    """The files below a directory of this host. No symlink is followed."""

    def __init__(self, top: str | bytes) -> None:
        self._top = os.fsencode(top)

    def _path(self, path: bytes) -> bytes:
        return os.path.join(self._top, path) if path else self._top

    def names(self, path: bytes) -> list[bytes]:
        with reported(self._path(path)):
            return os.listdir(self._path(path))

    def state(self, path: bytes) -> FileState:
        with reported(self._path(path)):
            return host_state(os.lstat(self._path(path)))

    def link(self, path: bytes) -> bytes:
        with reported(self._path(path)):
            return os.readlink(self._path(path))

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        return host_xattrs(self._path(path))

    def is_opaque(self, path: bytes) -> bool:
        for name in OPAQUE:
            try:
                if os.getxattr(self._path(path), name, follow_symlinks=False) == b"y":
                    return True
            except OSError as error:
                import errno

                if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                    raise failure(error, self._path(path)) from error
        return False

    def opener(self, path: bytes, state: FileState) -> Callable[[], Readable]:
        return host_opener(self._path(path), state)

    def shown(self, path: bytes) -> str:
        return os.fsdecode(self._path(path))


def host_state(state: os.stat_result) -> FileState:
    is_device = stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)
    return FileState(
        state.st_mode,
        state.st_uid,
        state.st_gid,
        state.st_size,
        state.st_mtime_ns,
        state.st_nlink,
        (state.st_dev, state.st_ino),
        (os.major(state.st_rdev), os.minor(state.st_rdev)) if is_device else (0, 0),
    )


def host_xattrs(path: bytes) -> dict[bytes, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    try:
        names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
    except OSError:
        return {}  # the file system has no xattrs
    found = {}
    for name in names:
        if belongs(name):
            try:
                found[name] = os.getxattr(path, name, follow_symlinks=False)
            except OSError:
                continue  # this user may not read it
    return found


def host_opener(path: bytes, seen: FileState) -> Callable[[], Readable]:
    def opened() -> Readable:
        with reported(path):
            flags = (
                os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            )
            file = os.fdopen(os.open(path, flags), "rb")
        state = os.fstat(file.fileno())
        if (state.st_dev, state.st_ino) != seen.identity:
            file.close()
            raise UsageError(
                f"{os.fsdecode(path)!r:.200} changed while it was read", hint="try again when nothing writes to it"
            )
        return file

    return opened
