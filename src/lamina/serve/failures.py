"""What a server answers when a request failed: the spec's JSON errors."""

from __future__ import annotations

import logging
import secrets
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
from lamina.serve.busy import Busy
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import ApiError

_log = logging.getLogger("lamina.serve")


def answered(answer: Callable[[Request], Response], request: Request) -> Response:
    """Answer a request; what is wrong with it, and failures of the place, become responses. Other exceptions are
    raised."""
    try:
        return answer(request)
    except (ApiError, LaminaError) as error:
        return failed(error, request)


def failed(error: ApiError | LaminaError, request: Request | None = None) -> Response:
    """Return the response for an error. ``request`` is for the log."""
    if isinstance(error, ApiError):
        return Response(error.status, {"Content-Type": "application/json", **error.headers}, error.body())
    if isinstance(error, BlobNotFound):
        return failed(ApiError(404, "BLOB_UNKNOWN", error.message))
    if isinstance(error, ReadOnlyRepository):
        return failed(ApiError(403, "DENIED", error.message))
    if isinstance(error, Busy):
        _log.warning("%s", error)
        return failed(ApiError(503, "TOOMANYREQUESTS", error.message, Retry_After=str(ceil(error.retry_after))))
    if isinstance(error, RateLimited):
        _log.warning("%s", error)
        again = {} if error.retry_after is None else {"Retry_After": str(ceil(error.retry_after))}
        return failed(ApiError(429, "TOOMANYREQUESTS", error.message, **again))
    status, code, text, wait = plain(error)
    ident = noted(error, "" if request is None else _shown(request))
    again = {"Retry_After": str(wait)} if wait else {}
    return failed(ApiError(status, code, f"{text} (request {ident})", **again, X_Request_Id=ident))


def fault(error: Exception, request: Request) -> Response:
    """Return the response for a fault of the program."""
    ident = noted(error, _shown(request))
    text = f"the server failed: its log has the reason (request {ident})"
    return failed(ApiError(500, "UNKNOWN", text, X_Request_Id=ident))


def noted(error: BaseException, what: str = "") -> str:
    """Log a failure of this server; the traceback too, if it is a fault of the program. Returns the id by which the
    log line is found. Clients get it instead of the message, which may name directories and buckets."""
    ident = secrets.token_hex(6)
    expected = isinstance(error, LaminaError)
    text = f": {error}" if expected else ""
    line = f"request {ident}{f' ({what})' if what else ''} failed{text}"
    _log.log(logging.WARNING if expected else logging.ERROR, "%s", line, exc_info=None if expected else error)
    return ident


def plain(error: LaminaError) -> tuple[int, str, str, int]:
    """The status, the code and the text for a failure of the place, and the seconds after which a client may try
    again (0: not said). Only other registries, of a mirror, are named."""
    wait = getattr(error, "retry_after", None)
    if wait is not None and not isinstance(error, (Busy, RateLimited)):  # the place says that it is not for long
        return 503, "UNAVAILABLE", "the storage of the registry is not available", wait
    if isinstance(error, TooManyFiles):
        return 503, "UNAVAILABLE", "the registry has too many open files", 1
    if isinstance(error, DiskFull):
        return 507, "UNKNOWN", "the disk of the registry is full", 0
    if isinstance(error, RemoteFailure):
        return 502, "UNKNOWN", error.message, 0
    return 500, "UNKNOWN", "the registry failed: its log has the reason", 0


def _shown(request: Request) -> str:
    route = request.route
    return " ".join(filter(None, (request.method, route.kind, route.name, route.rest[:150])))
