"""The reading half of the registry's API: manifests, blobs and lists, from any place that can be read and listed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from lamina.errors import LaminaError, NotFound, UsageError
from lamina.light import TYPE_CHECKING
from lamina.serve.http_message import (
    Request,
    Response,
    as_json,
    digest_of,
    digest_or_none,
    no_manifest,
    repository_of,
)
from lamina.serve.ranges import Unsatisfiable, parse_range
from lamina.serve.routes import ApiError, page
from lamina.source.abilities import takes_pushes
from lamina.source.walk import Known, classifier, listed_documents, reachable, walk
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import dump
from lamina.spec.manifest import parse
from lamina.spec.reference import Reference, is_tag

if TYPE_CHECKING:
    from lamina.source.served import Readable

MAX_REFERRERS = 10_000


class ReadApi:
    """Answers to reading requests. ``hidden`` is what was deleted from a repository although the pool still has it;
    ``emptied`` are repositories that may have lost their last name, but still exist."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hidden: set[tuple[str, Digest]] = set()
        self._emptied: set[str] = set()
        self._guard = threading.Lock()

    def _entries(self, repository: Reference) -> Iterator[tuple[Reference, Descriptor]]:
        for name, descriptor in self._source.names():
            try:
                reference = Reference.parse(name).with_default_tag()
            except UsageError:
                continue
            if reference.repository == repository.repository:
                yield reference, descriptor

    def _catalog(self, request: Request) -> Response:
        found = set()
        for name, _ in self._source.names():
            try:
                reference = Reference.parse(name)
            except UsageError:
                continue
            if ":" not in reference.domain:  # a path can't contain such a host; it is reached with ?ns=
                found.add(Reference.parse(reference.repository).familiar)  # as it was pushed: app, not library/app
        shown, link = page(sorted(found), request.route.query, "/v2/_catalog")
        return as_json({"repositories": shown}, link)

    def _tags(self, request: Request) -> Response:
        repository = repository_of(request.route)
        entries = [reference for reference, _ in self._entries(repository)]
        if not entries and repository.repository not in self._emptied:
            raise ApiError(404, "NAME_UNKNOWN", f"repository {request.route.name} not found")
        tags = sorted({reference.tag for reference in entries if reference.tag is not None})
        shown, link = page(tags, request.route.query, f"{request.target}/tags/list")
        return as_json({"name": request.route.name, "tags": shown}, link)

    def _manifest(self, request: Request) -> Response:
        repository = repository_of(request.route)
        descriptor = self._found(repository, request.route.rest)
        headers = {
            "Content-Type": descriptor.media_type,
            "Docker-Content-Digest": str(descriptor.digest),
            "ETag": f'"{descriptor.digest}"',
        }
        if request.headers.get("If-None-Match") in (headers["ETag"], str(descriptor.digest)):
            return Response(304, headers)
        try:
            raw = self._source.manifest(descriptor)
        except NotFound:
            raise no_manifest(request.route.rest) from None
        return Response(200, headers, raw)

    def _found(self, repository: Reference, name: str) -> Descriptor:
        digest = digest_or_none(name)
        if digest is None:
            if not is_tag(name):
                raise ApiError(404, "MANIFEST_UNKNOWN", f"{name[:150]!r} is neither a tag nor a digest")
            for reference, descriptor in self._entries(repository):
                if reference.tag == name:
                    return descriptor
            raise no_manifest(name)
        if (repository.repository, digest) in self._hidden:
            raise no_manifest(name)
        # not if only another repository names it: a client would take it for copied, and not send it
        own = [entry for entry in self._source.names() if self._is_of(repository, entry[0])]
        for _, descriptor in own:
            if descriptor.digest == digest:
                return descriptor
        for found in walk(
            classifier(self._source), [entry for _, entry in own], children=listed_documents, max_depth=None
        ):
            if isinstance(found, Known) and found.descriptor.digest == digest:
                return found.descriptor
        raise no_manifest(name)

    @staticmethod
    def _is_of(repository: Reference, name: str) -> bool:
        """Whether a name belongs to the repository; an image without a name belongs to all."""
        try:
            return not name or Reference.parse(name).repository == repository.repository
        except UsageError:
            return True

    def _size(self, digest: Digest) -> int | None:
        if takes_pushes(self._source):  # it has blobs by their digests
            return self._source.blobs.size(digest)
        for _, top in self._source.names():
            for known in reachable(self._source, top):
                if known.digest == digest:
                    return known.size
        return None

    def _blob(self, request: Request) -> Response:
        repository = repository_of(request.route)
        digest = digest_of(request.route.rest)
        size = None if (repository.repository, digest) in self._hidden else self._size(digest)
        if size is None:
            raise ApiError(404, "BLOB_UNKNOWN", f"blob {digest} not found")
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        try:
            wanted = parse_range(request.headers.get("Range"), size)
        except Unsatisfiable:
            raise ApiError(
                416, "SIZE_INVALID", "the range is outside of the blob", Content_Range=f"bytes */{size}"
            ) from None
        blob = self._source.blob(Descriptor("application/octet-stream", digest, size))
        if wanted is None:
            return Response(200, headers, blob=blob, start=0, end=size)
        start, end = wanted
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Response(206, headers, blob=blob, start=start, end=end)

    def _referrers(self, request: Request) -> Response:
        repository = repository_of(request.route)
        subject = digest_of(request.route.rest)
        wanted = request.route.one("artifactType")
        found: dict[Digest, Descriptor] = {}
        for _, descriptor in self._entries(repository):
            if descriptor.digest in found:
                continue
            try:
                document = parse(self._source.manifest(descriptor), descriptor.media_type)
            except LaminaError:
                continue  # a damaged document has no subject, and must not hide the others
            if document.subject is not None and document.subject.digest == subject:
                referrer = document.as_referrer()
                if not wanted or referrer.artifact_type == wanted:
                    found[descriptor.digest] = Descriptor(
                        descriptor.media_type,
                        descriptor.digest,
                        descriptor.size,
                        annotations=referrer.annotations,
                        artifact_type=referrer.artifact_type,
                    )
        entries = [descriptor.to_json() for descriptor in list(found.values())[:MAX_REFERRERS]]
        body = dump({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries})
        headers = {"Content-Type": mediatype.OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        return Response(200, headers, body)
