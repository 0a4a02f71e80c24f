"""Copy files into and out of a container's root file system, by directory descriptors: no symlink on the way is
followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, NotFound, UsageError
from lamina.host.files import CHUNK, failure, reported, sync_directory, sync_files, write_all
from lamina.run.rootfs import Inside

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FURTHER = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
Owner = tuple[int, int] | None
MAX_DEPTH = 2000
_ATTEMPTS = 100
_ZEROS = bytes(CHUNK)
_FEW_FILES = 1000


def copy_out(
    inside: Inside,
    path: str,
    target: str,
    *,
    content_only: bool = False,
    lasting: bool = False,
    keep_owners: bool = False,
) -> None:
    """Copy ``path`` of the container to ``target`` of this host, as cp does: into it if it is a directory, else
    with this name. The caller owns the copy, unless ``keep_owners``. ``content_only``: copy the contents of the
    directory ``path``, and keep owners (for a new volume); ``lasting``: fsync them. Raises NotFound, Conflict,
    SystemFailure."""
    if content_only:
        with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as source, _directory(target) as there:
            _Copier(there, None, extended=True).below(source, there)
            _attributes(os.fstat(source), there, None, 0o7777, source)
        if lasting:
            _sync(target)
        return
    mine = None if keep_owners else (os.geteuid(), os.getegid())
    if path.endswith("/."):
        with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as source:
            with reported(target), suppress(FileExistsError):
                os.mkdir(target)
            with _directory(target) as there:
                _Copier(there, mine, bits=0o1777).below(source, there)
        return
    with inside.parent(path) as (above, name):
        try:
            os.lstat(name, dir_fd=above)
        except FileNotFoundError:
            raise NotFound(f"{path!r:.200} was not found in the container", hint="check the path") from None
        except OSError:
            pass  # the copier reports it
        into, new = (target, name) if os.path.isdir(target) else (os.path.dirname(target) or ".", target)
        with _directory(into) as there:
            _Copier(there, mine, bits=0o1777).one(above, name, there, os.path.basename(new))


def _sync(directory: str) -> None:
    """fsync a new tree, file by file if there are few: syncfs waits for others' writes too."""
    found = [(where, [os.path.join(where, name) for name in names]) for where, _, names in os.walk(directory)]
    if sum(len(paths) for _, paths in found) > _FEW_FILES:
        with reported(directory):
            sync_files(directory)
        return
    for where, paths in found:
        for path in paths:
            if stat.S_ISREG(os.lstat(path).st_mode):
                descriptor = os.open(path, _READ)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_directory(where)


def copy_in(source: str, inside: Inside, path: str, *, owner: Owner = (0, 0)) -> None:
    """Copy ``source`` of this host to ``path`` of the container, for ``owner``; None keeps the owners. Raises as
    above."""
    content_only = source.endswith("/.") and os.path.isdir(source)
    try:
        descriptor = inside.open(path, os.O_PATH)
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
    except OSError:
        is_directory = False
        if path.endswith("/"):
            raise NotFound(
                f"the directory {path!r:.200} was not found in the container", hint="create it first"
            ) from None
    source = source.rstrip("/") or "/"
    if os.path.basename(source) in ("", ".", ".."):
        with reported(source):
            source = os.path.realpath(source)  # the copy gets the name of the directory itself
    if content_only:
        if not is_directory:
            inside.make(path, directory=True, owner=owner or (0, 0))
        with _directory(source) as above, _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as there:
            _Copier(there, owner).below(above, there)
        return
    if not os.path.lexists(source):
        raise NotFound(f"{source!r:.200} was not found", hint="check the path")
    name = os.path.basename(source)
    with _directory(os.path.dirname(source) or ".") as above:
        if is_directory:
            with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as there:
                _Copier(there, owner).one(above, name, there, name)
            return
        with inside.parent(path) as (there, new):
            _Copier(there, owner).one(above, name, there, new)


