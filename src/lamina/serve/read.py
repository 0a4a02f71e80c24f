"""The reading half of the registry's API: manifests, blobs and lists."""

from __future__ import annotations

from lamina.errors import NotFound
from lamina.light import TYPE_CHECKING
from lamina.serve.conditions import is_known, range_of
from lamina.serve.http_message import (
    Request,
    Response,
    as_json,
    as_warning,
    digest_of,
    digest_or_none,
    no_manifest,
    repository_of,
)
from lamina.serve.ranges import Unsatisfiable, parse_range
from lamina.serve.routes import ApiError, next_page, wanted_page
from lamina.source.abilities import gives_url, gives_warnings
from lamina.spec import mediatype
from lamina.spec.json import dump
from lamina.spec.reference import Reference, is_tag

if TYPE_CHECKING:
    from lamina.source.protocols import Blob
    from lamina.source.served import Repositories
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest

MAX_REFERRERS = 10_000


class ReadApi:
    """Answers to reading requests."""

    def __init__(self, place: Repositories) -> None:
        self._place = place

    @property
    def place(self) -> Repositories:
        """What is served."""
        return self._place

    def _catalog(self, request: Request) -> Response:
        after, count = wanted_page(request.route.query)
        found = []
        for name in self._place.names():
            reference = Reference.parse(name)
            # a path can't contain a host with a port; it is reached with ?ns=
            if ":" not in reference.domain and request.permit.may_see(name):
                found.append(reference.familiar)  # as it was pushed: app, not library/app
        found = sorted(name for name in found if name > after)
        shown, link = next_page(found, count, "/v2/_catalog")
        return as_json({"repositories": shown}, link)

    def _tags(self, request: Request) -> Response:
        repository = repository_of(request.route)
        after, count = wanted_page(request.route.query)
        try:
            found = self._place.tags(repository, after, None if count is None else count + 1)
        except NotFound:
            raise ApiError(404, "NAME_UNKNOWN", f"repository {request.route.name} not found") from None
        shown, link = next_page(found, count, f"{request.target}/tags/list")
        return as_json({"name": request.route.name, "tags": shown}, link)

    def _manifest(self, request: Request) -> Response:
        repository = repository_of(request.route)
        descriptor = self._found(repository, request.route.rest)
        headers = {
            "Content-Type": descriptor.media_type,
            "Docker-Content-Digest": str(descriptor.digest),
            "ETag": f'"{descriptor.digest}"',
        }
        if gives_warnings(self._place):
            warning = self._place.warning(repository, request.route.rest)
            if warning:
                headers["Warning"] = as_warning(warning)
        if is_known(request.headers, headers["ETag"]):
            return Response(304, headers)
        try:
            raw = self._place.manifest(descriptor)
        except NotFound:
            raise no_manifest(request.route.rest) from None
        return Response(200, headers, raw)

    def _found(self, repository: str, name: str) -> Descriptor:
        digest = digest_or_none(name)
        if digest is None and not is_tag(name):
            raise ApiError(404, "MANIFEST_UNKNOWN", f"{name[:150]!r} is neither a tag nor a digest")
        try:
            return self._place.find(repository, digest or name)
        except NotFound:
            raise no_manifest(name) from None

    def _stored(self, repository: str, digest: Digest) -> Blob:
        try:
            return self._place.blob(repository, digest)
        except NotFound:
            raise ApiError(404, "BLOB_UNKNOWN", f"blob {digest} not found") from None

    def _blob(self, request: Request) -> Response:
        digest = digest_of(request.route.rest)
        blob = self._stored(repository_of(request.route), digest)
        size = blob.descriptor.size
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        if is_known(request.headers, headers["ETag"]):
            return Response(304, headers)
        if request.method == "GET" and gives_url(blob):
            url = blob.url()
            if url:
                return Response(307, {"Location": url, "Docker-Content-Digest": str(digest)})
        try:
            wanted = parse_range(range_of(request.headers, headers["ETag"]), size)
        except Unsatisfiable:
            raise ApiError(
                416, "SIZE_INVALID", "the range is outside of the blob", Content_Range=f"bytes */{size}"
            ) from None
        if wanted is None:
            return Response(200, headers, blob=blob, start=0, end=size)
        start, end = wanted
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Response(206, headers, blob=blob, start=start, end=end)

    def _referrers(self, request: Request) -> Response:
        repository = repository_of(request.route)
        wanted = request.route.one("artifactType")
        found = self._place.referrers(repository, digest_of(request.route.rest))
        if wanted:
            found = [one for one in found if one.artifact_type == wanted]
        entries = [descriptor.to_json() for descriptor in found[:MAX_REFERRERS]]
        body = dump({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries})
        headers = {"Content-Type": mediatype.OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        return Response(200, headers, body)
