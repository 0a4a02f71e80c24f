"""What a server answers when a request failed: the spec's JSON errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil

from lamina.errors import (
    BlobNotFound,
    DiskFull,
    LaminaError,
    RateLimited,
    ReadOnlyRepository,
    RemoteFailure,
    TooManyFiles,
)
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import ApiError

_log = logging.getLogger("lamina.serve")


def answered(answer: Callable[[Request], Response], request: Request) -> Response:
    """Answer a request; what is wrong with it, and failures of the place, become responses. Other exceptions are
    raised."""
    try:
        return answer(request)
    except (ApiError, LaminaError) as error:
        return failed(error)


def failed(error: ApiError | LaminaError) -> Response:
    """Return the response for an error. That of a place has its message, and never its traceback."""
    if isinstance(error, ApiError):
        return Response(error.status, {"Content-Type": "application/json", **error.headers}, error.body())
    if isinstance(error, BlobNotFound):
        return failed(ApiError(404, "BLOB_UNKNOWN", error.message))
    if isinstance(error, ReadOnlyRepository):
        return failed(ApiError(403, "DENIED", error.message))
    _log.warning("%s", error)
    if isinstance(error, RateLimited):
        again = {} if error.retry_after is None else {"Retry_After": str(ceil(error.retry_after))}
        return failed(ApiError(429, "TOOMANYREQUESTS", error.message, **again))
    wait = getattr(error, "retry_after", None)
    if wait is not None:  # the place says that it is not for long
        return failed(ApiError(503, "UNAVAILABLE", error.message, Retry_After=str(wait)))
    if isinstance(error, TooManyFiles):
        return failed(ApiError(503, "UNAVAILABLE", "the registry has too many open files", Retry_After="1"))
    if isinstance(error, DiskFull):  # its message names a directory of the server
        return failed(ApiError(507, "UNKNOWN", "the disk of the registry is full"))
    return failed(ApiError(502 if isinstance(error, RemoteFailure) else 500, "UNKNOWN", error.message))
