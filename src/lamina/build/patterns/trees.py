"""Trees of files that COPY and ADD read: one protocol for a directory, a tar, a stage or an image, and single files.

A node is opaque: only its tree understands it. Names are bytes, and symlinks are followed inside the tree
(``found``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import Entry, Kind
from lamina.layer.file_content import SMALL, ReadAhead

if TYPE_CHECKING:
    from lamina.build.patterns.ignore import Above, Patterns
    from lamina.layer.tar_write import Content
    from lamina.source.stack import Stack
    from lamina.union.tree import Union

MAX_LINKS = 255
"""Symlinks followed for one path, as in BuildKit."""
_LETTERS = {
    Kind.FILE: b"F",
    Kind.DIRECTORY: b"D",
    Kind.SYMLINK: b"L",
    Kind.CHAR: b"C",
    Kind.BLOCK: b"B",
    Kind.FIFO: b"P",
}
N = TypeVar("N")


class FileTree(Protocol[N]):
    """A tree of files. ``keeps_owners``: the owners of its files are kept; else they become 0:0."""

    @property
    def what(self) -> str:
        """What messages call it: ``the context``."""
        ...

    @property
    def keeps_owners(self) -> bool: ...

    @property
    def root(self) -> N: ...

    def child(self, node: N, name: bytes) -> N | None: ...

    def children(self, node: N) -> Sequence[tuple[bytes, N]]:
        """The names in a directory, sorted; () for other nodes."""
        ...

    def kind(self, node: N) -> Kind:
        """Never HARDLINK, WHITEOUT or OPAQUE."""
        ...

    def link(self, node: N) -> bytes:
        """The target of a symlink."""
        ...

    def entry(self, node: N, path: bytes) -> Entry:
        """Its attributes; ``path`` becomes the path of the entry."""
        ...

    def content(self, node: N) -> Content:
        """The content of a regular file. It is what ``digest`` hashed, or reading it raises UsageError."""
        ...

    def inode(self, node: N) -> Hashable | None:
        """What all names (hard links) of one file share; None for a file with one name."""
        ...

    def digest(self, node: N) -> bytes:
        """The sha256 of a regular file's content."""
        ...

    def described(self, node: N) -> bytes:
        """Its kind, mode, attributes and content, for the digest of what a step reads (``described``)."""
        ...


def found(tree: FileTree[N], path: bytes, *, follow: bool = True) -> N | None:
    """The node at a path; symlinks on the way are followed inside the tree, the last one only with ``follow``. None
    if there is none. Raises UsageError (symlinks without end)."""
    pending = path.split(b"/")[::-1]
    stack = [tree.root]
    links = 0
    while pending:
        name = pending.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del stack[max(1, len(stack) - 1) :]
            continue
        node = tree.child(stack[-1], name)
        if node is None:
            return None
        if (follow or any(part not in (b"", b".") for part in pending)) and tree.kind(node) == Kind.SYMLINK:
            links += 1
            if links > MAX_LINKS:
                raise UsageError(
                    f"{_text(path)!r:.200} in {tree.what}: too many symlinks",
                    hint="check the symlinks: they form a loop",
                )
            target = tree.link(node)
            pending += target.split(b"/")[::-1]
            if target.startswith(b"/"):
                del stack[1:]
            continue
        stack.append(node)
    return stack[-1]


def get(tree: FileTree[N], path: bytes) -> N:
    """As ``found``. Raises PathNotFound."""
    node = found(tree, path)
    if node is None:
        raise missing(tree, path)
    return node


def missing(tree: FileTree[N], path: bytes) -> PathNotFound:
    return PathNotFound(
        f"{_text(path).lstrip('/') or '/'!r:.300} was not found in {tree.what}",
        hint="check the path, and the ignore file" if not tree.keeps_owners else "check the path",
    )


def picked(
    tree: FileTree[N], top: N, include: Patterns | None = None, exclude: Patterns | None = None
) -> Iterator[tuple[int, bytes, N, bool]]:
    """Yield what is in a directory: (depth from 0, name, node, implied), parents first, names sorted. With
    ``include`` only what matches, and with ``exclude`` only what does not. ``implied``: a directory that is there
    only for what is in it."""
    walk: list[tuple[Iterator[tuple[bytes, N]], str, Above | None, Above | None]]
    walk = [(iter(tree.children(top)), "", None, None)]
    waiting: list[tuple[int, bytes, N]] = []
    plain = include is None and exclude is None
    directory = Kind.DIRECTORY
    while walk:
        step = next(walk[-1][0], None)
        if step is None:
            walk.pop()
            if waiting and waiting[-1][0] >= len(walk) - 1:
                waiting.pop()
            continue
        name, node = step
        depth = len(walk) - 1
        is_directory = tree.kind(node) == directory
        if plain:
            yield depth, name, node, False
            if is_directory:
                walk.append((iter(tree.children(node)), "", None, None))
            continue
        _, above, included_above, excluded_above = walk[-1]
        path = f"{above}{_text(name)}"
        wanted, included, refused, excluded = True, None, False, None
        if include is not None:
            wanted, included = include.match(path, included_above)
        if exclude is not None:
            refused, excluded = exclude.match(path, excluded_above)
        if wanted and not refused:
            for at, its_name, its_node in waiting:
                yield at, its_name, its_node, True
            waiting.clear()
            yield depth, name, node, False
        else:
            if not is_directory:
                continue
            if refused and exclude is not None and not exclude.may_except_below(path):
                continue
            if not wanted and include is not None and not include.may_match_below(path):
                continue
            waiting.append((depth, name, node))
        if is_directory:
            walk.append((iter(tree.children(node)), f"{path}/", included, excluded))


