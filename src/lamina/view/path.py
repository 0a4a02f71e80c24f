"""Paths in the union for Python's libraries: ``importlib.resources.abc.Traversable``, with pathlib-style methods.
Paths are ``str`` here; bytes that are not UTF-8 are surrogate escapes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn, overload
from weakref import WeakValueDictionary

from lamina.errors import (
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotAFile,
    NotFound,
    PathNotFound,
    ReadOnly,
)
from lamina.layer.entry import FORMATS, Kind
from lamina.source.stack import Stack
from lamina.text import json_path

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from _typeshed import WriteableBuffer

    from lamina.layer.entry import Entry
    from lamina.source.protocols import Stream
    from lamina.union.tree import Union


class NoSuchOwner(NotFound, KeyError):
    """The image's /etc/passwd or /etc/group has no name for an id. It is a KeyError as well, as in pathlib."""


_shown: WeakValueDictionary[str, Stack] = WeakValueDictionary()
"""Images of this process for which a URL was made by ``__fspath__``, by their names in URLs."""


def uri_of(stack: Stack) -> str:
    """Return the name in a URL of exactly this image or range of layers: by digest if it is in the store."""
    source = stack.reopened_by[1][0] if stack.reopened_by is not None else ""
    name = str(source or stack.manifest.descriptor.digest)
    top = stack.first + len(stack.layers) - 1
    whole = (stack.first, top) == (1, len(stack.manifest.layers))
    return name if whole else f"{name}~{stack.first}:{top}"


def shown(uri: str) -> Stack | None:
    """Return the open image of this process that ``uri_of`` gave this name, if there is one."""
    return _shown.get(uri)


