"""What every room that touches a disk does alike: failures in our words, ranges of files, atomic
replacement. Works where Python does: what a platform lacks is left out, never an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import Cancelled, DiskFull, LaminaError, SystemFailure
from lamina.host.temporary import Temporary
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO, Protocol, Self

    from typing_extensions import TypeIs

    class Extent(Protocol):
        """A stream that is a piece of a file, which the kernel can copy by itself."""

        def extent(self) -> tuple[int, int, int]:
            """Descriptor, first byte and end of what was not read yet. The stream closes the descriptor."""
            ...


CHUNK = 1 << 20
_OWN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
READ_FLAGS = os.O_RDONLY | _OWN
WRITE_FLAGS = os.O_RDWR | os.O_CREAT | _OWN
_HINTS = {
    errno.ENOSPC: ("the disk is full", "free some space; `lamina prune` deletes what no image needs"),
    errno.EDQUOT: ("the disk quota is used up", "free some space; `lamina prune` deletes what no image needs"),
    errno.ENOENT: ("no such file or directory", "check the path"),
    errno.EACCES: ("no permission", "check the rights, or choose another directory"),
    errno.EPERM: ("not permitted", "check the rights, or run it as the owner"),
    errno.EROFS: ("the file system is read-only", "choose another directory"),
    errno.EIO: ("input/output error", "the disk may be failing: check the system log"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n)"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
    errno.ELOOP: ("a symlink stands where none may be", "check who created it"),
}


def failure(error: OSError, path: str | bytes | None = None) -> SystemFailure:
    """An OSError in our words; ``path`` is what was being worked on."""
    what = path if path is not None else error.filename
    text, hint = _HINTS.get(error.errno or 0, (error.strerror or str(error), "see the operating system's message"))
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else SystemFailure
    return kind(f"{_shown(what)}: {text}" if what else text, hint=hint)


@contextmanager
def reported(path: str | bytes | None = None) -> Iterator[None]:
    """Turns an OSError inside into a SystemFailure that names ``path``, or the file that the error names."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (BrokenPipeError, LaminaError)):
            raise
        raise failure(error, error.filename or path) from error


def _shown(path: str | bytes | int) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes)) else f"descriptor {path}"


def has_extent(stream: object) -> TypeIs[Extent]:
    """Whether the stream is a piece of a file, which the kernel can copy by itself."""
    return hasattr(stream, "extent")


class FileRange:
    """Bytes ``start`` to ``end`` (None: the end) of a file, read by position; a ``Stream``."""

    _descriptor = -1  # where it can't be opened there is nothing to close

    def __init__(self, path: str, start: int = 0, end: int | None = None) -> None:
        """Raises OSError where it can't be opened."""
        self._descriptor = os.open(path, READ_FLAGS)
        self._at = start
        self._end = os.fstat(self._descriptor).st_size if end is None else end
        self._path = path

    def read(self, size: int = -1, /) -> bytes:
        left = self._end - self._at
        size = left if size < 0 else min(size, left)
        if size <= 0 or self._descriptor < 0:
            return b""
        with reported(self._path):
            data = _read_at(self._descriptor, size, self._at)
        self._at += len(data)
        return data

    def extent(self) -> tuple[int, int, int]:
        return self._descriptor, self._at, self._end

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class SharedRange:
    """Bytes ``start`` to ``end`` of a file that somebody else has open and closes; a ``Stream``. ``owner`` is kept
    alive as long as this is. Reads by position: several may read at once."""

    def __init__(self, owner: object, descriptor: int, start: int, end: int) -> None:
        self._owner = owner
        self._descriptor, self._at, self._end = descriptor, start, end

    def read(self, size: int = -1, /) -> bytes:
        left = self._end - self._at
        size = left if size < 0 else min(size, left)
        if size <= 0:
            return b""
        with reported():
            data = _read_at(self._descriptor, size, self._at)
        self._at += len(data)
        return data

    def extent(self) -> tuple[int, int, int]:
        return self._descriptor, self._at, self._end

    def close(self) -> None:
        """The file belongs to its owner."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_at(descriptor: int, size: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        pieces = []
        while size > 0:
            piece = os.pread(descriptor, size, at)
            if not piece:
                break
            pieces.append(piece)
            at += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    os.lseek(descriptor, at, os.SEEK_SET)
    return os.read(descriptor, size)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write everything, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: str) -> None:
    """Make renames and creations in a directory last over a power cut, where the platform can. Raises OSError."""
    if os.name == "nt":
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def replace_file(
    path: str,
    pieces: Iterable[bytes | memoryview],
    *,
    mode: int = 0o644,
    within: str = "",
    lasting: bool = True,
) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename, fsync of the directory.
    ``within``: the directory to write in first (same file system); that of the file by default. Not ``lasting``: no
    fsync; where the machine itself ends soon after, the file may be empty or not there. Raises OSError."""
    directory, name = os.path.split(path)
    with Temporary(within or directory or ".", name) as file:
        for piece in pieces:
            write_all(file.descriptor, piece)
        if hasattr(os, "fchmod"):
            os.fchmod(file.descriptor, mode)
        if lasting:
            os.fsync(file.descriptor)
        file.put(path)
    if lasting:
        sync_directory(directory or ".")


def sync_files(path: str | bytes) -> None:
    """Wait until all that was written to the file system of ``path`` is on its disk: one call for many new files.
    Raises OSError."""
    from lamina.host.libc import failed, libc

    try:
        call = libc().syncfs
    except (OSError, AttributeError):  # not Linux
        if hasattr(os, "sync"):
            os.sync()
        return
    descriptor = os.open(path, READ_FLAGS)
    try:
        if call(descriptor) != 0:
            raise failed(os.fsdecode(path))
    finally:
        os.close(descriptor)


def write_stream(path: str, pieces: Iterable[bytes]) -> None:
    """Write a file from pieces as they come, so that it is there whole or not at all."""
    with whole_file(path) as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """A file to write to that is in its place only when the block has ended well; durable then. Raises OSError."""
    directory, name = os.path.split(path)
    with Temporary(directory or ".", name, mode=0o666) as temporary:
        with open(temporary.descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.put(path)
    sync_directory(directory or ".")


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory, and those above it that are missing, with exactly this mode whatever the umask is. Nothing
    where it is there. Raises OSError."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if above and above != path:
        make_directory(above, mode)
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def names_of_files(directory: str) -> list[str]:
    """The regular files in a directory, by name: what else lies about there is not lamina's. Raises OSError."""
    with os.scandir(directory) as found:
        return sorted(one.name for one in found if one.is_file(follow_symlinks=False))


def names_of_directories(directory: str) -> list[str]:
    """As ``names_of_files``, of directories."""
    with os.scandir(directory) as found:
        return sorted(one.name for one in found if one.is_dir(follow_symlinks=False))


def remove(path: str) -> bool:
    """Unlink; False where it was not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def first_error(errors: list[BaseException]) -> BaseException | None:
    """Of errors from threads that stop each other, the one that was first: not a Cancelled if there is another."""
    for error in errors:
        if not isinstance(error, Cancelled):
            return error
    return errors[0] if errors else None
