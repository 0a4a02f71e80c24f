"""Files into and out of a container's root file system, by directory descriptors: no link is followed on the way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, NotFound, UsageError
from lamina.files import failure, reported, sync_directory, write_all
from lamina.run.inside import Inside

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
Owner = tuple[int, int] | None
MAX_DEPTH = 2000


def copy_out(inside: Inside, path: str, target: str, *, content_only: bool = False, lasting: bool = False) -> None:
    """Copy ``path`` of the container to ``target`` of this machine, as cp does: into it where it is a directory,
    else with this name. It is the caller's then. ``content_only``: what is in the directory ``path``, owners kept (a
    new volume); ``lasting``: and it is on the disk before this returns. Raises NotFound, Conflict, SystemFailure."""
    if content_only:
        with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as source, _directory(target) as there:
            _copy_below(source, there, None)
            _attributes(os.fstat(source), there, None)
        if lasting:
            _sync(target)
        return
    if path.endswith("/."):
        with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as source:
            with reported(target), suppress(FileExistsError):
                os.mkdir(target)
            with _directory(target) as there:
                _copy_below(source, there, (os.geteuid(), os.getegid()))
        return
    with inside.parent(path) as (above, name):
        into, new = (target, name) if os.path.isdir(target) else (os.path.dirname(target) or ".", target)
        with _directory(into) as there:
            _copy(above, name, there, os.path.basename(new), (os.geteuid(), os.getegid()))


def _sync(directory: str) -> None:
    """Wait until a new tree is on the disk: file by file, as the file system may be busy with what is not ours."""
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                descriptor = os.open(path, _READ)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_directory(where)


def copy_in(source: str, inside: Inside, path: str, *, owner: tuple[int, int] = (0, 0)) -> None:
    """Copy ``source`` of this machine to ``path`` of the container, for ``owner``. Raises as above."""
    content_only = source.endswith("/.") and os.path.isdir(source)
    try:
        descriptor = inside.open(path, os.O_PATH)
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
    except OSError:
        is_directory = False
        if path.endswith("/"):
            raise NotFound(f"no directory {path!r:.200} in the container") from None
    source = source.rstrip("/") or "/"
    if os.path.basename(source) in ("", ".", ".."):
        with reported(source):
            source = os.path.realpath(source)  # its own name is that of the copy
    if content_only:
        if not is_directory:
            inside.make(path, directory=True, owner=owner)
        with _directory(source) as above, _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as there:
            _copy_below(above, there, owner)
        return
    if not os.path.lexists(source):
        raise NotFound(f"no {source!r:.200}", hint="check the path")
    name = os.path.basename(source)
    with _directory(os.path.dirname(source) or ".") as above:
        if is_directory:
            with _opened(inside, path, os.O_RDONLY | os.O_DIRECTORY) as there:
                _copy(above, name, there, name, owner)
            return
        with inside.parent(path) as (there, new):
            _copy(above, name, there, new, owner)


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


def _copy_below(source: int, target: int, owner: Owner, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise UsageError(f"directories are nested more than {MAX_DEPTH} deep")
    for name in sorted(os.listdir(source)):
        _copy(source, name, target, name, owner, depth)


def _copy(source: int, name: str, target: int, new: str, owner: Owner, depth: int = 0) -> None:
    with reported(name):
        try:
            state = os.lstat(name, dir_fd=source)
        except FileNotFoundError:
            raise NotFound(f"no {name!r:.200} to copy", hint="check the path") from None
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFDIR:
            _copy_directory(source, name, target, new, owner, depth, state)
        elif kind == stat.S_IFREG:
            _copy_file(source, name, target, new, owner, state)
        elif kind == stat.S_IFLNK:
            _clear(target, new)
            os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
            os.chown(new, *(owner or (state.st_uid, state.st_gid)), dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            _clear(target, new)
            os.mkfifo(new, state.st_mode & 0o777, dir_fd=target)
        else:
            raise UsageError(f"{name!r:.200} is a device or a socket", hint="only files, directories and links go")


def _copy_directory(
    source: int, name: str, target: int, new: str, owner: Owner, depth: int, state: os.stat_result
) -> None:
    try:
        os.mkdir(new, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(new, dir_fd=target).st_mode):
            raise Conflict(f"{new!r:.200} is there and no directory", hint="remove it first") from None
    below, there = os.open(name, _DIRECTORY, dir_fd=source), os.open(new, _DIRECTORY, dir_fd=target)
    try:
        _copy_below(below, there, owner, depth + 1)
        _attributes(state, there, owner)
    finally:
        os.close(below)
        os.close(there)


def _copy_file(source: int, name: str, target: int, new: str, owner: Owner, state: os.stat_result) -> None:
    _clear(target, new)
    read = os.open(name, _READ, dir_fd=source)
    try:
        written = os.open(new, _WRITE, 0o600, dir_fd=target)
        try:
            while data := os.read(read, _CHUNK):
                write_all(written, data)
            _attributes(state, written, owner)
        finally:
            os.close(written)
    finally:
        os.close(read)


def _clear(target: int, name: str) -> None:
    """Away with what a file or link replaces: never written through."""
    try:
        state = os.lstat(name, dir_fd=target)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(state.st_mode):
        raise Conflict(f"{name!r:.200} is a directory there", hint="remove it first")
    os.unlink(name, dir_fd=target)


def _attributes(state: os.stat_result, descriptor: int, owner: Owner) -> None:
    """What runs as its owner does so only for the owner that it had."""
    if os.geteuid() == 0:
        os.fchown(descriptor, *(owner or (state.st_uid, state.st_gid)))
    os.fchmod(descriptor, state.st_mode & (0o7777 if owner is None else 0o1777))
    os.utime(descriptor, ns=(state.st_atime_ns, state.st_mtime_ns))
