"""The union as a directory on disk.

Everything is made through directory descriptors inside one new directory, without following any link, and the
directory gets its name only when it is complete. Order: owner, mode, xattrs, times; directories' own modes and
times last.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import Any

from lamina import rights
from lamina.errors import Conflict, UsageError
from lamina.events import Cancel
from lamina.files import failure, reported, write_all
from lamina.layer.entry import Entry, Kind
from lamina.source import Stack, Stream
from lamina.union.tree import Tree

_CHUNK = 1 << 20
_MAX_WARNINGS = 100
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass
class UnpackReport:
    """``size`` in bytes of content written."""

    entries: int = 0
    size: int = 0
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)


def unpack(
    stack: Stack, target: bytes, *, same_owner: bool | None = None, cancel: Cancel | None = None
) -> UnpackReport:
    """Write the union into ``target``, which must be new or an empty directory. ``same_owner``: give files the
    owners that the image states (default: where this process may).

    What this user or file system can't make (devices, owners, some xattrs) is left out with a warning. Raises
    Conflict, SystemFailure, InvalidContent; nothing is left then.
    """
    return unpack_tree(stack.tree(), stack.open_content, target, same_owner=same_owner, cancel=cancel)


def unpack_tree(
    tree: Tree,
    open_content: Callable[[int, int], Stream],
    target: bytes,
    *,
    opaque: Container[int] = (),
    same_owner: bool | None = None,
    cancel: Cancel | None = None,
) -> UnpackReport:
    """As ``unpack``, of any tree. ``open_content`` gives the file in (layer from 0, row). For a layer below an
    overlay: nodes of Kind.WHITEOUT become its whiteouts, ``opaque`` directories are marked."""
    if os.open not in os.supports_dir_fd:
        raise UsageError("this platform can't unpack safely", hint="look into the image with ls, cat and the fs view")
    target = os.path.abspath(target)
    if os.path.lexists(target) and (os.path.islink(target) or not os.path.isdir(target) or os.listdir(target)):
        raise Conflict(f"{os.fsdecode(target)!r:.300} is there and no empty directory", hint="choose a new one")
    root = rights.may_mount()
    temporary = target + b".%d.lamina-tmp" % os.getpid()
    with reported(target):
        os.mkdir(temporary, 0o700)
    try:
        job = _Unpack(tree, open_content, opaque, same_owner if same_owner is not None else root, root, cancel)
        with reported(target):
            job.run(temporary)
            if os.path.isdir(target):
                os.rmdir(target)
            os.rename(temporary, target)
    except BaseException:
        remove_tree(temporary)
        raise
    return job.report


class _Unpack:
    def __init__(
        self,
        tree: Tree,
        open_content: Callable[[int, int], Stream],
        opaque: Container[int],
        same_owner: bool,
        root: bool,
        cancel: Cancel | None,
    ) -> None:
        self.tree = tree
        self.open_content = open_content
        self.opaque = opaque
        self.same_owner = same_owner
        self.root = root
        self.cancel = cancel
        self.report = UnpackReport()

    def run(self, top: bytes) -> None:
        tree = self.tree
        first: dict[int, bytes] = {}  # inode -> path that was written
        files: list[tuple[int, int, int, bytes]] = []  # layer, offset, node, path: read each tar front to back
        directories: list[tuple[bytes, Entry]] = []
        with _Directories(top) as opened:
            for node in tree.walk():
                path = tree.path(node)
                if tree.is_directory(node):
                    if node:
                        name = self._free_name(opened, path)
                        if name is None:
                            continue
                        os.mkdir(name, 0o700, dir_fd=opened.parent(path))
                    directories.append((path, self._directory(node)))
                    self.report.entries += 1
                elif tree.kind(node) == Kind.FILE:
                    layer, row = tree.content(node)
                    files.append((layer, tree.layers[layer].offset[row], node, path))
                else:
                    self._special(opened, node, path, first)
            for _, _, node, path in sorted(files):
                if self.cancel is not None:
                    self.cancel.check()
                self._file(opened, node, path, first)
            for path, entry in reversed(directories):
                self._finish_directory(opened, path, entry)

    def _directory(self, node: int) -> Entry:
        entry = self.tree.entry(node)
        if node not in self.opaque:
            return entry
        prefix = b"trusted" if rights.is_root() else b"user"
        return replace(entry, xattrs={**entry.xattrs, prefix + b".overlay.opaque": b"y"})

    def _free_name(self, opened: _Directories, path: bytes) -> bytes | None:
        """The base name, or None where the file system takes it for one that is there (case-insensitive)."""
        name = path.rpartition(b"/")[2]
        try:
            os.stat(name, dir_fd=opened.parent(path), follow_symlinks=False)
        except FileNotFoundError:
            return name
        self.report.warn(f"{_text(path)}: the file system takes it for another name that is there; left out")
        return None

    def _file(self, opened: _Directories, node: int, path: bytes, first: dict[int, bytes]) -> None:
        inode = self.tree.inode(node)
        directory, name = opened.parent(path), path.rpartition(b"/")[2]
        self.report.entries += 1
        known = first.get(inode)
        if known is not None:
            self._link(opened, known, path)
            return
        entry = self.tree.entry(node)
        try:
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            self.report.warn(f"{_text(path)}: the file system takes it for another name that is there; left out")
            return
        try:
            with self.open_content(*self.tree.content(node)) as stream:
                self._content(descriptor, stream, entry)
            self._attributes(descriptor, path, entry)
        finally:
            os.close(descriptor)
        first[inode] = path
        self.report.size += entry.size

    def _content(self, descriptor: int, stream: Stream, entry: Entry) -> None:
        if entry.sparse is None:
            while data := stream.read(_CHUNK):
                write_all(descriptor, data)
            return
        while data := stream.read(_CHUNK):
            if data.count(0) == len(data):
                os.lseek(descriptor, len(data), os.SEEK_CUR)
            else:
                write_all(descriptor, data)
        os.ftruncate(descriptor, entry.size)

    def _special(self, opened: _Directories, node: int, path: bytes, first: dict[int, bytes]) -> None:
        entry = self.tree.entry(node)
        directory, name = opened.parent(path), path.rpartition(b"/")[2]
        known = first.get(self.tree.inode(node))
        if known is not None:
            self._link(opened, known, path)
            self.report.entries += 1
            return
        if entry.kind == Kind.WHITEOUT:
            os.mknod(name, 0o020000, 0, dir_fd=directory)
            return
        if entry.kind in (Kind.CHAR, Kind.BLOCK) and not self.root:
            self.report.warn(f"{_text(path)}: only root makes devices; left out")
            return
        try:
            if entry.kind == Kind.SYMLINK:
                os.symlink(entry.link, name, dir_fd=directory)
            elif entry.kind == Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=directory)
            else:
                kind = 0o020000 if entry.kind == Kind.CHAR else 0o060000
                os.mknod(name, kind | 0o600, os.makedev(*entry.rdev), dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOTSUP):
                self.report.warn(f"{_text(path)}: {error.strerror}; left out")
                return
            raise failure(error, path) from error
        if self.same_owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind != Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=directory)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=directory, follow_symlinks=False)
        first[self.tree.inode(node)] = path
        self.report.entries += 1

    def _link(self, opened: _Directories, known: bytes, path: bytes) -> None:
        """Another name for what was written at ``known``. Two descriptors at once: the first is duplicated."""
        source = os.dup(opened.parent(known))
        try:
            os.link(
                known.rpartition(b"/")[2],
                path.rpartition(b"/")[2],
                src_dir_fd=source,
                dst_dir_fd=opened.parent(path),
                follow_symlinks=False,
            )
        finally:
            os.close(source)

    def _attributes(self, descriptor: int, path: bytes, entry: Entry) -> None:
        """chown clears setuid bits and capabilities, so: owner, mode, xattrs, times."""
        if self.same_owner:
            try:
                os.fchown(descriptor, entry.uid, entry.gid)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
                self.report.warn(f"{_text(path)}: can't be given to {entry.uid}:{entry.gid}")
        os.fchmod(descriptor, entry.mode)
        for name, value in entry.xattrs.items():
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EINVAL):
                    raise
                self.report.warn(f"{_text(path)}: the xattr {_text(name)} can't be set")
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))

    def _finish_directory(self, opened: _Directories, path: bytes, entry: Entry) -> None:
        descriptor = opened.directory(path)
        self._attributes(descriptor, path, entry)


class _Directories:
    """Descriptors of directories below ``top``, opened component by component without following links; the last
    chain is kept open."""

    def __init__(self, top: bytes) -> None:
        self.top = top
        self._chain: list[tuple[bytes, int]] = []

    def __enter__(self) -> _Directories:
        self._chain = [(b"", os.open(self.top, _DIRECTORY))]
        return self

    def __exit__(self, *error: object) -> None:
        for _, opened in self._chain:
            os.close(opened)
        self._chain = []

    def parent(self, path: bytes) -> int:
        return self.directory(path.rpartition(b"/")[0])

    def directory(self, path: bytes) -> int:
        parts = path.split(b"/") if path else []
        keep = 0
        while keep < len(parts) and keep + 1 < len(self._chain) and self._chain[keep + 1][0] == parts[keep]:
            keep += 1
        while len(self._chain) > keep + 1:
            os.close(self._chain.pop()[1])
        for name in parts[keep:]:
            self._chain.append((name, os.open(name, _DIRECTORY, dir_fd=self._chain[-1][1])))
        return self._chain[-1][1]


def remove_tree(top: bytes) -> None:
    """Remove a directory that we made, also where its directories have lost their rights."""
    import shutil

    def allow(function: Callable[..., Any], path: Any, error: object) -> None:
        try:
            os.chmod(os.path.dirname(path), 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
            function(path)
        except OSError:
            pass  # what can't go stays; the first error is the one to tell

    shutil.rmtree(top, onerror=allow)


def _text(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")[:300]