def described(tree: FileTree[N], node: N) -> bytes:
    """Kind, mode, extended attributes, and link or digest of the content; owners where they are kept; no times."""
    kind = tree.kind(node)
    content = tree.digest(node) if kind is Kind.FILE else b""  # first: it also finds whether there are attributes
    entry = tree.entry(node, b"")
    found = b"%b%o\0%b" % (_LETTERS[kind], entry.mode, content)
    if kind is Kind.SYMLINK:
        found += b"%b\0" % entry.link
    if entry.rdev != (0, 0):
        found += b"%d:%d\0" % entry.rdev
    for key, value in sorted(entry.xattrs.items()):
        found += b"x%d %b%d %b" % (len(key), key, len(value), value)
    if tree.keeps_owners:
        found += b"o%d:%d\0" % (entry.uid, entry.gid)
    return found


class OneFile:
    """A tree with one regular file: a here-document, or a file from an address."""

    keeps_owners = False
    root = 0

    def __init__(self, name: bytes, content: Content, size: int, *, mode: int, mtime: int, digest: bytes) -> None:
        self.what = f"the file {_text(name)!r:.100}"
        self._name, self._content, self._size = name, content, size
        self._mode, self._mtime, self._digest = mode, mtime, digest

    @classmethod
    def of(cls, name: bytes, data: bytes, *, mode: int = 0o644, mtime: int = 0) -> OneFile:
        return cls(name, data, len(data), mode=mode, mtime=mtime, digest=hashlib.sha256(data).digest())

    def child(self, node: int, name: bytes) -> int | None:
        return 1 if node == 0 and name == self._name else None

    def children(self, node: int) -> Sequence[tuple[bytes, int]]:
        return () if node else ((self._name, 1),)

    def kind(self, node: int) -> Kind:
        return Kind.FILE if node else Kind.DIRECTORY

    def link(self, node: int) -> bytes:
        return b""

    def entry(self, node: int, path: bytes) -> Entry:
        if not node:
            return Entry(path, Kind.DIRECTORY, 0o755, mtime=self._mtime)
        return Entry(path, Kind.FILE, self._mode, size=self._size, mtime=self._mtime)

    def content(self, node: int) -> Content:
        return self._content

    def inode(self, node: int) -> None:
        return None

    def digest(self, node: int) -> bytes:
        return self._digest

    def described(self, node: int) -> bytes:
        return described(self, node)


class UnionTree:
    """The union of a stage or an image."""

    keeps_owners = True
    root = 0

    def __init__(self, stack: Stack | None, what: str) -> None:
        self.what = what
        self._stack = stack
        self._union: Union | None = None if stack is None else stack.union()
        self._ahead: dict[int, ReadAhead] = {}

    def child(self, node: int, name: bytes) -> int | None:
        return None if self._union is None else self._union.child(node, name)

    def children(self, node: int) -> Sequence[tuple[bytes, int]]:
        return () if self._union is None else sorted(self._union.children(node).items())

    def kind(self, node: int) -> Kind:
        return Kind.DIRECTORY if self._union is None else self._union.kind(node)

    def link(self, node: int) -> bytes:
        return b"" if self._union is None else self._union.link_target(node)

    def entry(self, node: int, path: bytes) -> Entry:
        if self._union is None:
            return Entry(path, Kind.DIRECTORY, 0o755)
        return replace(self._union.entry(node), path=path, offset=0)

    def content(self, node: int) -> Content:
        assert self._union is not None
        assert self._stack is not None
        stack, stored = self._stack, self._union.stored(node)
        if not stored.size:
            return b""
        if stored.size > SMALL or stored.sparse is not None:
            return lambda: stack.open_stored(stored)
        ahead = self._ahead.get(stored.layer)
        if ahead is None:
            layer = stack.layers[stored.layer]
            ahead = self._ahead[stored.layer] = ReadAhead(layer.index().tar_size, layer.open)
        data = ahead.read(stored.offset, stored.size)
        if len(data) != stored.size:
            return lambda: stack.open_stored(stored)  # it says what is wrong
        return data

    def inode(self, node: int) -> Hashable | None:
        if self._union is None or self._union.links(node) < 2:
            return None
        return self._union.inode(node)

    def digest(self, node: int) -> bytes:
        content = self.content(node)
        return hashed(content) if callable(content) else hashlib.sha256(content or b"").digest()

    def described(self, node: int) -> bytes:
        return described(self, node)


def hashed(content: Callable[[], object]) -> bytes:
    """The sha256 of what a function opens."""
    hasher = hashlib.sha256()
    stream = content()
    try:
        while data := stream.read(1 << 20):  # type: ignore[attr-defined]
            hasher.update(data)
    finally:
        stream.close()  # type: ignore[attr-defined]
    return hasher.digest()


def read_exactly(stream: Any, size: int) -> bytes:
    """Read ``size`` bytes; fewer only at the end."""
    pieces, left = [], size
    while left > 0 and (data := stream.read(left)):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