@contextmanager
def _opened(inside: Inside, path: str, flags: int) -> Iterator[int]:
    try:
        descriptor = inside.open(path, flags)
    except OSError as error:
        raise NotFound(f"{path!r:.200} in the container: {error.strerror}", hint="see `lamina ls`") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _directory(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error, path) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Copier:
    """One copy of a tree. Hardlinks within it stay hardlinks."""

    def __init__(self, top: int, owner: Owner, *, bits: int = 0, extended: bool = False) -> None:
        """``top``: the directory that the copy is made in. ``owner``: of all files, None to keep each file's
        own. ``bits``: the bits of modes that are kept: a set-user-ID program must not become one of another user.
        ``extended``: with extended attributes."""
        self._top, self._owner = top, owner
        self._bits = bits or (0o7777 if owner is None else 0o1777)
        self._extended = extended
        self._first: dict[tuple[int, int], tuple[str, ...]] = {}

    def below(self, source: int, target: int, at: tuple[str, ...] = ()) -> None:
        """``at``: the path of ``target`` from the top."""
        if len(at) > MAX_DEPTH:
            raise UsageError(
                f"directories are nested more than {MAX_DEPTH} deep", hint="copy its subdirectories one by one"
            )
        for name in sorted(os.listdir(source)):
            self.one(source, name, target, name, at)

    def one(self, source: int, name: str, target: int, new: str, at: tuple[str, ...] = ()) -> None:
        with reported(name):
            try:
                state = os.lstat(name, dir_fd=source)
            except FileNotFoundError:
                raise NotFound(f"{name!r:.200} was not found", hint="check the path") from None
            kind = stat.S_IFMT(state.st_mode)
            if kind == stat.S_IFDIR:
                self._directory(source, name, target, new, at, state)
            elif kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO) and not self._extended:
                raise UsageError(
                    f"{name!r:.200} is a device or a socket", hint="copy files, directories and links only"
                )
            elif not self._linked(state, target, new, at):
                self._leaf(source, name, target, new, state)

    def _linked(self, state: os.stat_result, target: int, new: str, at: tuple[str, ...]) -> bool:
        """Link to the first copy of a file with several names, if there is one. Returns whether it did."""
        if state.st_nlink < 2:
            return False
        known = self._first.setdefault((state.st_dev, state.st_ino), (*at, new))
        if known == (*at, new):
            return False
        above = os.dup(self._top)
        try:
            for name in known[:-1]:
                above, left = os.open(name, DIRECTORY, dir_fd=above), above
                os.close(left)
            clear(target, new)
            os.link(known[-1], new, src_dir_fd=above, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(above)
        return True

    def _leaf(self, source: int, name: str, target: int, new: str, state: os.stat_result) -> None:
        if stat.S_ISREG(state.st_mode):
            self._file(source, name, target, new, state)
            return
        clear(target, new)
        if not stat.S_ISLNK(state.st_mode):
            self._node(target, new, state)
            return
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
        os.chown(new, *(self._owner or (state.st_uid, state.st_gid)), dir_fd=target, follow_symlinks=False)
        os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _node(self, target: int, new: str, state: os.stat_result) -> None:
        """Make a FIFO, a socket or a device. A plain user can make no devices: they are left out."""
        kind = stat.S_IFMT(state.st_mode)
        try:
            os.mknod(new, kind | 0o600, state.st_rdev, dir_fd=target)
        except PermissionError:
            if kind not in (stat.S_IFCHR, stat.S_IFBLK):
                raise
            return
        made = os.open(new, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            if stat.S_IFMT(os.fstat(made).st_mode) != kind:
                raise UsageError(f"{new!r:.200} was replaced meanwhile", hint="try again")
            path = f"/proc/self/fd/{made}"
            if os.geteuid() == 0:
                os.chown(path, *(self._owner or (state.st_uid, state.st_gid)))
            os.chmod(path, state.st_mode & self._bits)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        finally:
            os.close(made)

    def _directory(
        self, source: int, name: str, target: int, new: str, at: tuple[str, ...], state: os.stat_result
    ) -> None:
        make_directory(target, new)
        below, there = os.open(name, DIRECTORY, dir_fd=source), os.open(new, DIRECTORY, dir_fd=target)
        try:
            self.below(below, there, (*at, new))
            _attributes(state, there, self._owner, self._bits, below if self._extended else -1)
        finally:
            os.close(below)
            os.close(there)

    def _file(self, source: int, name: str, target: int, new: str, state: os.stat_result) -> None:
        read = open_file(name, source)
        try:
            written = new_file(new, target)
            try:
                _copy_data(read, written)
                _attributes(state, written, self._owner, self._bits, read if self._extended else -1)
            finally:
                os.close(written)
        finally:
            os.close(read)


def _copy_data(source: int, target: int) -> None:
    """Zeros are not written: the view of an image does not tell which files have holes, and they may be huge."""
    size = 0
    while data := os.read(source, CHUNK):
        size += len(data)
        if data == _ZEROS[: len(data)]:
            os.lseek(target, len(data), os.SEEK_CUR)
        else:
            write_all(target, data)
    os.ftruncate(target, size)


def open_file(name: str | bytes, directory: int) -> int:
    """A descriptor of a regular file, for reading. A program in the container may have put a device in its place
    since the listing. Raises OSError, UsageError."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"{name!r:.200} is not a file any more", hint="try again")
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def new_file(name: str, directory: int) -> int:
    """A descriptor of a new file in the place of what is there, for writing. Other files that a program in the
    container puts there meanwhile (a device, a hard link) are not written to. Raises OSError, Conflict."""
    for attempt in range(_ATTEMPTS):
        clear(directory, name)
        try:
            return os.open(name, _NEW, 0o600, dir_fd=directory)
        except FileExistsError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def make_directory(target: int, name: str) -> None:
    """Make a directory, if there is none. Raises Conflict if something else is there."""
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=target).st_mode):
            raise Conflict(f"{name!r:.200} exists and is not a directory", hint="remove it first") from None


def clear(target: int, name: str) -> None:
    """Remove the file or symlink that is to be replaced. Raises Conflict if it is a directory."""
    try:
        state = os.lstat(name, dir_fd=target)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(state.st_mode):
        raise Conflict(f"{name!r:.200} is a directory in the target", hint="remove it first")
    os.unlink(name, dir_fd=target)


def _attributes(state: os.stat_result, descriptor: int, owner: Owner, bits: int, source: int = -1) -> None:
    """``source``: a descriptor of the original, if its extended attributes are copied."""
    if os.geteuid() == 0:
        os.fchown(descriptor, *(owner or (state.st_uid, state.st_gid)))
    if source >= 0:
        _copy_extended(source, descriptor)
    os.fchmod(descriptor, state.st_mode & bits)
    os.utime(descriptor, ns=(state.st_atime_ns, state.st_mtime_ns))


def _copy_extended(source: int, target: int) -> None:
    """Copy the extended attributes that programs see, and file capabilities, as far as the target's file system takes
    them. ``source``, ``target``: descriptors."""
    try:
        names = os.listxattr(source)
    except OSError:
        return  # its file system has none
    for name in names:
        if name.startswith("user.") or name in _FURTHER:
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
