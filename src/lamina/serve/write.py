"""The writing half of the registry's API: uploads, manifests and deletion."""

from __future__ import annotations

import time
from collections.abc import Iterable

from lamina.errors import BlobNotFound, DigestMismatch, InvalidContent, Unsupported
from lamina.light import TYPE_CHECKING
from lamina.serve.http_message import Request, Response, digest_of, digest_or_none, ns_of, repository_of, whole_body
from lamina.serve.ranges import parse_chunk
from lamina.serve.read import ReadApi
from lamina.serve.routes import ApiError
from lamina.source.walk import manifest_blobs, reachable
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, parse
from lamina.spec.reference import Reference, is_tag

if TYPE_CHECKING:
    from lamina.source.served import Readable, Served, ServingSession

GRACE = 3600.0
"""Seconds for which a client may take to name what it has sent."""


class WriteApi(ReadApi):
    """``writing`` is None where nobody may write; else it is the source as well.

    What was pushed to a repository is protected from gc until a manifest of that repository names it, or for an
    hour."""

    def __init__(self, source: Readable, writing: Served | None) -> None:
        super().__init__(source)
        self._place = writing
        self._unnamed: dict[tuple[str, Digest], float] = {}
        self._session: ServingSession | None = None

    def _writable(self) -> tuple[Served, ServingSession]:
        if self._place is None or self._session is None:
            raise ApiError(405, "UNSUPPORTED", "this registry is read-only", Allow="GET, HEAD")
        return self._place, self._session

    def _begin(self, request: Request) -> Response:
        place, session = self._writable()
        repository = repository_of(request.route)
        mount, digest = request.route.one("mount"), request.route.one("digest")
        if mount:
            wanted = digest_of(mount)
            size = place.blobs.size(wanted)
            self._note(repository, wanted)
            if size is not None and session.has(Descriptor("application/octet-stream", wanted, size)):
                self._show(repository, wanted)
                return self._created(request, wanted)
        if digest and not mount:
            stated = digest_of(digest)
            ident = place.uploads.create()
            place.uploads.append(ident, request.body)
            return self._finished(request, repository, ident, stated)
        ident = place.uploads.create()
        return Response(202, self._progress(request, ident, 0))

    def _upload(self, request: Request) -> Response:
        place, _ = self._writable()
        repository, ident = repository_of(request.route), request.route.rest
        size = place.uploads.size(ident)
        if request.method in ("GET", "HEAD"):
            return Response(204, self._progress(request, ident, size))
        if request.method == "DELETE":
            place.uploads.cancel(ident)
            return Response(204)
        if request.method not in ("PATCH", "PUT"):
            raise ApiError(
                405, "UNSUPPORTED", f"{request.method} is not supported here", Allow="GET, PATCH, PUT, DELETE"
            )
        stated = digest_of(request.route.one("digest")) if request.method == "PUT" else None
        with place.uploads.held(ident):
            self._in_order(request, ident, place.uploads.size(ident))
            size = place.uploads.append(ident, request.body)
            if stated is not None:
                return self._finished(request, repository, ident, stated)
        return Response(202, self._progress(request, ident, size))

    def _in_order(self, request: Request, ident: str, size: int) -> None:
        try:
            chunk = parse_chunk(request.headers.get("Content-Range"))
        except ValueError:
            raise ApiError(400, "BLOB_UPLOAD_INVALID", "Content-Range is invalid") from None
        if chunk is None:
            return
        first, last = chunk
        if first != size or (request.length is not None and last - first + 1 != request.length):
            raise ApiError(
                416,
                "BLOB_UPLOAD_INVALID",
                f"the next byte is {size}",
                **{key.replace("-", "_"): value for key, value in self._progress(request, ident, size).items()},
            )

    def _progress(self, request: Request, ident: str, size: int) -> dict[str, str]:
        return {
            "Location": self._location(request, ident),
            "Range": f"0-{max(0, size - 1)}",
            "Docker-Upload-UUID": ident,
        }

    def _finished(self, request: Request, repository: Reference, ident: str, digest: Digest) -> Response:
        place, session = self._writable()
        descriptor = Descriptor("application/octet-stream", digest, place.uploads.size(ident))
        self._note(repository, digest)
        try:
            session.put_upload(descriptor, ident)
        except Unsupported as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        except (InvalidContent, BlobNotFound) as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        self._show(repository, digest)
        return self._created(request, digest)

    def _created(self, request: Request, digest: Digest) -> Response:
        location = f"{request.target}/blobs/{digest}{ns_of(request.route)}"
        return Response(201, {"Location": location, "Docker-Content-Digest": str(digest)})

    def _location(self, request: Request, ident: str) -> str:
        return f"{request.target}/blobs/uploads/{ident}{ns_of(request.route)}"

    def _put_manifest(self, request: Request) -> Response:
        place, session = self._writable()
        repository, name = repository_of(request.route), request.route.rest
        raw = whole_body(request.body, request.length)
        stated = digest_or_none(name)
        tags = [name] if stated is None else request.route.query.get("tag", [])
        for tag in tags:
            if not is_tag(tag):
                raise ApiError(400, "TAG_INVALID", f"{tag[:150]!r} is not a tag")
        announced = mediatype.essence(request.headers.get("Content-Type", "")) or None
        try:
            document = parse(raw, announced, "the manifest")
            digest = stated or Digest.of(raw)
            descriptor = Descriptor(document.media_type, digest, len(raw))
            descriptor.check(raw)
            # a client may have found blobs here, and not sent them
            named = manifest_blobs(document) if isinstance(document, Manifest) else []
            for one in (descriptor, *named):
                self._note(repository, one.digest)
            session.put_manifest(descriptor, raw)
        except BlobNotFound as error:
            raise ApiError(404, "MANIFEST_BLOB_UNKNOWN", error.message) from None
        except Unsupported as error:
            raise ApiError(400, "MANIFEST_INVALID", error.message) from None
        except DigestMismatch as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        except InvalidContent as error:
            raise ApiError(400, "MANIFEST_INVALID", error.message) from None
        self._show(repository, digest)
        pinned = f"{repository.repository}@{digest}"
        for full in [f"{repository.repository}:{tag}" for tag in tags] or [pinned]:
            session.tag(full, descriptor)
        self._named(session, repository, [digest, *(one.digest for one in reachable(place, descriptor))])
        headers = {
            "Location": f"{request.target}/manifests/{digest}{ns_of(request.route)}",
            "Docker-Content-Digest": str(digest),
        }
        if document.subject is not None:
            headers["OCI-Subject"] = str(document.subject.digest)
        if stated is not None and tags:
            headers["OCI-Tag"] = ", ".join(tags)
        return Response(201, headers)

    def _delete_manifest(self, request: Request) -> Response:
        place, _ = self._writable()
        repository, name = repository_of(request.route), request.route.rest
        digest = digest_or_none(name)
        if digest is None:
            # remove the tag; a document without another tag stays, untagged, until it is deleted or pruned
            tag = f"{repository.repository}:{name}"
            while not place.tags.swap(tag, self._found(repository, name).digest, None):
                pass  # it was moved meanwhile
        else:
            self._found(repository, name)
            names = [str(reference) for reference, entry in self._entries(repository) if entry.digest == digest]
            place.tags.forget(names, digest)
        with self._guard:
            self._emptied.add(repository.repository)
            if digest is not None:
                self._hidden.add((repository.repository, digest))
        return Response(202)

    def _delete_blob(self, request: Request) -> Response:
        place, _ = self._writable()
        repository, digest = repository_of(request.route), digest_of(request.route.rest)
        if (repository.repository, digest) in self._hidden or place.blobs.size(digest) is None:
            raise ApiError(404, "BLOB_UNKNOWN", f"blob {digest} not found")
        with self._guard:
            self._hidden.add((repository.repository, digest))  # `prune` frees the bytes once nothing needs them
        return Response(202)

    def _note(self, repository: Reference, digest: Digest) -> None:
        """Protect a blob or document until a manifest names it. Call this before the store's session lists it,
        because that list may be renewed at any moment."""
        with self._guard:
            self._unnamed[repository.repository, digest] = time.monotonic()

    def _named(self, session: ServingSession, repository: Reference, digests: Iterable[Digest]) -> None:
        """Stop protecting these in this repository: a manifest names them now."""
        long_ago = time.monotonic() - GRACE
        with self._guard:
            for digest in digests:
                self._unnamed.pop((repository.repository, digest), None)
            self._unnamed = {key: noted for key, noted in self._unnamed.items() if noted > long_ago}
            session.protect_only({digest for _, digest in self._unnamed})

    def _show(self, repository: Reference, digest: Digest) -> None:
        with self._guard:
            self._hidden.discard((repository.repository, digest))
