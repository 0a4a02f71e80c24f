"""The writing half of the registry's API: uploads, manifests and deletion."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    Conflict,
    DigestMismatch,
    DiskFull,
    InvalidContent,
    LaminaError,
    NotFound,
    StoreDamaged,
    SystemFailure,
    Unsupported,
)
from lamina.light import TYPE_CHECKING
from lamina.serve.client_key import client_key
from lamina.serve.http_message import (
    Request,
    Response,
    digest_of,
    digest_or_none,
    no_manifest,
    ns_of,
    repository_named,
    repository_of,
    whole_body,
)
from lamina.serve.immutable import tag_that_needs
from lamina.serve.ranges import parse_chunk
from lamina.serve.read import ReadApi
from lamina.serve.routes import ApiError
from lamina.source.upload_limits import MOST_OF_CLIENT, Opener
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.manifest import Manifest, parse
from lamina.spec.reference import is_tag

if TYPE_CHECKING:
    from lamina.serve.permit import UploadPermit
    from lamina.source.served import Repositories, WritableRepositories

_log = logging.getLogger("lamina.serve")


class WriteApi(ReadApi):
    """``writing`` is None where nobody may write; else it is the same place."""

    def __init__(
        self, place: Repositories, writing: WritableRepositories | None, uploads_each: int = MOST_OF_CLIENT
    ) -> None:
        """``uploads_each``: that each client may have open; 0 for any number."""
        super().__init__(place)
        self._writing = writing
        self._uploads_each = uploads_each

    def _writable(self) -> WritableRepositories:
        if self._writing is None:
            raise ApiError(405, "UNSUPPORTED", "this registry is read-only", Allow="GET, HEAD")
        return self._writing

    def _kept(self, request: Request) -> Response:
        """Answer HEAD of a blob. A client that may push takes a found blob for sent: it is protected from gc."""
        response = self._blob(request)
        if not self._keep(request, repository_of(request.route), digest_of(request.route.rest)):
            raise ApiError(404, "BLOB_UNKNOWN", f"blob {request.route.rest} not found")
        return response

    def _kept_manifest(self, request: Request) -> Response:
        """Answer HEAD of a manifest. A client that pushes an index does not send the manifests that it finds by their
        digests: they are protected from gc."""
        response = self._manifest(request)
        digest = digest_or_none(request.route.rest)
        if digest is not None:
            self._keep(request, repository_of(request.route), digest)
        return response

    def _keep(self, request: Request, repository: str, digest: Digest) -> bool:
        """Protect an object if the client may push; False if it is not there any more."""
        if self._writing is None or not request.permit.may_push(repository):
            return True
        try:
            return self._writing.keep(repository, digest)
        except StoreDamaged:
            raise
        except (SystemFailure, AccessDenied) as error:
            # Nothing can be written now, so the client can't push either: it may still read. If gc takes the object,
            # the manifest that needs it is refused.
            _log.warning("%s %s is served, but not protected from gc: %s", repository, digest, error.message)
            return True

    def _begin(self, request: Request) -> Response:
        place = self._writable()
        repository = repository_of(request.route)
        mount, digest = request.route.one("mount"), request.route.one("digest")
        if mount:
            wanted = digest_of(mount)
            source = request.route.one("from")
            origin = repository_named(source, request.route.one("ns")) if source else repository
            if request.permit.may_pull(origin) and self._mounted(request, repository, wanted, origin):
                return self._created(request, wanted)
        if digest and not mount:
            stated = digest_of(digest)
            ident = place.uploads.create(repository, self._opener(request))
            with (
                request.permit.upload(repository, ident, place) as permit,
                self._dropped_at(BaseException, repository, ident, permit),  # the client does not know the upload
                place.uploads.held(repository, ident),
            ):
                place.uploads.append(repository, ident, self._body(request, permit, 0))
                return self._finished(request, repository, ident, stated, permit)
        ident = place.uploads.create(repository, self._opener(request))
        return Response(202, self._progress(request, ident, 0))

    def _opener(self, request: Request) -> Opener | None:
        name = client_key(request.asker)
        return Opener(name, self._uploads_each) if name and self._uploads_each else None

    @contextmanager
    def _dropped_at(
        self, kind: type[BaseException], repository: str, ident: str, permit: UploadPermit
    ) -> Iterator[None]:
        """Remove the upload if the block fails with this kind of error, or because of a quota."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, kind) or (isinstance(error, ApiError) and error.status == 403):
                with suppress(LaminaError):  # it may be gone already
                    self._writable().uploads.cancel(repository, ident)
                permit.ended(held=False)
            raise

    def _mounted(self, request: Request, repository: str, digest: Digest, source: str) -> bool:
        """Mount a blob within the quota; False if ``source`` does not have it."""
        place = self._writable()
        try:
            size = place.blob(source, digest).descriptor.size
            with request.permit.room(repository, size, place):
                if not place.mount(repository, digest, source):  # it was removed meanwhile
                    raise BlobNotFound(f"no blob {digest} in {source}", hint="push it")
        except BlobNotFound:
            return False
        return True

    def _upload(self, request: Request) -> Response:
        place = self._writable()
        repository, ident = repository_of(request.route), request.route.rest
        size = place.uploads.size(repository, ident)
        if request.method in ("GET", "HEAD"):
            return Response(204, self._progress(request, ident, size))
        if request.method == "DELETE":
            with request.permit.upload(repository, ident, place) as permit:
                place.uploads.cancel(repository, ident)
                permit.ended(held=False)
            return Response(204)
        if request.method not in ("PATCH", "PUT"):
            raise ApiError(
                405, "UNSUPPORTED", f"{request.method} is not supported here", Allow="GET, PATCH, PUT, DELETE"
            )
        stated = digest_of(request.route.one("digest")) if request.method == "PUT" else None
        with (
            place.uploads.held(repository, ident),
            request.permit.upload(repository, ident, place) as permit,
            self._dropped_at(DiskFull, repository, ident, permit),  # it may never be completed, and takes space
        ):
            size = place.uploads.size(repository, ident)
            self._in_order(request, ident, size)
            size = place.uploads.append(repository, ident, self._body(request, permit, size))
            if stated is not None:
                return self._finished(request, repository, ident, stated, permit)
        return Response(202, self._progress(request, ident, size))

    def _body(self, request: Request, permit: UploadPermit, size: int) -> Iterator[bytes]:
        """The body of a request whose upload has ``size`` bytes, within the quota: checked at once if the length is
        stated, and as the bytes arrive."""
        permit.check(size + (request.length or 0))

        def pieces(size: int) -> Iterator[bytes]:
            for piece in request.body:
                size += len(piece)
                permit.grow(size)
                yield piece

        return pieces(size)

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

    def _finished(
        self, request: Request, repository: str, ident: str, digest: Digest, permit: UploadPermit
    ) -> Response:
        place = self._writable()
        permit.grow(place.uploads.size(repository, ident))
        try:
            place.uploads.finish(repository, ident, digest)
        except (InvalidContent, Unsupported) as error:
            if not isinstance(error, Unsupported):  # then the upload is still there
                permit.ended(held=False)
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        permit.ended(held=True)
        return self._created(request, digest)

    def _created(self, request: Request, digest: Digest) -> Response:
        location = f"{request.target}/blobs/{digest}{ns_of(request.route)}"
        return Response(201, {"Location": location, "Docker-Content-Digest": str(digest)})

    def _location(self, request: Request, ident: str) -> str:
        return f"{request.target}/blobs/uploads/{ident}{ns_of(request.route)}"

    def _put_manifest(self, request: Request) -> Response:
        place = self._writable()
        repository, name = repository_of(request.route), request.route.rest
        raw = whole_body(request.body, request.length)
        stated = digest_or_none(name)
        tags = [name] if stated is None else request.route.query.get("tag", [])
        for tag in tags:
            if not is_tag(tag):
                raise ApiError(400, "TAG_INVALID", f"{tag[:150]!r} is not a tag")
        request.permit.check_room(repository, len(raw), place)
        fixed = [tag for tag in tags if request.permit.is_fixed(repository, tag)]
        announced = mediatype.essence(request.headers.get("Content-Type", "")) or None
        try:
            document = parse(raw, announced, "the manifest")
            digest = stated or Digest.of(raw)
            descriptor = Descriptor(document.media_type, digest, len(raw))
            descriptor.check(raw)
            request.permit.check_links(len(document.layers if isinstance(document, Manifest) else document.manifests))
            place.put_manifest(repository, descriptor, raw, tags, fixed=fixed)
        except BlobNotFound as error:
            raise ApiError(404, "MANIFEST_BLOB_UNKNOWN", error.message) from None
        except Conflict as error:
            raise ApiError(409, "DENIED", error.message) from None
        except Unsupported as error:
            raise ApiError(400, "MANIFEST_INVALID", error.message) from None
        except DigestMismatch as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        except InvalidContent as error:
            raise ApiError(400, "MANIFEST_INVALID", error.message) from None
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
        place = self._writable()
        repository, name = repository_of(request.route), request.route.rest
        digest = digest_or_none(name)
        try:
            self._check_removable(request, place, repository, name, digest)
            if digest is None:
                # remove the tag; the document stays, untagged, until it is deleted or pruned
                place.untag(repository, name)
            else:
                place.delete_manifest(repository, digest)
        except NotFound:
            raise no_manifest(name) from None
        return Response(202)

    @staticmethod
    def _check_removable(
        request: Request, place: WritableRepositories, repository: str, name: str, digest: Digest | None
    ) -> None:
        """Check that a deletion neither removes nor breaks a tag that the client may not remove. Raises ApiError,
        NotFound."""
        permit = request.permit
        if digest is None:
            kept = "" if permit.may_remove(repository, name) else name
        else:
            tags = [tag for tag in place.tags(repository) if not permit.may_remove(repository, tag)]
            kept = tag_that_needs(place, repository, tags, digest)
        if kept:
            raise ApiError(403, "DENIED", f"tag {kept} of {request.route.name} is immutable")

    def _delete_blob(self, request: Request) -> Response:
        place = self._writable()
        repository, digest = repository_of(request.route), digest_of(request.route.rest)
        try:
            self._check_removable(request, place, repository, "", digest)
            place.delete_blob(repository, digest)
        except NotFound:
            raise ApiError(404, "BLOB_UNKNOWN", f"blob {digest} not found") from None
        return Response(202)