class ImagePath:
    """``image.path("/etc/os-release")``: an absolute path in an image, for reading; never a path of the host.

    The methods are those of ``pathlib.Path``; those that write raise ReadOnly (EROFS). Symlinks are followed inside
    the image; ``..`` works as in the kernel and never leads above the root. Paths are equal if image, range of layers
    and text are. Errors are lamina's and also those of ``open`` and ``os.listdir``: PathNotFound is a
    FileNotFoundError. Reading may also raise InvalidContent and SystemFailure.
    """

    __slots__ = ("_pure", "_stack")

    def __init__(self, stack: Stack, path: str | os.PathLike[str] = "/") -> None:
        """Raises InvalidPath for text that can't be a path."""
        text = text_of(path)
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise InvalidPath(f"{text!r:.200} is not a path", hint="pass bytes through os.fsdecode") from None
        self._stack = stack
        self._pure = PurePosixPath("/" + text.lstrip("/"))

    def __reduce__(self) -> tuple[type[ImagePath], tuple[Stack, str]]:
        return type(self), (self._stack, str(self))

    # the text of the path

    @property
    def name(self) -> str:
        """The last component; "" for the root."""
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def drive(self) -> str:
        return ""

    @property
    def root(self) -> str:
        return "/"

    @property
    def anchor(self) -> str:
        return "/"

    @property
    def parent(self) -> ImagePath:
        """The parent; the root is its own parent."""
        return ImagePath(self._stack, self._pure.parent)

    @property
    def parents(self) -> Sequence[ImagePath]:
        """The parents, nearest first."""
        return tuple(ImagePath(self._stack, one) for one in self._pure.parents)

    def joinpath(self, *segments: str | os.PathLike[str]) -> ImagePath:
        """Append components. Each segment may have several; an absolute one starts again at the image's root."""
        return ImagePath(self._stack, self._pure.joinpath(*map(text_of, segments)))

    def __truediv__(self, segment: str | os.PathLike[str]) -> ImagePath:
        return self.joinpath(segment)

    def with_segments(self, *segments: str | os.PathLike[str]) -> ImagePath:
        """Return a path in the same image."""
        return ImagePath(self._stack, PurePosixPath("/", *map(text_of, segments)))

    def with_name(self, name: str) -> ImagePath:
        """Return the path with another last component. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_name(name))

    def with_stem(self, stem: str) -> ImagePath:
        """Return the path with another last component but the same suffix. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> ImagePath:
        """Return the path with another suffix; "" removes it. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_suffix(suffix))

    def _with(self, changed: Callable[[], PurePosixPath]) -> ImagePath:
        try:
            return ImagePath(self._stack, changed())
        except ValueError as error:
            if isinstance(error, InvalidPath):
                raise
            raise InvalidPath(f"{str(self)!r:.300}: {error}") from None

    def relative_to(self, other: ImagePath | str, *, walk_up: bool = False) -> PurePosixPath:
        """Return the path from ``other`` to this one. Raises InvalidPath (a ValueError) if this path does not begin
        with ``other``, unless ``walk_up`` allows ``..``."""
        top = ImagePath(self._stack, other)._pure
        ups: list[str] = []
        while not self._pure.is_relative_to(top):
            if not walk_up or top.name == "..":
                raise InvalidPath(f"{str(self)!r:.300} is not below {str(other)!r:.300}")
            ups.append("..")
            top = top.parent
        return PurePosixPath(*ups, self._pure.relative_to(top))

    def is_relative_to(self, other: ImagePath | str) -> bool:
        return self._pure.is_relative_to(ImagePath(self._stack, other)._pure)

    def match(self, pattern: str, *, case_sensitive: bool = True) -> bool:
        """Whether the end of the path matches the pattern; a pattern that starts with ``/`` must match the whole
        path."""
        if not pattern:
            raise InvalidPath("the pattern is empty", hint="use `**` for all paths")
        ours, wanted = (
            _folded(self._pure.parts, case_sensitive),
            _folded(PurePosixPath(pattern).parts, case_sensitive),
        )
        if pattern.startswith("/"):
            return len(ours) == len(wanted) and all(map(fnmatchcase, ours, wanted))
        return len(ours) >= len(wanted) and all(map(fnmatchcase, ours[len(ours) - len(wanted) :], wanted))

    def full_match(self, pattern: str, *, case_sensitive: bool = True) -> bool:
        """Whether the whole path matches the pattern; ``**`` stands for any number of components."""
        wanted = _folded(PurePosixPath("/", pattern).parts[1:], case_sensitive)
        return _is_match(_folded(self._pure.parts[1:], case_sensitive), wanted)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> ImagePath:
        return self

    def as_posix(self) -> str:
        return str(self)

    def as_uri(self) -> str:
        """Return a URL that fsspec, pandas and universal-pathlib can open. It always means this image, even if its
        name is later given to another."""
        return f"lamina://{uri_of(self._stack)}/{self}"

    def __fspath__(self) -> str:
        """Return the URL, for libraries that accept URLs. Those that accept only paths of the host don't find
        such a file."""
        _shown[uri_of(self._stack)] = self._stack
        return self.as_uri()

    def to_json(self) -> dict[str, Any]:
        """Return image, layers and path for JSON."""
        stack = self._stack
        return {
            "image": stack.name,
            "digest": str(stack.manifest.descriptor.digest),
            "layers": [stack.first, stack.first + len(stack.layers) - 1],
            **json_path(self._bytes),
        }

    # what exists

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the path exists; False for a dangling symlink unless the link itself is meant."""
        return self._kind(follow=follow_symlinks) is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind(follow=follow_symlinks) == Kind.DIRECTORY

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind(follow=follow_symlinks) == Kind.FILE

    def is_symlink(self) -> bool:
        return self._kind(follow=False) == Kind.SYMLINK

    def is_fifo(self) -> bool:
        return self._kind() == Kind.FIFO

    def is_char_device(self) -> bool:
        return self._kind() == Kind.CHAR

    def is_block_device(self) -> bool:
        return self._kind() == Kind.BLOCK

    def is_socket(self) -> bool:
        """False: layers have no sockets."""
        return False

    def is_mount(self) -> bool:
        """Whether it is the image's root, the only mount point."""
        return not self._bytes

    def is_junction(self) -> bool:
        """False: junctions exist on Windows only."""
        return False

    def samefile(self, other: ImagePath | str) -> bool:
        """Whether both are the same file of the same image, through symlinks or hard links. Raises PathNotFound."""
        there = other if isinstance(other, ImagePath) else ImagePath(self._stack, other)
        if self._image != there._image:
            return False
        union = self._stack.union()
        return union.inode(self._found(union)) == union.inode(there._found(union))

    def owner(self, *, follow_symlinks: bool = True) -> str:
        """Return the user's name from the image's /etc/passwd. Raises NoSuchOwner (a KeyError), PathNotFound."""
        return self._named("passwd", self.entry(follow=follow_symlinks).uid)

    def group(self, *, follow_symlinks: bool = True) -> str:
        """Return the group's name from the image's /etc/group. Raises as ``owner``."""
        return self._named("group", self.entry(follow=follow_symlinks).gid)

    def _named(self, table: str, number: int) -> str:
        try:
            lines = ImagePath(self._stack, f"/etc/{table}").read_bytes().split(b"\n")
        except OSError:  # it does not exist, or is not a regular file
            lines = []
        for line in lines:
            name, *more = line.split(b":")
            if more[1:2] == [b"%d" % number]:
                return os.fsdecode(name)
        raise NoSuchOwner(f"/etc/{table} of {self._stack.name} has no {number}")

    def entry(self, *, follow: bool = True) -> Entry:
        """Return lamina's entry, which has xattrs and the time in nanoseconds."""
        union, node = self._node(follow=follow)
        return union.entry(node)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return what ``os.stat`` would. The device is 0; all times are the modification time, because images have no
        other."""
        union = self._stack.union()
        node = self._found(union, follow=follow_symlinks)
        entry, inode, links = union.entry(node), union.inode(node), union.links(node)
        size = len(entry.link) if entry.kind == Kind.SYMLINK else entry.size
        seconds, time = entry.mtime // 1_000_000_000, entry.mtime / 1e9
        more: dict[str, Any] = {
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), time),
            **dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), entry.mtime),
        }
        if entry.rdev != (0, 0) and hasattr(os, "makedev"):
            more["st_rdev"] = os.makedev(*entry.rdev)
        mode = FORMATS[entry.kind] | entry.mode
        return os.stat_result((mode, inode, 0, links, entry.uid, entry.gid, size, *[seconds] * 3), more)

    def lstat(self) -> os.stat_result:
        return self.stat(follow_symlinks=False)

    def readlink(self) -> str:
        """Return the target of a symlink unchanged, as ``os.readlink`` does. Raises UsageError for anything else."""
        union, node = self._node(follow=False)
        if union.kind(node) != Kind.SYMLINK:
            raise NotAFile(f"{str(self)!r:.300} in {self._stack.name} is not a symlink")
        return os.fsdecode(union.link_target(node))

    def resolve(self, strict: bool = True) -> ImagePath:
        """Return the path without symlinks and ``..``. Raises PathNotFound; without ``strict``, missing components at
        the end are kept."""
        rest: list[str] = []
        path = self
        while True:
            try:
                union, node = path._node()
            except PathNotFound:
                if strict or not path._bytes:
                    raise
                rest.append(path.name)
                path = path.parent
                continue
            return ImagePath(self._stack, os.fsdecode(union.path(node))).joinpath(*reversed(rest))

    def iterdir(self) -> Iterator[ImagePath]:
        """Yield the entries of the directory, in byte order of their names."""
        union = self._stack.union()
        node = self._found(union)
        if not union.is_directory(node):
            raise NotADirectory(f"{str(self)!r:.300} in {self._stack.name} is not a directory")
        return (self / os.fsdecode(name) for name in sorted(union.children(node)))

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[ImagePath, list[str], list[str]]]:
        """Yield (directory, names of directories in it, names of other entries) for this directory and all below it,
        as pathlib does. With ``top_down`` the caller may remove directories from the list. Symlinks to directories
        are entered only with ``follow_symlinks``; a loop of symlinks then never ends."""
        pending: list[ImagePath | tuple[ImagePath, list[str], list[str]]] = [self]
        while pending:
            path = pending.pop()
            if isinstance(path, tuple):
                yield path
                continue
            try:
                found = list(path.iterdir())
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            directories = [one.name for one in found if one.is_dir(follow_symlinks=follow_symlinks)]
            others = sorted({one.name for one in found}.difference(directories), key=os.fsencode)
            if top_down:
                yield path, directories, others
            else:
                pending.append((path, directories, others))
            pending += [path / name for name in reversed(directories)]

    def glob(self, pattern: str) -> Iterator[ImagePath]:
        """Yield the paths that match a relative pattern, as in pathlib; ``**`` does not follow symlinks. Raises
        InvalidPath."""
        from lamina.union.glob import glob

        if not pattern or pattern.startswith("/"):
            raise InvalidPath(
                f"{pattern!r:.200} is not a relative pattern", hint="use a pattern like '*.conf' or '**/*.so'"
            )
        parts = [os.fsencode(part) for part in ImagePath(self._stack, pattern).parts[1:]]
        union = self._stack.union()
        return (self / os.fsdecode(path) for path in glob(union, self._found(union), parts))

    def rglob(self, pattern: str) -> Iterator[ImagePath]:
        return self.glob("**/" + pattern.lstrip("/"))

    # content

    @overload
    def open(
        self,
        mode: Literal["r", "rt", "tr"] = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.TextIOWrapper: ...

    @overload
    def open(self, mode: Literal["rb", "br"], buffering: int = -1) -> IO[bytes]: ...

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a regular file for reading, "r" (UTF-8 by default) or "rb". Raises ReadOnly (EROFS) for modes that
        write; InvalidPath (a ValueError) for an invalid mode."""
        if sorted(mode) not in (["r"], ["r", "t"], ["b", "r"]):
            if set(mode) & set("wax+"):
                self._refuse()
            raise InvalidPath(f"mode {mode!r:.60} is not r or rb", hint="use r or rb: an image is read-only")
        raw = _RawFile(self._content())
        if buffering == 0 and "b" in mode:
            return raw  # type: ignore[return-value]
        file = io.BufferedReader(raw, buffering if buffering > 1 else 1 << 17)
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        with self._content() as stream:
            return stream.read()

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Read the whole file as text, UTF-8 by default."""
        with self.open("r", encoding=encoding, errors=errors, newline=newline) as file:
            return file.read()

    # an image is read-only

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Raise ReadOnly: an image can't be changed; ``image.append`` makes a new one."""
        raise ReadOnly(
            f"{str(self)!r:.300} in {self._stack.name}: an image is read-only",
            hint="make a new image with image.append()",
        )

    write_text = write_bytes = touch = mkdir = rmdir = unlink = rename = replace = _refuse
    chmod = lchmod = symlink_to = hardlink_to = _refuse

    def _content(self) -> Stream:
        union, node = self._node()
        kind = union.kind(node)
        if kind != Kind.FILE:
            error = IsADirectory if kind == Kind.DIRECTORY else NotAFile
            raise error(f"{str(self)!r:.300} in {self._stack.name} is not a regular file")
        return self._stack.open_stored(union.stored(node))

    def _kind(self, *, follow: bool = True) -> Kind | None:
        try:
            union, node = self._node(follow=follow)
        except PathNotFound:
            return None
        return union.kind(node)

    def _node(self, *, follow: bool = True) -> tuple[Union, int]:
        """Look up the path in as little of the union as needed."""
        return self._stack.lookup(self._bytes, follow=follow)

    def _found(self, union: Union, *, follow: bool = True) -> int:
        return union.lookup(self._bytes, follow=follow)

    @property
    def _bytes(self) -> bytes:
        return os.fsencode(str(self._pure)).strip(b"/")

    @property
    def _image(self) -> tuple[object, ...]:
        stack = self._stack
        return stack.manifest.descriptor.digest, stack.first, len(stack.layers)

    @property
    def _key(self) -> tuple[object, ...]:
        return *self._image, self._pure

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, ImagePath) else NotImplemented

    def __lt__(self, other: ImagePath) -> bool:
        """Compare by text, for sorted lists."""
        return self._pure < other._pure

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        """Return the path in the image."""
        return str(self._pure)

    def __repr__(self) -> str:
        return f"<lamina.ImagePath {str(self)!r} in {self._stack.name!r}>"


