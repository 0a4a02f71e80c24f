"""The union as a read-only fsspec file system, through which pandas, pyarrow and others read files.

Paths are ``str`` here; bytes that are not UTF-8 are surrogate escapes. Content comes straight from the layers' tars.
Symlinks behave as in fsspec's local file system: walks (``find``, ``walk``, ``**``, ``du``) don't follow them; a path
that is passed is followed.
"""

from __future__ import annotations

import datetime
import os
from typing import Any, NoReturn

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from lamina.errors import IsADirectory, NotAFile, PathNotFound, ReadOnly
from lamina.layer.entry import Kind
from lamina.layer.file_content import Content
from lamina.source.stack import Stack
from lamina.union.tree import Tree

_TYPES = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "link"}


class UnionFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The fsspec file system of a stack."""

    root_marker = "/"
    cachable = False
    stack: Stack

    @property
    def _tree(self) -> Tree:
        return self.stack.tree()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        return "/" + os.fspath(path).strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """The info of fsspec, with mode, uid, gid, mtime, ino, nlink, islink, destination, layer. A symlink is
        reported as its target, as by ``os.stat``; ``islink`` is true for it. Raises FileNotFoundError."""
        node = self._node(path, follow=False)
        return self._info(node, self._strip_protocol(path), follow=True)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a directory; for anything else return its own info. A symlink in the directory is reported as a link,
        with its own size. Raises FileNotFoundError."""
        stripped = self._strip_protocol(path)
        node = self._node(path, follow=True)
        if not self._tree.is_directory(node):
            found = [self._info(node, stripped)]
        else:
            prefix = "" if stripped == "/" else stripped
            found = [
                self._info(child, f"{prefix}/{os.fsdecode(name)}")
                for name, child in sorted(self._tree.children(node).items())
            ]
        return found if detail else [item["name"] for item in found]

    def du(
        self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **options: Any
    ) -> int | dict[str, int]:
        """Return the sizes of the files below ``path``, as du(1) counts them: symlinks with their own size and, in
        the ``total``, a file with several hard links once."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **options)
        infos = {name: one or self.info(name) for name, one in found.items()}
        if total:
            once: dict[int, int] = {one["ino"]: one["size"] for one in infos.values()}
            return sum(once.values())
        return {name: one["size"] for name, one in infos.items()}

    def lexists(self, path: str, **options: Any) -> bool:
        """Whether the path exists; True for a dangling symlink too."""
        try:
            self._node(path, follow=False)
        except PathNotFound:
            return False
        return True

    def islink(self, path: str) -> bool:
        """Whether the path itself is a symlink."""
        return self.lexists(path) and self._tree.kind(self._node(path, follow=False)) == Kind.SYMLINK

    def created(self, path: str) -> datetime.datetime:
        """Return the modification time: images have no creation time."""
        return self.modified(path)

    def modified(self, path: str) -> datetime.datetime:
        """Return the modification time in UTC."""
        seconds = self.info(path)["mtime"]
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _File:
        if mode != "rb":
            self._refuse(path)
        node = self._node(path, follow=True)
        stripped = self._strip_protocol(path)
        if self._tree.is_directory(node):
            raise IsADirectory(f"{stripped!r:.300} in {self.stack.name} is a directory")
        if self._tree.kind(node) != Kind.FILE:
            raise NotAFile(f"{stripped!r:.300} in {self.stack.name} is not a regular file")
        for name in ("cache_options", "size"):  # fsspec passes these when it opens a pickled file again
            options.pop(name, None)
        size = self._tree.entry(node).size
        return _File(self, stripped, node, size, **options)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Open a file for reading, "rb", or "r" for text. Raises FileNotFoundError, IsADirectoryError; OSError for
        other modes, because an image is read-only."""
        if set(mode) - set("rbt"):
            self._refuse(path)
        return super().open(path, mode, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self._open(path) as file:
            size = file.size
            first = 0 if start is None else start if start >= 0 else max(0, size + start)
            last = size if end is None else end if end >= 0 else size + end
            data: bytes = file.content_range(first, min(last, size))
            return data

    def get(self, rpath: Any, lpath: Any, recursive: bool = False, **options: Any) -> None:
        """Copy files to the host, as fsspec does. In a tree, dangling symlinks, devices and the like are
        skipped: only files and directories are copied."""
        super().get(rpath, lpath, recursive=recursive, lenient=recursive, **options)

    def get_file(self, rpath: str, lpath: Any = None, lenient: bool = False, **options: Any) -> None:
        """Copy one file; a directory is created empty. Raises FileNotFoundError, OSError."""
        if lenient:
            try:
                kind = self._tree.kind(self._node(rpath, follow=True))
            except PathNotFound:
                return
            if kind not in _TYPES:
                return
        super().get_file(rpath, lpath, **options)

    def _refuse(self, path: object = "", *_: object, **__: object) -> NoReturn:
        raise ReadOnly(
            f"{str(path)!r:.300} in {self.stack.name}: an image is read-only",
            hint="make a new image with image.append()",
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = copy = mv = put_file = put = _refuse
    touch = pipe_file = pipe = _refuse

    def _node(self, path: str, *, follow: bool) -> int:
        return self._tree.lookup(os.fsencode(self._strip_protocol(path).strip("/")), follow=follow)

    def _info(self, node: int, name: str, *, follow: bool = False) -> dict[str, Any]:
        tree, link = self._tree, ""
        entry = tree.entry(node)
        size = entry.size
        if entry.kind == Kind.SYMLINK:
            link = os.fsdecode(entry.link)
            size = len(entry.link)
            try:
                if follow:
                    node = tree.lookup(tree.path(node), follow=True)
                    entry = tree.entry(node)
                    size = entry.size
            except PathNotFound:
                pass  # a dangling link is reported as the link itself
        origin = tree.origin(node)
        value = {
            "name": name,
            "size": size,
            "type": _TYPES.get(entry.kind, "other"),
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime": entry.mtime / 1e9,
            "ino": tree.inode(node),
            "nlink": tree.links(node),
            "islink": bool(link),
            "layer": self.stack.first + origin[0] if origin else None,
        }
        if link:
            value["destination"] = link
        return value


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """A file of the union, read through fsspec's cache."""

    DEFAULT_BLOCK_SIZE = 128 << 10
    """Bytes to read ahead. fsspec's default of 5 MiB is for networks, and is larger than a column of most tables."""

    def __init__(self, fs: UnionFileSystem, path: str, node: int, size: int, **options: Any) -> None:
        self._stack = fs.stack
        self._node = node
        self._content: Content | None = None
        options.setdefault("cache_type", "readahead")
        super().__init__(fs, path, mode="rb", size=size, **options)

    def content_range(self, start: int, end: int) -> bytes:
        """Read the bytes ``start`` to ``end``."""
        if self._content is None:
            stream = self._stack.open_file(self._node)
            assert isinstance(stream, Content)
            self._content = stream
        self._content.seek(start)
        return self._content.read(max(0, end - start))

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.content_range(start, end)

    def close(self) -> None:
        if getattr(self, "_content", None) is not None and self._content is not None:
            self._content.close()
            self._content = None
        super().close()
