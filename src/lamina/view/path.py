"""A path in the union as Python's own libraries take one: ``importlib.resources.abc.Traversable``, and what pathlib's
users miss beside it. Paths are ``str`` here, bytes that are not UTF-8 as surrogate escapes."""

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
    """The image's tables of users and groups have no name for a number; pathlib raises KeyError there."""


_shown: WeakValueDictionary[str, Stack] = WeakValueDictionary()
"""Images of this process that a path has been shown of, by their names in URLs."""


def uri_of(stack: Stack) -> str:
    """The name of just this image, or range of layers, in a URL: by digest where the store has it."""
    source = stack.again[1][0] if stack.again is not None else ""
    name = str(source or stack.manifest.descriptor.digest)
    top = stack.first + len(stack.layers) - 1
    whole = (stack.first, top) == (1, len(stack.manifest.layers))
    return name if whole else f"{name}~{stack.first}:{top}"


def shown(uri: str) -> Stack | None:
    """The image of this process that ``uri_of`` has named so, if it is still open."""
    return _shown.get(uri)


class ImagePath:
    """``image.path("/etc/os-release")``: an absolute path in an image, to read from; never one of this machine.

    The methods are those of ``pathlib.Path``; those that write raise ReadOnly (EROFS). Symlinks are followed inside
    the image, ``..`` as the kernel does, never above the root. Paths are equal where image, range of layers and text
    are. Errors are lamina's and at once those of ``open`` and ``os.listdir``: PathNotFound is a FileNotFoundError.
    InvalidContent, SystemFailure as with every reading of an image.
    """

    __slots__ = ("_pure", "_stack")

    def __init__(self, stack: Stack, path: str | os.PathLike[str] = "/") -> None:
        """Raises InvalidPath for text that no path can have."""
        text = text_of(path)
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise InvalidPath(
                f"{text!r:.200} is not a path", hint="bytes are given as os.fsdecode has them"
            ) from None
        self._stack = stack
        self._pure = PurePosixPath("/" + text.lstrip("/"))

    def __reduce__(self) -> tuple[type[ImagePath], tuple[Stack, str]]:
        return type(self), (self._stack, str(self))

    # what the text says

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
        """The root is its own parent."""
        return ImagePath(self._stack, self._pure.parent)

    @property
    def parents(self) -> Sequence[ImagePath]:
        """The directories above, nearest first."""
        return tuple(ImagePath(self._stack, one) for one in self._pure.parents)

    def joinpath(self, *segments: str | os.PathLike[str]) -> ImagePath:
        """Each may have several components; an absolute one starts again at the image's root."""
        return ImagePath(self._stack, self._pure.joinpath(*map(text_of, segments)))

    def __truediv__(self, segment: str | os.PathLike[str]) -> ImagePath:
        return self.joinpath(segment)

    def with_segments(self, *segments: str | os.PathLike[str]) -> ImagePath:
        """A path of the same image."""
        return ImagePath(self._stack, PurePosixPath("/", *map(text_of, segments)))

    def with_name(self, name: str) -> ImagePath:
        """With another last component. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_name(name))

    def with_stem(self, stem: str) -> ImagePath:
        """With another last component and the same suffix. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> ImagePath:
        """With another suffix, or with "" none. Raises InvalidPath."""
        return self._with(lambda: self._pure.with_suffix(suffix))

    def _with(self, changed: Callable[[], PurePosixPath]) -> ImagePath:
        try:
            return ImagePath(self._stack, changed())
        except ValueError as error:
            if isinstance(error, InvalidPath):
                raise
            raise InvalidPath(f"{str(self)!r:.300}: {error}") from None

    def relative_to(self, other: ImagePath | str, *, walk_up: bool = False) -> PurePosixPath:
        """The path from ``other`` to this one. Raises InvalidPath, which is a ValueError, where this one does not
        begin with ``other``, unless ``walk_up`` allows ``..``."""
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
        """Whether the end of the path fits the pattern; a pattern with a ``/`` first must fit the whole."""
        if not pattern:
            raise InvalidPath("an empty pattern")
        ours, wanted = (
            _folded(self._pure.parts, case_sensitive),
            _folded(PurePosixPath(pattern).parts, case_sensitive),
        )
        if pattern.startswith("/"):
            return len(ours) == len(wanted) and all(map(fnmatchcase, ours, wanted))
        return len(ours) >= len(wanted) and all(map(fnmatchcase, ours[len(ours) - len(wanted) :], wanted))

    def full_match(self, pattern: str, *, case_sensitive: bool = True) -> bool:
        """Whether the whole path fits the pattern; ``**`` stands for any number of components."""
        wanted = _folded(PurePosixPath("/", pattern).parts[1:], case_sensitive)
        return _is_match(_folded(self._pure.parts[1:], case_sensitive), wanted)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> ImagePath:
        return self

    def as_posix(self) -> str:
        return str(self)

    def as_uri(self) -> str:
        """A URL that fsspec, pandas and universal-pathlib open: of just this image, whatever its name means later."""
        return f"lamina://{uri_of(self._stack)}/{self}"

    def __fspath__(self) -> str:
        """The URL, for libraries that take URLs. What takes only paths of this machine finds no such file there."""
        _shown[uri_of(self._stack)] = self._stack
        return self.as_uri()

    def to_json(self) -> dict[str, Any]:
        """Image, layers and path, for JSON."""
        stack = self._stack
        return {
            "image": stack.name,
            "digest": str(stack.manifest.descriptor.digest),
            "layers": [stack.first, stack.first + len(stack.layers) - 1],
            **json_path(self._bytes),
        }

    # what is there

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """False for a symlink that leads nowhere, unless the link itself is meant."""
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
        """False: layers hold no sockets."""
        return False

    def is_mount(self) -> bool:
        """Only the image's root is."""
        return not self._bytes

    def is_junction(self) -> bool:
        """False: junctions are Windows'."""
        return False

    def samefile(self, other: ImagePath | str) -> bool:
        """Whether both are the same file of the same image: by a link, or by hard links. Raises PathNotFound."""
        there = other if isinstance(other, ImagePath) else ImagePath(self._stack, other)
        if self._image != there._image:
            return False
        union = self._stack.union()
        return union.inode(self._found(union)) == union.inode(there._found(union))

    def owner(self, *, follow_symlinks: bool = True) -> str:
        """The user's name in the image's own /etc/passwd. Raises NoSuchOwner, which is a KeyError, PathNotFound."""
        return self._named("passwd", self.entry(follow=follow_symlinks).uid)

    def group(self, *, follow_symlinks: bool = True) -> str:
        """The group's name in the image's own /etc/group. Raises as ``owner``."""
        return self._named("group", self.entry(follow=follow_symlinks).gid)

    def _named(self, table: str, number: int) -> str:
        try:
            lines = ImagePath(self._stack, f"/etc/{table}").read_bytes().split(b"\n")
        except OSError:  # no such file, or something else in its place
            lines = []
        for line in lines:
            name, *more = line.split(b":")
            if more[1:2] == [b"%d" % number]:
                return os.fsdecode(name)
        raise NoSuchOwner(f"/etc/{table} of {self._stack.name} has no {number}")

    def entry(self, *, follow: bool = True) -> Entry:
        """As lamina has it: also xattrs, and the time in nanoseconds."""
        union, node = self._node(follow=follow)
        return union.entry(node)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As ``os.stat``. No device (0); of the times images state only the one of modification."""
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
        """A symlink's target as it stands there, as ``os.readlink`` gives it. Raises UsageError for anything else."""
        union, node = self._node(follow=False)
        if union.kind(node) != Kind.SYMLINK:
            raise NotAFile(f"{str(self)!r:.300} in {self._stack.name} is not a symlink")
        return os.fsdecode(union.link_target(node))

    def resolve(self, strict: bool = True) -> ImagePath:
        """Without symlinks and ``..``. Raises PathNotFound; without ``strict``, what is missing at the end stays."""
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
        """In byte order of the names."""
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
        """(directory, names of directories in it, names of all else) of this directory and all below it, as pathlib
        has it: with ``top_down`` the caller may take directories out of the list. Links to directories are not
        entered unless ``follow_symlinks``, which never ends where they lead upwards."""
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
        """What fits a relative pattern, as pathlib has them; ``**`` goes through no symlinks. Raises InvalidPath."""
        from lamina.union.glob import glob

        if not pattern or pattern.startswith("/"):
            raise InvalidPath(f"{pattern!r:.200} is not a relative pattern", hint="like '*.conf' or '**/*.so'")
        parts = [os.fsencode(part) for part in ImagePath(self._stack, pattern).parts[1:]]
        union = self._stack.union()
        return (self / os.fsdecode(path) for path in glob(union, self._found(union), parts))

    def rglob(self, pattern: str) -> Iterator[ImagePath]:
        return self.glob("**/" + pattern.lstrip("/"))

    # what is in it

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
        """A regular file to read, "r" (UTF-8 by default) or "rb". Raises ReadOnly (EROFS) for modes that write,
        InvalidPath (a ValueError) for what is no mode."""
        if sorted(mode) not in (["r"], ["r", "t"], ["b", "r"]):
            if set(mode) & set("wax+"):
                self._refuse()
            raise InvalidPath(f"mode {mode!r:.60} is not r or rb", hint="an image is read-only")
        raw = _RawFile(self._content())
        if buffering == 0 and "b" in mode:
            return raw  # type: ignore[return-value]
        file = io.BufferedReader(raw, buffering if buffering > 1 else 1 << 17)
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        with self._content() as stream:
            return stream.read()

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """UTF-8 by default."""
        with self.open("r", encoding=encoding, errors=errors, newline=newline) as file:
            return file.read()

    # what an image does not take

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        """Raises ReadOnly: images are read-only, ``image.append`` makes a new one."""
        raise ReadOnly(
            f"{str(self)!r:.300} in {self._stack.name}: an image is read-only", hint="image.append() makes a new one"
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
        """In as little of the union as that takes."""
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
        """By their text, for sorted lists."""
        return self._pure < other._pure

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        """The path in the image."""
        return str(self._pure)

    def __repr__(self) -> str:
        return f"<lamina.ImagePath {str(self)!r} in {self._stack.name!r}>"


def text_of(path: str | os.PathLike[str]) -> str:
    """A path as text, that of an ``ImagePath`` in its image."""
    return str(path) if isinstance(path, ImagePath) else os.fspath(path)


def _folded(parts: Sequence[str], case_sensitive: bool) -> list[str]:
    return list(parts) if case_sensitive else [part.lower() for part in parts]


def _is_match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path's components fit a pattern's, in time that grows with both lengths only."""
    reached = {0}  # how much of the pattern may be used up
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
    """A file's content as Python's buffers read it."""

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
            raise ValueError("I/O operation on closed file")  # what every file says
        if self._at >= self._content.size:
            return b""
        self._content.seek(self._at)
        data = self._content.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        at = (0, self._at, self._content.size)[whence] + offset
        if at < 0:
            raise NotAFile(f"there is no byte {at}", hint="files begin at 0")
        self._at = at  # behind the end nothing is read, as with every file
        return at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._content.close()
        super().close()


_as_any_file = resources.as_file.dispatch(object)  # type: ignore[attr-defined]


@resources.as_file.register(ImagePath)  # type: ignore[attr-defined, untyped-decorator]
def _as_file(path: ImagePath) -> AbstractContextManager[Path]:
    """A copy for as long as the block runs. Directories are refused: importlib would follow every symlink in them,
    and two that lead upwards are enough to fill a disk."""
    if path.is_dir():
        raise IsADirectory(f"{str(path)!r:.300} is a directory", hint="image.mount() gives a real one")
    found: AbstractContextManager[Path] = _as_any_file(path)
    return found


if TYPE_CHECKING:

    def _fits(path: ImagePath) -> Traversable:
        return path