def text_of(path: str | os.PathLike[str]) -> str:
    """Return a path as text; for an ``ImagePath``, its path in the image."""
    return str(path) if isinstance(path, ImagePath) else os.fspath(path)


def _folded(parts: Sequence[str], case_sensitive: bool) -> list[str]:
    return list(parts) if case_sensitive else [part.lower() for part in parts]


def _is_match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the components of a path match those of a pattern. The time is bounded by the product of
    their lengths."""
    reached = {0}  # numbers of pattern components that may be matched so far
    for part in (*parts, None):
        for at in range(len(pattern)):
            if at in reached and pattern[at] == "**":
                reached.add(at + 1)
        if part is None:
            break
        reached = {
            at + (pattern[at] != "**")
            for at in reached
            if at < len(pattern) and (pattern[at] == "**" or fnmatchcase(part, pattern[at]))
        }
    return len(pattern) in reached


class _RawFile(io.RawIOBase):
    """The content of a file as a raw stream for Python's buffered readers."""

    def __init__(self, content: Stream) -> None:
        from lamina.layer.file_content import Content

        assert isinstance(content, Content)
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(-1)

    def _read(self, size: int) -> bytes:
        if self.closed:
            raise ValueError("I/O operation on closed file")  # the message of every Python file
        if self._at >= self._content.size:
            return b""
        self._content.seek(self._at)
        data = self._content.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        at = (0, self._at, self._content.size)[whence] + offset
        if at < 0:
            raise NotAFile(f"can't seek to byte {at}", hint="use an offset of 0 or more")
        self._at = at  # beyond the end nothing is read, as in every file
        return at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._content.close()
        super().close()


_as_any_file = resources.as_file.dispatch(object)  # type: ignore[attr-defined]


@resources.as_file.register(ImagePath)  # type: ignore[attr-defined, untyped-decorator]
def _as_file(path: ImagePath) -> AbstractContextManager[Path]:
    """Return a temporary copy of the file. Directories are refused: importlib would follow every symlink in them, and
    two symlinks to parents are enough to fill a disk."""
    if path.is_dir():
        raise IsADirectory(f"{str(path)!r:.300} is a directory", hint="mount the image with image.mount()")
    found: AbstractContextManager[Path] = _as_any_file(path)
    return found


if TYPE_CHECKING:

    def _fits(path: ImagePath) -> Traversable:
        return path
