"""A container's root file system: paths inside it, resolved as the container would, and a path to it for the root of
a user namespace.

No symlink and no ``..`` leads out of it (openat2 with RESOLVE_IN_ROOT, Linux 5.6 and later).

The root of a container's user namespace is an unprivileged user on the host. The store is closed to that user, and a
directory above the store may be too: ``make_reachable`` then mounts the root file system where that user can reach
it."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import NotFound, Unsupported
from lamina.host import privileges
from lamina.host.files import failure, reported
from lamina.host.libc import failed, libc
from lamina.view import kernel
from lamina.view.overlay.lower import COVERABLE, coverable_directory, unmount_quietly
from lamina.view.owners import Owners

_OPENAT2 = 437
_IN_ROOT, _NO_MAGICLINKS, _NO_SYMLINKS = 0x10, 0x02, 0x04
_MAX_FILE = 16 << 20
_MAX_LINKS = 40  # as in path_resolution(7)
_ATTEMPTS = 1000
"""The kernel gives up on a path with ``..`` (EAGAIN) if anything on the host was renamed or mounted meanwhile:
openat2(2) leaves it to the caller to try again."""
_WAYS = "/run/lamina-open"
_NOBODY = 65534  # the id that a namespace shows for ids that it does not map (proc_sys_kernel(5), overflowuid)


class Inside:
    """A root file system. Use it as a context manager."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._descriptor = -1

    def __enter__(self) -> Inside:
        try:
            self._descriptor = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(error, self.root) from error
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0, *, links: bool = True) -> int:
        """A descriptor of ``path``. Without ``links`` a symlink on the way is an error. Raises OSError,
        Unsupported (an old kernel)."""
        resolve = _IN_ROOT | _NO_MAGICLINKS | (0 if links else _NO_SYMLINKS)
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
        name = os.fsencode(path.lstrip("/") or ".")
        if b"\0" in name:  # the kernel would stop reading at it
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        for attempt in range(_ATTEMPTS):
            result: int = libc().syscall(
                ctypes.c_long(_OPENAT2),
                ctypes.c_long(self._descriptor),
                ctypes.c_char_p(name),
                ctypes.c_char_p(how),
                ctypes.c_long(len(how)),
            )
            if result >= 0:
                break
            refused = failed(path)
            if refused.errno == errno.ENOSYS:
                raise Unsupported("this kernel has no openat2", hint="use Linux 5.6 or later")
            if refused.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                raise refused
        return result

    def read(self, path: str) -> bytes:
        """The contents of a small file; b"" if it does not exist or is not a regular file."""
        try:
            descriptor = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return b""
        with open(descriptor, "rb", buffering=0) as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                return b""
            return file.read(min(state.st_size, _MAX_FILE))

    def program_head(self, path: str, size: int) -> bytes | None:
        """The first bytes of an executable file; None if there is none."""
        try:
            descriptor = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or not state.st_mode & 0o111:
                return None
            return os.read(descriptor, size)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def resolved(self, path: str, *, links: bool = True) -> str:
        """The path without symlinks, from the root. Without ``links`` a symlink is an error. Raises OSError (it
        does not exist; ELOOP: a symlink), Unsupported."""
        found = self.open(path, os.O_PATH, links=links)
        try:
            root, place = (os.readlink(f"/proc/self/fd/{one}") for one in (self._descriptor, found))
        finally:
            os.close(found)
        return place.removeprefix(root.rstrip("/")) or "/"

    def target(self, path: str) -> str:
        """The path with symlinks followed; an ending ``/.`` is kept. Raises NotFound."""
        try:
            return self.resolved(path) + ("/." if path.endswith("/.") else "")
        except OSError as error:
            raise NotFound(f"{path!r:.200} in the container: {error.strerror}", hint="check the path") from None

    def check_directory(self, path: str) -> None:
        """Raises NotFound if it is not a directory."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError as error:
            raise NotFound(
                f"the directory {path!r:.200} in the container: {error.strerror}", hint="check the path"
            ) from None

    def is_there(self, path: str) -> bool:
        try:
            os.close(self.open(path, os.O_PATH))
        except OSError:
            return False
        return True

    def place(self, path: str, covered: Iterable[str] = (), link: Callable[[str], str] | None = None) -> str:
        """Where ``path`` leads, without symlinks, from the root. Missing names, also behind a dangling symlink,
        are taken literally: they can be made there. ``covered``: mount points; the image's symlinks below them do
        not count. ``link``: returns the target of the symlink at a path without symlinks, "" if it is none
        (default: in this root). Raises OSError (ELOOP), Unsupported."""
        hidden = set(covered)
        link = link or self.link
        found: list[str] = []
        left = _names(path)[::-1]
        links = 0
        while left:
            name = left.pop()
            if name == "..":
                del found[-1:]
                continue
            target = "" if hidden and _is_below(found, hidden) else link("/".join([*found, name]))
            if not target:
                found.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                found.clear()
            left += _names(target)[::-1]
        return "/" + "/".join(found)

    def link(self, path: str) -> str:
        """The target of the symlink ``path``; "" if it is none or does not exist. No symlink may be on the way."""
        try:
            descriptor = self.open(path, os.O_PATH | os.O_NOFOLLOW, links=False)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        try:
            is_link = stat.S_ISLNK(os.fstat(descriptor).st_mode)
            return os.readlink("", dir_fd=descriptor) if is_link else ""
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that contains ``path``, and its last name. Raises NotFound."""
        above, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise NotFound(f"{path!r:.200} names no file", hint="end the path with the name of the file")
        try:
            descriptor = self.open(above, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise NotFound(
                f"the directory {above!r:.200} in the container: {error.strerror}", hint="check the path"
            ) from None
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def make(self, path: str, *, directory: bool, owner: tuple[int, int] = (0, 0), quiet: bool = False) -> list[str]:
        """Make ``path`` and the missing directories above it; symlinks on the way are followed. Returns what was
        made, outermost first. ``quiet``: the directory that gets the first of them keeps its times. Raises
        SystemFailure."""
        made: list[str] = []
        at = ""
        with reported(path):
            names = _names(self.place(path))
        for number, name in enumerate(names):
            above, at = at, f"{at}/{name}"
            if self.is_there(at):
                continue
            last = number == len(names) - 1
            try:
                opened = self.open(above or "/", os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise failure(error, at) from error
            try:
                before = os.fstat(opened)
                if directory or not last:
                    os.mkdir(name, 0o755, dir_fd=opened)
                else:
                    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=opened))
                if owner != (0, 0):
                    os.chown(name, *owner, dir_fd=opened, follow_symlinks=False)
                if quiet and not made:
                    os.utime(opened, ns=(before.st_atime_ns, before.st_mtime_ns))
            except OSError as error:
                raise failure(error, at) from error
            finally:
                os.close(opened)
            made.append(at)
        return made


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _is_below(names: list[str], places: set[str]) -> bool:
    """Whether the path of these names is one of the places, or below one."""
    return any("/" + "/".join(names[:end]) in places for end in range(1, len(names) + 1))


