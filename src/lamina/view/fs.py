"""The union as a read-only fsspec filesystem: what pandas, pyarrow and the like read files through.

Paths are ``str`` here, bytes that are not UTF-8 as surrogate escapes. Content comes straight from the layers' tars.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from lamina.errors import PathNotFound, ReferenceNotFound, UsageError
from lamina.layer.content import Content
from lamina.layer.entry import Kind
from lamina.source import Stack
from lamina.union.tree import Tree

_SCHEME = "lamina://"
_TYPES = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "link"}


class LaminaFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """``fsspec.filesystem("lamina", image="debian:12")``, or ``image.fs``. ``root`` and ``platform`` as in
    ``lamina.open``; only images of the store are found by name."""

    protocol = "lamina"
    root_marker = "/"
    cachable = False

    def __init__(
        self,
        image: str | None = None,
        *,
        stack: Stack | None = None,
        root: str | None = None,
        platform: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if stack is None:
            if image is None:
                raise UsageError("no image named", hint='fsspec.filesystem("lamina", image="debian:12")')
            stack = _from_store(image, root, platform)
        self.stack = stack
        self._tree: Tree = stack.tree()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """``lamina://IMAGE//etc/passwd``, ``lamina:///etc/passwd`` or a plain path: always absolute, without a slash
        at the end."""
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        text = os.fspath(path)
        if text.startswith(_SCHEME):
            text = _split(text)[1]
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        """``lamina://debian:12//etc/os-release``: the image ends at the first double slash. None stands in
        ``lamina:///etc/os-release``, a path of the image that the options name."""
        image = _split(path)[0] if path.startswith(_SCHEME) else ""
        return {"image": image} if image else {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """As fsspec has it, with mode, uid, gid, mtime, ino, nlink, islink, destination, layer. A symlink is told
        as what it leads to, as ``os.stat`` does; ``islink`` says that it is one. Raises FileNotFoundError."""
        node = self._node(path, follow=False)
        return self._info(node, self._strip_protocol(path))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Raises FileNotFoundError, NotADirectoryError only where fsspec expects a file's own info instead."""
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

    def created(self, path: str) -> datetime.datetime:
        """Images state no creation time of files: the modification time."""
        return self.modified(path)

    def modified(self, path: str) -> datetime.datetime:
        """UTC."""
        seconds = self.info(path)["mtime"]
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _File:
        if mode != "rb":
            raise OSError(30, "an image is read-only", path)
        node = self._node(path, follow=True)
        if self._tree.is_directory(node):
            raise IsADirectoryError(21, "a directory", path)
        if self._tree.kind(node) != Kind.FILE:
            raise OSError(22, "no regular file", path)
        options.pop("cache_options", None)
        size = self._tree.entry(node).size
        return _File(self, self._strip_protocol(path), node, size, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self._open(path) as file:
            size = file.size
            first = 0 if start is None else start if start >= 0 else max(0, size + start)
            last = size if end is None else end if end >= 0 else size + end
            data: bytes = file.content_range(first, min(last, size))
            return data

    def _node(self, path: str, *, follow: bool) -> int:
        stripped = self._strip_protocol(path)
        try:
            return self._tree.lookup(os.fsencode(stripped.strip("/")), follow=follow)
        except PathNotFound as error:
            raise FileNotFoundError(2, f"{error.message} {self.stack.name}", stripped) from None

    def _info(self, node: int, name: str) -> dict[str, Any]:
        tree, link = self._tree, ""
        entry = tree.entry(node)
        if entry.kind == Kind.SYMLINK:
            link = os.fsdecode(entry.link)
            try:
                node = tree.lookup(tree.path(node), follow=True)
                entry = tree.entry(node)
            except PathNotFound:
                pass  # a dangling link is told as the link itself
        origin = tree.origin(node)
        value = {
            "name": name,
            "size": entry.size,
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
    """A file of the union, read through fsspec's own cache."""

    DEFAULT_BLOCK_SIZE = 128 << 10
    """Bytes that are read ahead: fsspec's own 5 MiB are for networks, and are more than a column of most tables."""

    def __init__(self, fs: LaminaFileSystem, path: str, node: int, size: int, **options: Any) -> None:
        self._stack = fs.stack
        self._node = node
        self._content: Content | None = None
        options.setdefault("cache_type", "readahead")
        super().__init__(fs, path, mode="rb", size=size, **options)

    def content_range(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``."""
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


def _split(url: str) -> tuple[str, str]:
    """The image of a ``lamina://`` URL ("" for none), and the path in it."""
    rest = url.removeprefix(_SCHEME)
    if rest.startswith("/"):
        return "", rest
    image, _, path = rest.partition("//")
    return image, path


def _from_store(image: str, root: str | None, platform: str | None) -> Stack:
    from lamina.config import Settings
    from lamina.spec.name import parse_name
    from lamina.store.store import Store

    flags = {key: value for key, value in (("root", root), ("platform", platform)) if value is not None}
    settings = Settings.load(flags=flags)
    name = parse_name(image)
    if name.transport:
        raise UsageError(f"{image!r:.200} is not in the store", hint="use lamina.open(...).fs for archives")
    store = Store.of(settings, create=False)
    try:
        stack = store.stack(name.name, settings.wanted_platform())
    except ReferenceNotFound as error:
        if "/" not in image:
            raise
        hint = "in a URL two slashes end the image: lamina://IMAGE//PATH"
        raise ReferenceNotFound(error.message, hint=hint) from None
    return stack.slice(name.low, name.high)
