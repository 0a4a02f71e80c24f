"""The registry's API: answers requests from a place of images. Knows requests and protocols, no sockets.

It implements the distribution-spec. Repository names in URLs are references in docker's normalisation or, with
``?ns=HOST`` (mirrors), names at that host. All repositories share one pool of blobs: a blob of the place is in every
repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lamina.errors import Conflict, NotFound
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import ApiError
from lamina.serve.write import WriteApi


class Api(WriteApi):
    """Answers for ``source``. ``writing`` is given where clients may write: it is the same place then."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """Open a session for the server's life, so that gc keeps what clients have sent until it has a name."""
        if self._place is None:
            yield
            return
        with self._place.session("serve") as self._session:
            try:
                yield
            finally:
                self._session = None

    def answer(self, request: Request) -> Response:
        """Answer a request. Raises ApiError; LaminaError if the place itself fails."""
        kind, method = request.route.kind, request.method
        reading = method in ("GET", "HEAD")
        if kind == "base" and reading:
            return Response(200, {"Content-Type": "application/json"}, b"{}")
        if kind == "catalog" and reading:
            return self._catalog(request)
        if kind == "tags" and reading:
            return self._tags(request)
        if kind == "referrers" and reading:
            return self._referrers(request)
        if kind == "manifest":
            if reading:
                return self._manifest(request)
            if method == "PUT":
                return self._put_manifest(request)
            if method == "DELETE":
                return self._delete_manifest(request)
        if kind == "blob":
            if reading:
                return self._blob(request)
            if method == "DELETE":
                return self._delete_blob(request)
        try:
            if kind == "uploads" and method == "POST":
                return self._begin(request)
            if kind == "upload":
                return self._upload(request)
        except Conflict as error:
            raise ApiError(409, "BLOB_UPLOAD_INVALID", error.message) from None
        except NotFound as error:
            raise ApiError(404, "BLOB_UPLOAD_UNKNOWN", error.message) from None
        raise ApiError(405, "UNSUPPORTED", f"{method} is not supported here", Allow="GET, HEAD")
