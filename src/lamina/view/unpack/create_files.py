"""Creates everything but directories below existing directories: files, links, devices, and their attributes.

Attributes are set in the order owner, mode, xattrs, times, because a change of owner clears set-id bits and
capabilities. The attributes that a new file gets by default are probed once; only differing ones cost a system call.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lamina.layer.entry import Kind
from lamina.union.tree import UNSTATED
from lamina.view.owners import kept_mode

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.union.tree import Tree
    from lamina.view.owners import Owners
    from lamina.view.unpack.copy_content import ContentCopier
    from lamina.view.unpack.open_directories import OpenDirectories

_MAX_WARNINGS = 100
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE, _SYMLINK, _WHITEOUT = int(Kind.FILE), int(Kind.SYMLINK), int(Kind.WHITEOUT)
_CHAR, _BLOCK, _FIFO = int(Kind.CHAR), int(Kind.BLOCK), int(Kind.FIFO)
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_LEFT_OUT = (errno.EPERM, errno.EINVAL, errno.ENOTSUP)


@dataclass
class UnpackReport:
    """The result of unpacking. ``size`` is in bytes of content written."""

    entries: int = 0
    size: int = 0
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)

    def add(self, entries: int, size: int, warnings: Iterable[str]) -> None:
        """Add the result of another process."""
        self.entries += entries
        self.size += size
        for text in warnings:
            self.warn(text)


@dataclass(frozen=True, slots=True)
class DefaultAttributes:
    """The attributes that a new file gets by default: its owner, and which of the requested mode bits it keeps."""

    uid: int
    gid: int
    kept: int

    @classmethod
    def probe(cls, top: bytes) -> DefaultAttributes:
        """Probe the defaults by creating a file in ``top``. Raises OSError."""
        path = os.path.join(top, b".lamina-probe")
        descriptor = os.open(path, _NEW_FILE, 0o777)
        try:
            state = os.fstat(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(path)
        return cls(state.st_uid, state.st_gid, state.st_mode & 0o777)


class Attributes(NamedTuple):
    """The attributes of a directory; ``mtime`` in nanoseconds."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[bytes, bytes]

    @classmethod
    def of(cls, tree: Tree, node: int) -> Attributes:
        layer, row = tree.origin_layers[node], tree.rows[node]
        if row == UNSTATED:
            entry = tree.entry(node)
            return cls(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)
        index = tree.layers[layer]
        xattrs = index.xattrs(row) if index.xattr_at[row] else {}
        time = index.mtime[row] * 1_000_000_000 + index.nsec[row]
        return cls(index.mode[row], index.uid[row], index.gid[row], time, xattrs)


