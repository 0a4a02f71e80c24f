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
from lamina.host.files import reported, write_all
from lamina.layer.entry import FORMATS, Entry, Kind
from lamina.layer.tar_write import Content, Item
from lamina.run.container.copy_files import DIRECTORY, MAX_DEPTH, clear, make_directory, new_file, open_file
from lamina.run.rootfs import Inside
from lamina.source.stack import Stack
from lamina.union.tree import Union

_CHUNK = 1 << 20
_KINDS = {format: kind for kind, format in FORMATS.items()}
OwnerOf = Callable[[Entry], tuple[int, int]]


def container_items(inside: Inside, path: str, on_warning: Callable[[str], object]) -> Iterator[Item]:
    """The entries of ``path`` of a container, under its last name, parents before children; with ``path/.`` its
    contents. Use each item before the next. Sockets are left out with a warning. Raises NotFound, SystemFailure."""
    known: dict[tuple[int, int], bytes] = {}
    if os.path.basename(path.rstrip("/")) in ("", "."):
        with reported(path):
            try:
                top = inside.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise NotFound(f"{path!r:.200} in the container: {error.strerror}", hint="check the path") from None
        try:
            yield from _below(top, b"", known, on_warning, 0)
        finally:
            os.close(top)
        return
    with inside.parent(path) as (above, name):
        yield from _walked(above, os.fsencode(name), os.fsencode(name), known, on_warning, 0)


def _below(
    directory: int, at: bytes, known: dict[tuple[int, int], bytes], on_warning: Callable[[str], object], depth: int
) -> Iterator[Item]:
    if depth > MAX_DEPTH:
        raise UsageError(f"directories are nested more than {MAX_DEPTH} deep")
    for text in sorted(os.listdir(directory)):
        name = os.fsencode(text)
        yield from _walked(directory, name, at + b"/" + name if at else name, known, on_warning, depth)


def _walked(
    above: int,
    name: bytes,
    path: bytes,
    known: dict[tuple[int, int], bytes],
    on_warning: Callable[[str], object],
    depth: int,
) -> Iterator[Item]:
    shown = os.fsdecode(path)
    with reported(shown):
        try:
            state = os.lstat(name, dir_fd=above)
        except FileNotFoundError:
            if depth:
                return  # it was removed meanwhile
            raise NotFound(f"no {shown!r:.200} in the container", hint="check the path") from None
        kind = _KINDS.get(stat.S_IFMT(state.st_mode))
        if kind is None:
            on_warning(f"the socket {shown!r:.200} is left out")
            return
        link = os.readlink(name, dir_fd=above) if kind == Kind.SYMLINK else b""
    first = known.setdefault((state.st_dev, state.st_ino), path) if kind != Kind.DIRECTORY else path
    if first != path:
        yield Entry(path, Kind.HARDLINK, link=first), None
        return
    entry = Entry(
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
    yield entry, partial(_Begun, above, name, state.st_size) if kind == Kind.FILE else None
    if kind == Kind.DIRECTORY:
        with reported(shown):
            below = os.open(name, DIRECTORY, dir_fd=above)
        try:
            yield from _below(below, path, known, on_warning, depth + 1)
        finally:
            os.close(below)


class _Begun:
    """A file, cut at the size that it had when it was found: a log may have grown since."""

    def __init__(self, above: int, name: bytes, size: int) -> None:
        with reported(name):
            self._descriptor = open_file(name, above)
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        data = os.read(self._descriptor, min(self._left, _CHUNK if size < 0 else size))
        self._left -= len(data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


def image_items(stack: Stack, path: str) -> Iterator[Item]:
    """As ``container_items``, for an image. Raises PathNotFound, InvalidLayer."""
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
    times: list[tuple[str, Entry]] = []
    for entry, content in items:
        if not entry.path:
            continue
        path = f"{at.rstrip('/')}/{os.fsdecode(entry.path)}"
        with reported(path):
            _put(inside, at, path, entry, content, owner_of(entry), 0o7777 if set_ids else 0o1777)
        if entry.kind == Kind.DIRECTORY:
            times.append((path, entry))
    for path, entry in reversed(times):
        with reported(path):
            descriptor = inside.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(descriptor, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(descriptor)


def _put(
    inside: Inside, at: str, path: str, entry: Entry, content: Content, owner: tuple[int, int], bits: int
) -> None:
    above = os.path.dirname(path)
    if not inside.is_there(above):
        inside.make(above, directory=True, owner=owner)
    with inside.parent(path) as (place, name):
        if entry.kind == Kind.DIRECTORY:
            make_directory(place, name)
            _finish(os.open(name, DIRECTORY, dir_fd=place), entry, owner, bits)
            return
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            raise UsageError(f"{path!r:.200} is a device", hint="only files, directories and links can be copied")
        if entry.kind not in (Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO):
            _put_file(place, name, entry, content, owner, bits)
            return
        clear(place, name)
        if entry.kind == Kind.SYMLINK:
            os.symlink(os.fsdecode(entry.link), name, dir_fd=place)
            os.chown(name, *owner, dir_fd=place, follow_symlinks=False)
        elif entry.kind == Kind.HARDLINK:
            first = f"{at.rstrip('/')}/{os.fsdecode(entry.link)}"
            with inside.parent(first) as (where, known):
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
                while data := stream.read(_CHUNK):
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
