"""The operations of a FUSE mount, answered from the tree: attributes from its columns, content from the layers' tars.
Knows no FUSE library: mfusepy calls these methods (``fuse_mount`` mounts them).

Paths come as ``str`` with one character for each byte (Latin-1), so that every name can be expressed.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lamina.errors import LaminaError
from lamina.host.files import SharedRange, has_extent
from lamina.layer.entry import FORMATS, Kind
from lamina.layer.file_content import Content
from lamina.light import TYPE_CHECKING
from lamina.union.tree import Tree

if TYPE_CHECKING:
    from lamina.layer.file_content import OpenTar
    from lamina.source.protocols import LayerHandle, Stream

ENCODING = "latin-1"
MAX_OPEN_TARS = 64
_BLOCK = 4096
_log = logging.getLogger("lamina.view")


class Tars:
    """The layers' tars, opened on first need and read by position; at most ``limit`` stay open. Thread-safe."""

    def __init__(self, layers: Sequence[LayerHandle], limit: int = MAX_OPEN_TARS) -> None:
        self._layers = layers
        self._limit = limit
        self._open: OrderedDict[int, Stream] = OrderedDict()
        self._guard = threading.Lock()

    def opener(self, number: int) -> OpenTar:
        """Return a function that opens a range of the tar of layer ``number`` (from 0)."""

        def open_tar(start: int, end: int) -> Stream:
            whole = self._whole(number)
            if has_extent(whole):
                return SharedRange(whole, whole.extent()[0], start, end)
            return self._layers[number].open(start, end)

        return open_tar

    def open_first(self) -> None:
        """Open as many tars as may stay open: they remain readable even if the store is moved or they are
        unlinked."""
        for number in range(min(len(self._layers), self._limit)):
            self._whole(number)

    def __len__(self) -> int:
        """The number of tars that are open."""
        return len(self._open)

    def _whole(self, number: int) -> Stream:
        with self._guard:
            stream = self._open.pop(number, None)
            if stream is None:
                stream = self._layers[number].open()
            self._open[number] = stream
            if len(self._open) > self._limit:
                # not closed: its readers hold it, and the last of them closes it
                self._open.popitem(last=False)
            return stream


class OpenFile:
    """An open file. Thread-safe."""

    def __init__(self, node: int, content: Content) -> None:
        self.node = node
        self._content = content
        self._guard = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        with self._guard, self._content as content:  # leaving the block closes the tar; the content stays usable
            content.seek(offset)
            return content.read(size)


class ServedUnion:
    """Serves the union ``tree`` of ``layers`` read-only. ``ready`` is called when the kernel makes its
    first request."""

    use_ns = True
    """Times are in nanoseconds (an attribute of mfusepy)."""
    flag_nopath = flag_nullpath_ok = True
    """Open files are identified by their handle alone (attributes of mfusepy)."""

    def __init__(self, tree: Tree, layers: Sequence[LayerHandle], ready: Callable[[], None] = lambda: None) -> None:
        self._tree = tree
        self._tars = Tars(layers)
        self._ready = ready
        self._files: dict[int, OpenFile] = {}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}
        self._handles = itertools.count(1)
        self._privileged = not hasattr(os, "geteuid") or os.geteuid() == 0

    def init(self, path: str) -> None:
        self._tars.open_first()
        self._ready()

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, int]:
        return self.attributes(self._files[fh].node if path is None and fh in self._files else self._node(path))

    def attributes(self, node: int) -> dict[str, int]:
        """Return the attributes as lstat(2) does; times in nanoseconds."""
        tree = self._tree
        entry = tree.entry(node)
        size = len(entry.link) if entry.kind == Kind.SYMLINK else entry.size if entry.kind == Kind.FILE else 0
        stored = size if entry.sparse is None else sum(length for _, length in entry.sparse)
        return {
            "st_ino": self._inode(node),
            "st_mode": FORMATS[entry.kind] | entry.mode,
            "st_nlink": tree.links(node),
            "st_uid": entry.uid,
            "st_gid": entry.gid,
            "st_rdev": os.makedev(*entry.rdev),
            "st_size": size,
            "st_blocks": -(-stored // 512),
            "st_blksize": _BLOCK,
            "st_atime": entry.mtime,
            "st_mtime": entry.mtime,
            "st_ctime": entry.mtime,
        }

    def readlink(self, path: str) -> str:
        node = self._node(path)
        if self._tree.kind(node) != Kind.SYMLINK:
            raise OSError(errno.EINVAL, "not a symlink")
        return self._tree.link_target(node).decode(ENCODING)

    def opendir(self, path: str) -> int:
        node = self._node(path)
        if not self._tree.is_directory(node):
            raise OSError(errno.ENOTDIR, "not a directory")
        handle = next(self._handles)
        self._listings[handle] = [(b".", node), (b"..", self._tree.parent(node)), *self._tree.children(node).items()]
        return handle

    def readdir(self, path: str | None, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """Yield the names with inode number and type."""
        for name, node in self._listings[fh]:
            yield name.decode(ENCODING), {"st_ino": self._inode(node), "st_mode": FORMATS[self._tree.kind(node)]}, 0

    def releasedir(self, path: str | None, fh: int) -> int:
        self._listings.pop(fh, None)
        return 0

    def open(self, path: str, flags: int) -> int:
        node = self._node(path)
        tree = self._tree
        if tree.kind(node) != Kind.FILE:
            raise OSError(errno.EINVAL, "not a regular file")
        layer, _ = tree.content(node)
        entry = tree.entry(node)
        content = Content(entry.size, entry.offset, entry.sparse, self._tars.opener(layer))
        handle = next(self._handles)
        self._files[handle] = OpenFile(node, content)
        return handle

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        with _told():
            return self._files[fh].read(offset, size)

    def release(self, path: str | None, fh: int) -> int:
        self._files.pop(fh, None)
        return 0

    def listxattr(self, path: str) -> list[str]:
        """List xattr names; those of the trusted namespace only if this process may see them."""
        names = self._tree.entry(self._node(path)).xattrs
        return [name.decode(ENCODING) for name in names if self._privileged or not name.startswith(b"trusted.")]

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        value = self._tree.entry(self._node(path)).xattrs.get(name.encode(ENCODING))
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def statfs(self, path: str) -> dict[str, int]:
        tree = self._tree
        blocks = sum(index.content_size for index in tree.layers) // _BLOCK
        return {"f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_blocks": blocks, "f_files": len(tree), "f_namemax": 255}

    def _node(self, path: str | None) -> int:
        node = None if path is None else self._tree.find(path[1:].encode(ENCODING))
        if node is None:
            raise OSError(errno.ENOENT, "no such file or directory")
        return node

    def _inode(self, node: int) -> int:
        return self._tree.inode(node) + 1  # 0 is not a valid inode number


@contextmanager
def _told() -> Iterator[None]:
    """Turn a LaminaError into an input/output error (EIO) for the kernel."""
    try:
        yield
    except LaminaError as error:
        _log.warning("%s", error)
        raise OSError(errno.EIO, error.message) from error