def make_reachable(identity: str, owners: Owners, rootfs: str) -> str:
    """Return a path at which the root of ``owners`` reaches what is mounted at ``rootfs``; mount it there if need be.
    Raises SystemFailure."""
    if not owners:
        return rootfs
    if privileges.is_root():
        place = _way(identity)
        with reported(place):
            os.makedirs(place)
            # only this namespace's root may enter: nobody else may call the set-user-ID programs in there
            os.chown(os.path.dirname(place), *owners.root)
            os.chmod(os.path.dirname(place), 0o700)
        kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
        return place
    place = "" if _is_open(rootfs) else coverable_directory(rootfs)
    if place:
        kernel.bind(rootfs, place, attributes=kernel.NO_DEVICES)
    return place or rootfs


def undo_reachable(identity: str, way: str = "") -> None:
    """Unmount and remove what ``make_reachable`` made, if it made anything. ``way``: what it returned, if that is
    known."""
    if way in COVERABLE:
        kernel.unmount(way)
    place = _way(identity)
    if os.path.isdir(place):
        unmount_quietly(place)
        os.rmdir(os.path.dirname(place))


def _way(identity: str) -> str:
    return os.path.join(_WAYS, identity, "rootfs")


def _is_open(path: str) -> bool:
    """Whether a process with all rights over this namespace's ids may search every directory above ``path``."""
    while path != os.sep:
        path = os.path.dirname(path)
        state = os.stat(path)
        if not state.st_mode & stat.S_IXOTH and _NOBODY in (state.st_uid, state.st_gid):
            return False
    return True
