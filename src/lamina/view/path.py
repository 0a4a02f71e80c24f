"""A path in the union as Python's own libraries take one: ``importlib.resources.abc.Traversable``, and what pathlib's
users miss beside it. Paths are ``str`` here, bytes that are not UTF-8 as surrogate escapes."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from lamina.errors import PathNotFound, UsageError
from lamina.layer.entry import FORMATS, Kind
from lamina.source import Stack, Stream

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from _typeshed import WriteableBuffer

    from lamina.layer.entry import Entry
    from lamina.union.tree import Union


class MissingPath(PathNotFound, FileNotFoundError):
    """The union has no such path; also what code expects that asks file systems."""

    errno = errno.ENOENT


class NoDirectory(UsageError, NotADirectoryError):
    """Listed, and no directory."""

    errno = errno.ENOTDIR


class Unreadable(UsageError, OSError):
    """Nothing that can be read so: no regular file, no symlink, a place before the beginning."""

    errno = errno.EINVAL


class IsDirectory(Unreadable, IsADirectoryError):
    """Opened, and a directory."""

    errno = errno.EISDIR


class ImagePath:
    """``image.path("/etc/os-release")``: an absolute path in an image, to read from; never one of this machine.

    Symlinks are followed inside the image, ``..`` as the kernel does, never above the root. Paths are equal where
    image, range of layers and text are. Errors are lamina's and at once those of ``open`` and ``os.listdir``:
    PathNotFound is a FileNotFoundError here. InvalidContent, SystemFailure as with every reading of an image.
    """

    __slots__ = ("_pure", "_stack")

    def __init__(self, stack: Stack, path: str | os.PathLike[str] = "/") -> None:
        """Raises UsageError for text that no path can have."""
        text = os.fspath(path)
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise UsageError(f"{text!r:.200} is no path", hint="bytes are given as os.fsdecode has them") from None
        self._stack = stack
        self._pure = PurePosixPath("/" + text.lstrip("/"))

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
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def parent(self) -> ImagePath:
        """The root is its own parent."""
        return ImagePath(self._stack, self._pure.parent)

    def joinpath(self, *segments: str | os.PathLike[str]) -> ImagePath:
        """Each may have several components; an absolute one starts again at the image's root."""
        return ImagePath(self._stack, self._pure.joinpath(*segments))

    def __truediv__(self, segment: str | os.PathLike[str]) -> ImagePath:
        return self.joinpath(segment)

    def relative_to(self, other: ImagePath | str) -> PurePosixPath:
        """Raises UsageError where it does not begin with ``other``."""
        try:
            return self._pure.relative_to(str(other))
        except ValueError:
            raise UsageError(f"{str(self)!r:.300} is not below {str(other)!r:.300}") from None

    # what is there

    def exists(self) -> bool:
        """False for a symlink that leads nowhere."""
        return self._kind() is not None

    def is_dir(self) -> bool:
        return self._kind() == Kind.DIRECTORY

    def is_file(self) -> bool:
        return self._kind() == Kind.FILE

    def is_symlink(self) -> bool:
        return self._kind(follow=False) == Kind.SYMLINK

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
            raise Unreadable(f"{str(self)!r:.300} in {self._stack.name} is no symlink")
        return os.fsdecode(union.link_target(node))

    def resolve(self) -> ImagePath:
        """Without symlinks and ``..``. Raises PathNotFound."""
        union, node = self._node()
        return ImagePath(self._stack, os.fsdecode(union.path(node)))

    def iterdir(self) -> Iterator[ImagePath]:
        """In byte order of the names."""
        union = self._stack.union()
        node = self._found(union)
        if not union.is_directory(node):
            raise NoDirectory(f"{str(self)!r:.300} in {self._stack.name} is no directory")
        return (self / os.fsdecode(name) for name in sorted(union.children(node)))

    def glob(self, pattern: str) -> Iterator[ImagePath]:
        """What fits a relative pattern, as pathlib has them; ``**`` goes through no symlinks. Raises UsageError."""
        from lamina.union.glob import glob

        if not pattern or pattern.startswith("/"):
            raise UsageError(f"{pattern!r:.200} is no relative pattern", hint="like '*.conf' or '**/*.so'")
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
        """A regular file to read, "r" (UTF-8 by default) or "rb". Raises UsageError for other modes."""
        if sorted(mode) not in (["r"], ["r", "t"], ["b", "r"]):
            hint = "an image is read-only: image.append() makes a new one"
            raise UsageError(f"mode {mode!r:.60} is not r or rb", hint=hint)
        raw = _RawFile(self._content())
        if buffering == 0 and "b" in mode:
            return raw  # type: ignore[return-value]
        file = io.BufferedReader(raw, buffering if buffering > 1 else 1 << 17)
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        with self._content() as stream:
            return stream.read()

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """UTF-8 by default."""
        with self.open("r", encoding=encoding, errors=errors) as file:
            return file.read()

    def _content(self) -> Stream:
        union, node = self._node()
        kind = union.kind(node)
        if kind != Kind.FILE:
            error = IsDirectory if kind == Kind.DIRECTORY else Unreadable
            raise error(f"{str(self)!r:.300} in {self._stack.name} is no regular file")
        return self._stack.open_stored(union.stored(node))

    def _kind(self, *, follow: bool = True) -> Kind | None:
        try:
            union, node = self._node(follow=follow)
        except MissingPath:
            return None
        return union.kind(node)

    def _node(self, *, follow: bool = True) -> tuple[Union, int]:
        """In as little of the union as that takes."""
        try:
            return self._stack.lookup(self._bytes, follow=follow)
        except PathNotFound as error:
            raise MissingPath(error.message, hint=error.hint) from None

    def _found(self, union: Union, *, follow: bool = True) -> int:
        try:
            return union.lookup(self._bytes, follow=follow)
        except PathNotFound as error:
            raise MissingPath(error.message, hint=error.hint) from None

    @property
    def _bytes(self) -> bytes:
        return os.fsencode(str(self._pure)).strip(b"/")

    @property
    def _key(self) -> tuple[object, ...]:
        stack = self._stack
        return stack.manifest.descriptor.digest, stack.first, len(stack.layers), self._pure

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, ImagePath) else NotImplemented

    def __lt__(self, other: ImagePath) -> bool:
        """By their text, for sorted lists."""
        return self._pure < other._pure

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        """The path in the image. ``open()`` would take it for one of this machine: so there is no ``__fspath__``."""
        return str(self._pure)

    def __repr__(self) -> str:
        return f"<lamina.ImagePath {str(self)!r} in {self._stack.name!r}>"


class _RawFile(io.RawIOBase):
    """A file's content as Python's buffers read it."""

    def __init__(self, content: Stream) -> None:
        from lamina.layer.content import Content

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
            raise Unreadable(f"there is no byte {at}", hint="files begin at 0")
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
        raise IsDirectory(f"{str(path)!r:.300} is a directory", hint="image.mount() gives a real one")
    found: AbstractContextManager[Path] = _as_any_file(path)
    return found


if TYPE_CHECKING:

    def _fits(path: ImagePath) -> Traversable:
        return path
