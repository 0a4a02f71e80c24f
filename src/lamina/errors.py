"""The error tree.

Every failure that lamina foresees is a ``LaminaError``. Its message is one line that names the offending
thing (reference, digest, path) and, as ``hint``, what to do about it. ``exit_code`` is what the command line
ends with; the table stands in ``docs/exit-codes.md``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class LaminaError(Exception):
    """Base of all foreseen failures."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | Callable[[], str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self._hint = hint

    @property
    def hint(self) -> str | None:
        """What to do about it. One that takes time to find is looked for when it is asked for."""
        if callable(self._hint):
            self._hint = self._hint()
        return self._hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(LaminaError):
    """The caller asked for something that can't be meant: a bad reference, flag, platform or range."""

    exit_code = 2


class NotFound(LaminaError):
    """Something that was named is not there: an image, a path in an image, a blob."""

    exit_code = 3


class ReferenceNotFound(NotFound):
    """No image has this name here."""


class NoStore(NotFound):
    """There is no store yet: nothing was ever brought in."""


class BlobNotFound(NotFound):
    """No blob with this digest here."""


class PathNotFound(NotFound, FileNotFoundError):
    """The union has no such path."""

    errno = 2  # ENOENT; numbers, because the module errno is not always loaded


class NotADirectory(UsageError, NotADirectoryError):
    """A path of an image is listed, and is no directory."""

    errno = 20  # ENOTDIR


class NotAFile(UsageError, OSError):
    """A path of an image is read, and is no regular file, or no symlink where one is read."""

    errno = 22  # EINVAL


class IsADirectory(NotAFile, IsADirectoryError):
    """A path of an image is read, and is a directory."""

    errno = 21  # EISDIR


class ReadOnly(UsageError, OSError):
    """Images are read-only: a method of a path or a file system that writes was called."""

    errno = 30  # EROFS


class InvalidPath(UsageError, ValueError):
    """Text that is no path, or a path that does not begin with the other one."""


class InvalidContent(LaminaError):
    """Bytes from outside break their format, their digest, their size or a limit."""

    exit_code = 4


class DigestMismatch(InvalidContent):
    """The bytes are not those that the digest promises."""


class SizeMismatch(InvalidContent):
    """There are more or fewer bytes than the descriptor promises."""


class InvalidDocument(InvalidContent):
    """A manifest, index, config or layout file breaks its specification."""


class InvalidLayer(InvalidContent):
    """A layer's archive is malformed or hostile."""


class LimitExceeded(InvalidContent):
    """Input asks for more than the limits allow (bombs, huge headers, too many entries)."""


class Conflict(LaminaError):
    """What is there stands in the way: in use, exists already, has dependants."""

    exit_code = 5


class SystemFailure(LaminaError):
    """The operating system refused: no rights, disk full, input/output error."""

    exit_code = 6


class DiskFull(SystemFailure):
    """No room is left on a file system, or in somebody's share of it."""


class StoreDamaged(SystemFailure):
    """The store's own files are not what lamina wrote."""


class Unsupported(LaminaError):
    """Known but not done here: an algorithm, a media type, a transport, a platform without the feature."""

    exit_code = 7


class RemoteFailure(LaminaError):
    """A registry can't be reached, or fails: no route, no trust in its certificate, cut connections, 5xx, limits."""

    exit_code = 8


class AccessDenied(LaminaError):
    """A registry refuses this user (401, 403), or a login is not what it asks for."""

    exit_code = 9


class ContainerFailure(LaminaError):
    """A container could not be made or started: whatever the reason, docker's one code, which no program's exit code
    is to be confused with."""

    exit_code = 125


class ProgramFailed(LaminaError):
    """The program in a container ended with another exit code than 0, and the caller has asked for 0."""

    def __init__(self, message: str, *, hint: str | None = None, code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.stdout = self.stderr = b""


class TimedOut(LaminaError, TimeoutError):
    """The program in a container ran longer than the caller allowed, and was killed."""

    errno = 110  # ETIMEDOUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stdout = self.stderr = b""


class Cancelled(LaminaError):
    """The caller (or Ctrl-C) stopped the operation."""

    exit_code = 130


def to_plain(error: LaminaError) -> dict[str, str | None]:
    """What JSON can say of an error, for another process."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def from_plain(said: dict[str, str | None]) -> LaminaError:
    """The error that ``to_plain`` told of."""
    kind = globals().get(said["error"] or "", SystemFailure)
    found: LaminaError = kind(said["message"], hint=said["hint"])
    return found
