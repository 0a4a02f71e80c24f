"""The storage's errors in lamina's words. Only the first line and the code of an answer are used: the rest may hold
signatures and names of keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.errors import AccessDenied, LaminaError, RemoteFailure, SystemFailure, Unsupported

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_BUSY = {"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests", "ServerBusy"}
_CREDENTIALS = "check the credentials (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) and their rights"


class StorageFailure(RemoteFailure):
    """The storage does not answer, or fails. A client may try again after ``retry_after`` seconds."""

    retry_after = 5


class StorageBusy(StorageFailure):
    """The storage asks for fewer requests."""

    retry_after = 2


def is_missing_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in str(error)


def is_race(error: BaseException) -> bool:
    """Whether a conditional put was refused because another one was in progress (S3: 409)."""
    text = str(error)
    return "ConditionalRequestConflict" in text or "OperationAborted" in text


@contextmanager
def reported(location: str, what: str) -> Iterator[None]:
    """Turn the errors of obstore in the block into LaminaError. FileNotFoundError is the caller's, except for a
    missing bucket."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        if is_missing_bucket(error):
            raise _missing(location) from None
        raise
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise failure(error, location, what) from None


def failure(error: BaseException, location: str, what: str) -> LaminaError:
    """Return the error for ``what`` ("reading blobs/..."), which failed at ``location``."""
    from obstore import exceptions

    text = str(error)
    found = _CODE.search(text)
    status = _STATUS.search(text)
    code = found[1] if found else f"status {status[1]}" if status else ""
    if is_missing_bucket(error):
        return _missing(location)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return AccessDenied(f"{location} denies {what}{_in_brackets(code)}", hint=_CREDENTIALS)
    if isinstance(error, exceptions.NotSupportedError | NotImplementedError):
        return Unsupported(f"{location} can't do {what}", hint="use storage with conditional puts: S3, GCS or Azure")
    if (found and found[1] in _BUSY) or (status and status[1] in ("429", "503")):
        return StorageBusy(f"{location} is too busy for {what}{_in_brackets(code)}", hint="try again in a moment")
    if "No CA certificates" in text:  # obstore wants them for plain http as well
        return SystemFailure(
            "this host has no CA certificates, which obstore needs for any storage",
            hint="install them (the package ca-certificates), or set SSL_CERT_FILE to a file that has them",
        )
    if not code:
        code = _reason(text)
    if "169.254." in text or "metadata" in code:
        return AccessDenied(f"no credentials for {location}", hint=_CREDENTIALS)
    return StorageFailure(
        f"{location} failed at {what}{_in_brackets(code)}", hint="check the storage's address and that it is running"
    )


def _missing(location: str) -> StorageFailure:
    """Not a NotFound: clients would be told that their image does not exist."""
    return StorageFailure(f"the bucket of {location} does not exist", hint="create the bucket, or check its name")


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _reason(text: str) -> str:
    """Name the reason of a failure without an answer."""
    lowered = text.lower()
    for sign, reason in (
        ("timedout", "it took too long"),
        ("timeout,", "it took too long"),
        ("operation timed out", "it took too long"),
        ("kind: connect", "it can't be reached"),
        ("dns error", "its host name is not known"),
        ("certificate", "its certificate is not trusted"),
    ):
        if sign in lowered:
            return reason
    first = text.splitlines()[0] if text else ""
    return re.sub(r"https?://\S+", "URL", first)[-120:]
