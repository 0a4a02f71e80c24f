"""The errors of lamina.

Every expected failure is a ``LaminaError``. ``message`` is one line that says what failed and on what (a reference, a
digest, a path); ``hint`` says what to do; ``exit_code`` is the exit code of the command line
(``docs/exit-codes.md``).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class LaminaError(Exception):
    """Base of all expected failures."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | Callable[[], str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self._hint = hint

    @property
    def hint(self) -> str | None:
        """What to do about the failure. A hint that takes time to find is computed at the first use."""
        if callable(self._hint):
            self._hint = self._hint()
        return self._hint

    def suggest(self, hint: str) -> None:
        """Put ``hint`` before the hint that the error has."""
        self._hint = f"{hint}; {self.hint}" if self.hint else hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> str | tuple[object, ...]:
        """Pickle the hint as text: what computes it stays in this process."""
        self._hint = self.hint
        return super().__reduce__()


class UsageError(LaminaError):
    """Invalid input of the caller: a bad reference, flag, platform or range."""

    exit_code = 2


class NotFound(LaminaError):
    """A named thing does not exist: an image, a path in an image, a blob."""

    exit_code = 3


class ReferenceNotFound(NotFound):
    """No image has this name."""


class NoStore(NotFound):
    """The store does not exist yet."""


class BlobNotFound(NotFound):
    """The place has no blob with this digest."""


class ContentMissing(NotFound):
    """A registry lacks blobs or manifests that a pushed manifest lists. ``manifest``: the digest of that manifest;
    ``named``: the digests that the registry names, if it names any."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | Callable[[], str] | None = None,
        manifest: str = "",
        named: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message, hint=hint)
        self.manifest = manifest
        self.named = named


class PathNotFound(NotFound, FileNotFoundError):
    """The union does not have this path."""

    errno = 2  # ENOENT; numbers, because the module errno is not always loaded


class NotADirectory(UsageError, NotADirectoryError):
    """A path in an image was listed but is not a directory."""

    errno = 20  # ENOTDIR


class NotAFile(UsageError, OSError):
    """A path in an image was read but is not a regular file (or not a symlink)."""

    errno = 22  # EINVAL


class IsADirectory(NotAFile, IsADirectoryError):
    """A path in an image was read but is a directory."""

    errno = 21  # EISDIR


class ReadOnly(UsageError, OSError):
    """Images are read-only; a method that writes was called."""

    errno = 30  # EROFS


class InvalidPath(UsageError, ValueError):
    """An invalid path, or a path that is not below another one."""


class InvalidContent(LaminaError):
    """Bytes from outside violate their format, their digest, their size or a limit."""

    exit_code = 4


class DigestMismatch(InvalidContent):
    """The bytes do not match the digest."""


class SizeMismatch(InvalidContent):
    """The number of bytes differs from the size in the descriptor."""


class InvalidDocument(InvalidContent):
    """A manifest, index, config or layout file violates its specification."""


class InvalidLayer(InvalidContent):
    """A layer's archive is malformed or hostile."""


class LimitExceeded(InvalidContent):
    """Input exceeds a limit (an archive bomb, a huge header, too many entries)."""


class Conflict(LaminaError):
    """An existing thing prevents the operation: it already exists, is in use, or others depend on it."""

    exit_code = 5


class SystemFailure(LaminaError):
    """The operating system refused: permission denied, disk full, input/output error."""

    exit_code = 6


class DiskFull(SystemFailure):
    """No space is left on a file system, or a quota is exceeded."""


class TooManyFiles(SystemFailure):
    """This process, or the machine, has as many open files as it may."""


class StoreDamaged(SystemFailure):
    """Files of the store were changed or damaged."""


class Unsupported(LaminaError):
    """Not supported by lamina or by this host: an algorithm, a media type, a transport, a feature."""

    exit_code = 7


class RemoteFailure(LaminaError):
    """A registry can't be reached, or fails: no route, an untrusted certificate, lost connections, 5xx, rate
    limits."""

    exit_code = 8


class RateLimited(RemoteFailure):
    """A registry limits the rate of requests (429). ``retry_after``: the seconds that it asks to wait, if it says."""

    def __init__(
        self, message: str, *, hint: str | Callable[[], str] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class AccessDenied(LaminaError):
    """A registry denies access (401, 403), or rejects a login."""

    exit_code = 9


class ReadOnlyRepository(AccessDenied):
    """Nobody can write to this repository of a server: it is a mirror."""


class ContainerFailure(LaminaError):
    """A container could not be made or started. The exit code is 125 for any reason, as in docker, to differ from
    exit codes of programs."""

    exit_code = 125


class ProgramFailed(LaminaError):
    """The program in a container ended with an exit code other than 0, and the caller used ``check``."""

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
    """Convert an error to values for JSON, to send it to another process."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def from_plain(said: dict[str, str | None]) -> LaminaError:
    """Restore an error from the values of ``to_plain``."""
    kind = globals().get(said["error"] or "", SystemFailure)
    found: LaminaError = kind(said["message"], hint=said["hint"])
    return found
