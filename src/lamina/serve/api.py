"""The registry's API: answers requests from repositories. Knows requests and protocols, no sockets.

It implements the distribution-spec. Repository names in URLs are references in docker's normalisation or, with
``?ns=HOST`` (mirrors), names at that host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from lamina.errors import Conflict, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.serve.http_message import Request, Response
from lamina.serve.routes import ApiError
from lamina.serve.write import WriteApi
from lamina.source.abilities import finds_in_repositories, takes_pushes
from lamina.source.repositories import ListedRepositories
from lamina.source.upload_limits import MOST_OF_CLIENT

if TYPE_CHECKING:
    from lamina.serve.mirror.mirror import Mirror
    from lamina.source.served import Readable


@contextmanager
def open_api(
    source: Readable, *, writable: bool, mirror: Mirror | None = None, uploads_each: int = MOST_OF_CLIENT
) -> Iterator[Api]:
    """Open a place of images for a server; the block lasts as long as the server. ``mirror``: other registries that
    are served too. ``uploads_each``: as in ``WriteApi``. Raises what ``check_writable`` raises, SystemFailure."""
    with mirror or nullcontext():
        if not writable:
            read_only = source.reading() if finds_in_repositories(source) else ListedRepositories(source)
            yield Api(mirror.over(read_only) if mirror is not None else read_only, None)
            return
        check_writable(source)
        assert takes_pushes(source)
        with source.repositories() as place:
            both = mirror.over_writable(place) if mirror is not None else place
            yield Api(both, both, uploads_each)


def check_writable(source: Readable) -> None:
    """Raise UsageError if clients can't write to this place."""
    if not takes_pushes(source):
        raise UsageError(f"{source.location} can't be written to", hint="only the store can")


class Api(WriteApi):
    """Answers requests."""

    def check_writing(self) -> None:
        """Check that clients can write now. Raises LaminaError."""
        if self._writing is not None:
            self._writing.check_writing()

    def answer(self, request: Request) -> Response:
        """Answer a request. Raises ApiError; LaminaError if the place itself fails."""
        kind, method = request.route.kind, request.method
        reading = method in ("GET", "HEAD")
        if kind == "base" and reading:
            return Response(200, {"Content-Type": "application/json"}, b"{}")
        if kind == "token":
            raise ApiError(404, "UNSUPPORTED", "this registry has no users")
        if kind == "catalog" and reading:
            return self._catalog(request)
        if kind == "tags" and reading:
            return self._tags(request)
        if kind == "referrers" and reading:
            return self._referrers(request)
        if kind == "manifest":
            if method == "HEAD":
                return self._kept_manifest(request)
            if reading:
                return self._manifest(request)
            if method == "PUT":
                return self._put_manifest(request)
            if method == "DELETE":
                return self._delete_manifest(request)
        if kind == "blob":
            if method == "HEAD":
                return self._kept(request)
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