class NodeWriter:
    """Creates nodes of the tree. ``owners``: give them the owners that the image states, mapped by ``mapped``."""

    def __init__(
        self,
        tree: Tree,
        opened: OpenDirectories,
        contents: ContentCopier,
        given: DefaultAttributes,
        *,
        owners: bool,
        devices: bool,
        mapped: Owners,
    ) -> None:
        self.tree = tree
        self.report = UnpackReport()
        self._opened = opened
        self._contents = contents
        self._given = given
        self._owners = owners
        self._mapped = mapped
        self._devices = devices
        self._first: dict[int, int] = {}  # inode -> the node that was created first

    def make(self, nodes: Iterable[int], check: Callable[[], None]) -> None:
        """Create ``nodes``, in which hard links of one file must be adjacent. ``check`` is called before each and may
        raise. Raises OSError, InvalidContent."""
        tree, at = self.tree, self._opened.at
        parents, names, hardlinks = tree.parents, tree.names, tree.hardlinks
        origins, rows, layers = tree.origin_layers, tree.rows, tree.layers
        linked = set(hardlinks.values())
        for node in nodes:
            check()
            inode = hardlinks.get(node, node)
            layer, row = origins[inode], rows[inode]
            index = layers[layer]
            kind = index.kind[row]
            directory, name = at(parents[node]), names[node]
            try:
                if inode in self._first:
                    self._link(self._first[inode], node)
                elif kind == _FILE:
                    self._file(directory, name, node, layer, row, index)
                elif not self._special(directory, name, node, kind, row, index):
                    continue
            except FileExistsError:
                self.report.warn(
                    f"{self._shown(node)}: the file system treats it as the same name as another entry; left out"
                )
                continue
            if inode in linked:
                self._first.setdefault(inode, node)
            self.report.entries += kind != _WHITEOUT

    def _file(self, directory: int, name: bytes, node: int, layer: int, row: int, index: LayerIndex) -> None:
        mode, size = index.mode[row], index.size[row]
        descriptor = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=directory)
        try:
            if size:
                self._contents.write(descriptor, layer, row, size)
                self.report.size += size
            given = self._given
            uid, gid = index.uid[row], index.gid[row]
            if self._owners and (self._mapped or uid != given.uid or gid != given.gid):
                self._give(descriptor, node, uid, gid)
            if mode & ~given.kept:
                os.fchmod(descriptor, self._kept(mode, descriptor, uid, gid) if mode & _SET_IDS else mode)
            if index.xattr_at[row]:
                self._set_xattrs(descriptor, node, index.xattrs(row))
            time = index.mtime[row] * 1_000_000_000 + index.nsec[row]
            os.utime(descriptor, ns=(time, time))
        finally:
            os.close(descriptor)

    def _special(self, directory: int, name: bytes, node: int, kind: int, row: int, index: LayerIndex) -> bool:
        """Create a node without content. Returns False if it was left out."""
        if kind == _WHITEOUT:
            os.mknod(name, 0o020000, 0, dir_fd=directory)
            return True
        if kind in (_CHAR, _BLOCK) and not self._devices:
            self.report.warn(f"{self._shown(node)}: only root can create devices; left out")
            return False
        mode = index.mode[row]
        try:
            if kind == _SYMLINK:
                os.symlink(index.link(row), name, dir_fd=directory)
            elif kind == _FIFO:
                os.mkfifo(name, mode & 0o777, dir_fd=directory)
            else:
                form = 0o020000 if kind == _CHAR else 0o060000
                os.mknod(name, form | mode & 0o777, os.makedev(*index.rdev(row)), dir_fd=directory)
        except OSError as error:
            if error.errno in _LEFT_OUT:
                self.report.warn(f"{self._shown(node)}: {error.strerror}; left out")
                return False
            raise
        given = self._given
        if self._owners and (self._mapped or index.uid[row] != given.uid or index.gid[row] != given.gid):
            self._give(name, node, index.uid[row], index.gid[row], directory)
        if kind != _SYMLINK and mode & ~given.kept:
            os.chmod(name, mode, dir_fd=directory)
        if index.xattr_at[row]:
            # Python can't set xattrs relative to a directory descriptor
            path = b"/proc/self/fd/%d/%s" % (directory, name)
            self._set_xattrs(path, node, index.xattrs(row), follow=False)
        time = index.mtime[row] * 1_000_000_000 + index.nsec[row]
        os.utime(name, ns=(time, time), dir_fd=directory, follow_symlinks=False)
        return True

    def finish_directory(self, node: int, attributes: Attributes, made: int) -> None:
        """Set the final attributes of a directory, created with mode ``made``, after everything below it is done.
        Raises OSError."""
        given, owners = self._given, self._owners
        other = owners and (self._mapped or attributes.uid != given.uid or attributes.gid != given.gid)
        time = (attributes.mtime, attributes.mtime)
        if node and not other and attributes.mode == made & given.kept and not attributes.xattrs:
            parent = self._opened.at(self.tree.parents[node])
            os.utime(self.tree.names[node], ns=time, dir_fd=parent, follow_symlinks=False)
            return
        descriptor = self._opened.at(node)
        if owners:
            self._give(descriptor, node, attributes.uid, attributes.gid)
        os.fchmod(descriptor, attributes.mode)
        self._set_xattrs(descriptor, node, attributes.xattrs)
        os.utime(descriptor, ns=time)

    def _link(self, known: int, node: int) -> None:
        """Create another hard link of what was created as ``known``. The first descriptor is duplicated, because two
        are needed at once."""
        tree = self.tree
        source = os.dup(self._opened.at(tree.parents[known]))
        try:
            os.link(
                tree.names[known],
                tree.names[node],
                src_dir_fd=source,
                dst_dir_fd=self._opened.at(tree.parents[node]),
                follow_symlinks=False,
            )
        finally:
            os.close(source)

    def _give(self, what: int | bytes, node: int, uid: int, gid: int, directory: int | None = None) -> None:
        if not self._mapped.has(uid, gid):
            self.report.warn(f"{self._shown(node)}: can't be given to {uid}:{gid}")
        uid, gid = self._mapped.outside(uid, gid)
        try:
            if isinstance(what, int):
                os.fchown(what, uid, gid)
            else:
                os.chown(what, uid, gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            self.report.warn(f"{self._shown(node)}: can't be given to {uid}:{gid}")

    def _kept(self, mode: int, descriptor: int, uid: int, gid: int) -> int:
        """Return the mode of a file with set-id bits after its owner was set. If owners are not requested, files that
        an unprivileged user unpacks belong to that user and keep the bits; files of root would become setuid-root
        programs."""
        if not (self._owners or self._given.uid == 0):
            return mode
        state, there = os.fstat(descriptor), self._mapped.outside(uid, gid)
        user, group = self._mapped.has(uid, 0), self._mapped.has(0, gid)
        return kept_mode(mode, user=user and state.st_uid == there[0], group=group and state.st_gid == there[1])

    def _set_xattrs(
        self, what: int | bytes, node: int, xattrs: Mapping[bytes, bytes], *, follow: bool = True
    ) -> None:
        for name, value in xattrs.items():
            try:
                os.setxattr(what, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EINVAL, errno.ENOENT):
                    raise
                shown = name.decode("utf-8", "backslashreplace")[:300]
                self.report.warn(f"{self._shown(node)}: the xattr {shown} can't be set")

    def _shown(self, node: int) -> str:
        return "/" + self.tree.path(node).decode("utf-8", "backslashreplace")[:300]
