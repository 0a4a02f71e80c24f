"""Files as entries of a tar: out of a container or an image, and into a container or a directory of this host.

A container may run and change its files meanwhile: directories are walked by descriptors, and no symlink is followed.
Whatever names and links a tar has, files are only written below the root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from lamina.errors import InvalidLayer, NotFound, UsageError
from lamina.host.files import CHUNK, reported, write_all
from lamina.layer.entry import FORMATS, Entry, Kind
from lamina.layer.tar_write import Content, Item
from lamina.run.file_copy import DIRECTORY, MAX_DEPTH, clear, make_directory, new_file, open_file
from lamina.run.rootfs import Inside
from lamina.source.stack import Stack
from lamina.union.tree import Union

_KINDS = {format: kind for kind, format in FORMATS.items()}
OwnerOf = Callable[[Entry], tuple[int, int]]


def file_items(inside: Inside, path: str, on_warning: Callable[[str], object]) -> Iterator[Item]:
    """The entries of ``path`` of a container, under its last name, parents before children; with ``path/.`` its
    contents. Use each item before the next. Sockets are left out with a warning. Raises NotFound, SystemFailure."""
    walk = _Walk(on_warning)
    if os.path.basename(path.rstrip("/")) in ("", "."):
        with reported(path):
            try:
                top = inside.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise NotFound(f"{path!r:.200} in the container: {error.strerror}", hint="check the path") from None
        try:
            yield from walk.below(top, b"", 0)
        finally:
            os.close(top)
        return
    with inside.parent(path) as (above, name):
        yield from walk.one(above, os.fsencode(name), os.fsencode(name), 0)


class _Walk:
    """One walk over files; the second name of a file is a hard link to the first."""

    def __init__(self, on_warning: Callable[[str], object]) -> None:
        self._on_warning = on_warning
        self._known: dict[tuple[int, int], bytes] = {}

    def below(self, directory: int, at: bytes, depth: int) -> Iterator[Item]:
        if depth > MAX_DEPTH:
            raise UsageError(
                f"directories are nested more than {MAX_DEPTH} deep", hint="copy its subdirectories one by one"
            )
        for text in sorted(os.listdir(directory)):
            name = os.fsencode(text)
            yield from self.one(directory, name, at + b"/" + name if at else name, depth)

    def one(self, above: int, name: bytes, path: bytes, depth: int) -> Iterator[Item]:
        """``above``: a descriptor of the directory that has ``name``. ``path``: the name of the entry."""
        entry = self._entry(above, name, path, depth)
        if entry is None:
            return
        yield entry, partial(_Begun, above, name, entry.size) if entry.kind == Kind.FILE else None
        if entry.kind == Kind.DIRECTORY:
            with reported(os.fsdecode(path)):
                below = os.open(name, DIRECTORY, dir_fd=above)
            try:
                yield from self.below(below, path, depth + 1)
            finally:
                os.close(below)

    def _entry(self, above: int, name: bytes, path: bytes, depth: int) -> Entry | None:
        """None for what is left out: a socket, or a file that was removed meanwhile. Raises NotFound (the first)."""
        shown = os.fsdecode(path)
        with reported(shown):
            try:
                state = os.lstat(name, dir_fd=above)
            except FileNotFoundError:
                if depth:
                    return None
                raise NotFound(f"{shown!r:.200} was not found in the container", hint="check the path") from None
            kind = _KINDS.get(stat.S_IFMT(state.st_mode))
            if kind is None:
                self._on_warning(f"the socket {shown!r:.200} is left out")
                return None
            link = os.readlink(name, dir_fd=above) if kind == Kind.SYMLINK else b""
        first = self._known.setdefault((state.st_dev, state.st_ino), path) if kind != Kind.DIRECTORY else path
        if first != path:
            return Entry(path, Kind.HARDLINK, link=first)
        return Entry(
            path,
            kind,
            stat.S_IMODE(state.st_mode),
            state.st_uid,
            state.st_gid,
            state.st_size if kind == Kind.FILE else 0,
            state.st_mtime_ns,
            link,
            rdev=(os.major(state.st_rdev), os.minor(state.st_rdev)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        )


class _Begun:
    """A file, cut at the size that it had when it was found: a log may have grown since."""

    def __init__(self, above: int, name: bytes, size: int) -> None:
        with reported(name):
            self._descriptor = open_file(name, above)
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        data = os.read(self._descriptor, min(self._left, CHUNK if size < 0 else size))
        self._left -= len(data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


def image_items(stack: Stack, path: str) -> Iterator[Item]:
    """As ``file_items``, for an image. Raises PathNotFound, InvalidLayer."""
    union = stack.union()
    name = os.fsencode(path).lstrip(b"/")
    content_only = os.path.basename(path.rstrip("/")) in ("", ".")
    top = union.lookup(name, follow=content_only or path.endswith("/"))
    if content_only and not union.is_directory(top):
        raise NotFound(f"{path!r:.200} is not a directory of the image", hint="check the path")
    prefix = union.path(top)
    cut = len(prefix) + 1 if content_only and prefix else len(prefix.rpartition(b"/")[0])
    known: dict[int, bytes] = {}
    for node in union.walk(top):
        if node == top and content_only:
            continue
        whole = union.path(node)
        yield _item(stack, union, node, whole[cut:].lstrip(b"/"), known)


def _item(stack: Stack, union: Union, node: int, path: bytes, known: dict[int, bytes]) -> Item:
    from dataclasses import replace

    if not union.is_directory(node):
        first = known.setdefault(union.inode(node), path)
        if first != path:
            return Entry(path, Kind.HARDLINK, link=first), None
    entry = replace(union.entry(node), path=path, sparse=None, offset=0)
    if entry.kind != Kind.FILE:
        return entry, None
    return entry, partial(stack.open_stored, union.stored(node))


def put(inside: Inside, at: str, items: Iterable[Item], owner_of: OwnerOf, *, set_ids: bool = False) -> None:
    """Write the items below the directory ``at``, as tar does: files are replaced, directories keep their
    contents. ``set_ids``: keep set-user-ID and set-group-ID bits. Raises Conflict, InvalidLayer, UsageError (a
    device), SystemFailure."""
    target = _Target(inside, at.rstrip("/"), 0o7777 if set_ids else 0o1777)
    times: list[tuple[str, Entry]] = []
    for entry, content in items:
        if not entry.path:
            continue
        path = target.path(entry.path)
        with reported(path):
            target.put(path, entry, content, owner_of(entry))
        if entry.kind == Kind.DIRECTORY:
            times.append((path, entry))
    for path, entry in reversed(times):
        with reported(path):
            descriptor = inside.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(descriptor, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(descriptor)


class _Target:
    """The directory ``at`` that entries are written below. ``bits``: the bits of modes that are kept."""

    def __init__(self, inside: Inside, at: str, bits: int) -> None:
        self._inside, self._at, self._bits = inside, at, bits

    def path(self, name: bytes) -> str:
        return f"{self._at}/{os.fsdecode(name)}"

    def put(self, path: str, entry: Entry, content: Content, owner: tuple[int, int]) -> None:
        above = os.path.dirname(path)
        if not self._inside.is_there(above):
            self._inside.make(above, directory=True, owner=owner)
        with self._inside.parent(path) as (place, name):
            if entry.kind == Kind.DIRECTORY:
                make_directory(place, name)
                _finish(os.open(name, DIRECTORY, dir_fd=place), entry, owner, self._bits)
            elif entry.kind in (Kind.CHAR, Kind.BLOCK):
                raise UsageError(f"{path!r:.200} is a device", hint="copy files, directories and links only")
            elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO):
                clear(place, name)
                self._make(place, name, entry, owner)
            else:
                _put_file(place, name, entry, content, owner, self._bits)

    def _make(self, place: int, name: str, entry: Entry, owner: tuple[int, int]) -> None:
        if entry.kind == Kind.SYMLINK:
            os.symlink(os.fsdecode(entry.link), name, dir_fd=place)
            os.chown(name, *owner, dir_fd=place, follow_symlinks=False)
        elif entry.kind == Kind.HARDLINK:
            with self._inside.parent(self.path(entry.link)) as (where, known):
                os.link(known, name, src_dir_fd=where, dst_dir_fd=place, follow_symlinks=False)
        else:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=place)


def _put_file(place: int, name: str, entry: Entry, content: Content, owner: tuple[int, int], bits: int) -> None:
    descriptor = new_file(name, place)
    try:
        if isinstance(content, bytes):
            write_all(descriptor, content)
        elif content is not None:
            stream = content()
            try:
                while data := stream.read(CHUNK):
                    write_all(descriptor, data)
            finally:
                stream.close()
        if os.fstat(descriptor).st_size != entry.size:
            raise InvalidLayer(f"{name!r:.200} has another length than its header says", hint="create the tar again")
    except BaseException:
        os.close(descriptor)
        raise
    _finish(descriptor, entry, owner, bits)


def _finish(descriptor: int, entry: Entry, owner: tuple[int, int], bits: int) -> None:
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, entry.mode & bits)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(descriptor)
