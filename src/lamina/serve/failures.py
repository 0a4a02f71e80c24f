"""What a server answers when a request failed: the spec's JSON errors."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lamina.errors import DiskFull, LaminaError
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
    _log.warning("%s", error)
    wait = getattr(error, "retry_after", None)
    if wait is not None:  # the place says that it is not for long
        return failed(ApiError(503, "UNAVAILABLE", error.message, Retry_After=str(wait)))
    status = 507 if isinstance(error, DiskFull) else 500
    return failed(ApiError(status, "UNKNOWN", error.message))
