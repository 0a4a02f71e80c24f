"""File helpers for every package that touches a disk: OSError as SystemFailure, byte ranges of files, atomic
replacement. They work wherever Python does; what a platform lacks is skipped."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import Cancelled, Conflict, DiskFull, LaminaError, SystemFailure, TooManyFiles
from lamina.host.temporary import Temporary
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO, Protocol, Self

    from typing_extensions import TypeIs

    class Extent(Protocol):
        """A stream that is a range of a file, which the kernel can copy."""

        def extent(self) -> tuple[int, int, int]:
            """Descriptor, first byte and end of what was not read yet. The stream closes the descriptor."""
            ...


CHUNK = 1 << 20
_OWN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
READ_FLAGS = os.O_RDONLY | _OWN
_READ_REGULAR = READ_FLAGS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
WRITE_FLAGS = os.O_RDWR | os.O_CREAT | _OWN
_HINTS = {
    errno.ENOSPC: ("the disk is full", "free some space; `lamina prune` deletes what no image needs"),
    errno.EDQUOT: ("the disk quota is used up", "free some space; `lamina prune` deletes what no image needs"),
    errno.ENOENT: ("no such file or directory", "check the path"),
    errno.EACCES: ("permission denied", "check owner and mode, or choose another directory"),
    errno.EPERM: ("operation not permitted", "check owner and mode, or run it as the owner"),
    errno.EROFS: ("the file system is read-only", "choose another directory"),
    errno.EIO: ("input/output error", "the disk may be failing: check the system log"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many open files on this machine", "end other programs, or raise fs.file-max"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
    errno.EADDRINUSE: ("the address is in use", "choose another port, or end the program that listens there"),
    errno.EADDRNOTAVAIL: ("this host does not have the address", "choose an address of this host; 0.0.0.0 is all"),
    errno.ELOOP: ("it is a symlink, which is not allowed here", "check who created it"),
}
_KINDS = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EMFILE: TooManyFiles,
    errno.ENFILE: TooManyFiles,
}


def failure(error: OSError, path: str | bytes | None = None) -> SystemFailure:
    """Translate an OSError to SystemFailure (DiskFull for a full disk or quota, TooManyFiles). ``path`` is the file
    that was worked on."""
    what = path if path is not None else error.filename
    text, hint = _HINTS.get(error.errno or 0, (error.strerror or str(error), "check the system log"))
    kind = _KINDS.get(error.errno or 0, SystemFailure)
    return kind(f"{_shown(what)}: {text}" if what else text, hint=hint)


@contextmanager
def reported(path: str | bytes | None = None) -> Iterator[None]:
    """Turn an OSError inside the block into a SystemFailure that names the file of the error, else ``path``."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (BrokenPipeError, LaminaError)):
            raise
        raise failure(error, error.filename or path) from error


def read_regular(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a regular file. Another kind of file in its place could block or never end. Raises
    OSError."""
    descriptor = os.open(path, _READ_REGULAR)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(path)
        return file.read(most)


def _shown(path: str | bytes | int) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes)) else f"descriptor {path}"


def has_extent(stream: object) -> TypeIs[Extent]:
    """Whether the stream is a range of a file, which the kernel can copy."""
    return hasattr(stream, "extent")


class FileRange:
    """A ``Stream`` of the bytes ``start`` to ``end`` (None: the end) of a file, read by position."""

    _descriptor = -1  # if opening fails, there is nothing to close

    def __init__(self, path: str, start: int = 0, end: int | None = None) -> None:
        """Open the file. Raises OSError."""
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
    """A ``Stream`` of the bytes ``start`` to ``end`` of a file that ``owner`` has open and closes. It keeps ``owner``
    alive. It reads by position, so that several streams can share the file."""

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
        """Do nothing: the owner closes the file."""

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
    """Write everything, with as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: str) -> None:
    """Sync a directory, so that renames and new files in it survive a power cut; skipped where the platform can't do
    it. Raises OSError."""
    if os.name == "nt":
        return  # Windows can't open directories
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
    """Replace a file atomically: readers see the old content or the new, never a part of it. It writes a temporary
    file, syncs it, renames it, and syncs the directory.

    ``within`` is the directory of the temporary file (on the same file system; default: that of the file). Without
    ``lasting`` nothing is synced: after a crash of the host the file may be empty or missing. Raises OSError.
    """
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
    """Sync the whole file system of ``path`` (syncfs): one call for many new files. Raises OSError."""
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
    """Write a file atomically from pieces as they come: it appears complete or not at all."""
    with whole_file(path) as file:
        for piece in pieces:
            file.write(piece)


def check_replaceable(path: str) -> None:
    """Check that a file which the user named can be replaced by rename. A device, a pipe or a directory can't: rename
    would put a file in its place, for every process of the host. Raises Conflict."""
    above = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    system = above == "/dev" or f"{above}/".startswith(("/proc/", "/sys/"))  # /dev/shm has ordinary files
    if os.path.lexists(path):
        if system or (os.path.exists(path) and not os.path.isfile(path)):
            raise Conflict(f"{path!r:.300} exists and is not a regular file", hint="choose another name")
    elif system and os.path.isdir(above):
        raise Conflict(f"{path!r:.300} would be among the devices of the host", hint="choose another directory")


def write_named(path: str, data: bytes) -> None:
    """Write a small file that the user named: replace a regular file atomically; write into a device or a pipe, such
    as /dev/stdout. Raises Conflict (a directory), OSError."""
    try:
        check_replaceable(path)
    except Conflict:
        if not os.path.exists(path) or os.path.isdir(path):
            raise
        with open(path, "wb") as file:
            file.write(data)
        return
    replace_file(path, [data])


@contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file that appears at ``path`` only if the block ends without an error; it is synced then. Raises
    Conflict (see ``check_replaceable``), OSError."""
    check_replaceable(path)
    directory, name = os.path.split(path)
    with Temporary(directory or ".", name, mode=0o666) as temporary:
        with open(temporary.descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.put(path)
    sync_directory(directory or ".")


def make_directory(path: str, mode: int = 0o700) -> None:
    """Create a directory and its missing parents, with exactly this mode whatever the umask is. Does nothing if it
    already exists. Raises OSError."""
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
    """List the names of the regular files in a directory, sorted; anything else there is not lamina's. Raises
    OSError."""
    with os.scandir(directory) as found:
        return sorted(one.name for one in found if one.is_file(follow_symlinks=False))


def names_of_directories(directory: str) -> list[str]:
    """List the names of the directories in a directory, sorted. Raises OSError."""
    with os.scandir(directory) as found:
        return sorted(one.name for one in found if one.is_dir(follow_symlinks=False))


def remove(path: str) -> bool:
    """Unlink a file. Returns False if it did not exist."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def first_error(errors: list[BaseException]) -> BaseException | None:
    """Return the first error of threads that stop each other, but a Cancelled only if there is nothing else."""
    for error in errors:
        if not isinstance(error, Cancelled):
            return error
    return errors[0] if errors else None
