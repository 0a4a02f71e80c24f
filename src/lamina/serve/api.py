"""Answers of the registry, from a place that holds images. Knows requests and protocols, no sockets.

distribution-spec; the names that repositories have on the wire are references as docker normalises them, or with
``?ns=HOST`` (mirrors) those of that host. All repositories share one pool of blobs: what the place has, each has.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lamina.errors import BlobNotFound, InvalidContent, LaminaError, NotFound, Unsupported, UsageError
from lamina.serve.ranges import Unsatisfiable, parse_chunk, parse_range
from lamina.serve.routes import TAG, ApiError, Route, page
from lamina.serve.uploads import Gone, Uploads
from lamina.source import Lister, Reader
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT, dump
from lamina.spec.manifest import Index, Manifest, parse
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.source import Blob
    from lamina.store.store import Store


class Readable(Reader, Lister, Protocol):
    """What can be served."""


MAX_REFERRERS = 10_000


@dataclass
class Request:
    """``body`` gives the pieces as they come, once; ``length`` in bytes where it was stated."""

    method: str
    route: Route
    headers: Mapping[str, str]
    body: Iterator[bytes]
    length: int | None = None

    @property
    def target(self) -> str:
        return f"/v2/{self.route.name}"


@dataclass
class Response:
    """``body``: bytes, or a range (start, end) of a blob; ``size`` is what a HEAD says."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    blob: Blob | None = None
    start: int = 0
    end: int = 0


class Api:
    """Answers for ``source``. ``store`` is given where clients may write: it is the same place then."""

    def __init__(self, source: Readable, store: Store | None = None) -> None:
        self._source = source
        self._store = store
        self._uploads = Uploads(store.paths.ingest) if store is not None else None
        self._hidden: set[tuple[str, Digest]] = set()  # deleted here, though the pool has them
        self._guard = threading.Lock()

    def session(self) -> AbstractContextManager[None]:
        """Around the server's life: what clients have sent is not collected before it has a name."""
        return self._store.session("serve") if self._store is not None else nullcontext()

    def answer(self, request: Request) -> Response:
        """Raises ApiError; LaminaError where the place itself fails."""
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
        if kind == "uploads" and method == "POST":
            return self._begin(request)
        if kind == "upload":
            return self._upload(request)
        raise ApiError(405, "UNSUPPORTED", f"{method} is not done here", Allow="GET, HEAD")

    # reading

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
            if ":" not in reference.domain:  # such a host can't stand in a path; ?ns= reaches it
                found.add(reference.path if reference.domain == "docker.io" else reference.repository)
        shown, link = page(sorted(found), request.route.query, "/v2/_catalog")
        return _json({"repositories": shown}, link)

    def _tags(self, request: Request) -> Response:
        repository = _repository(request.route)
        entries = [reference for reference, _ in self._entries(repository)]
        if not entries:
            raise ApiError(404, "NAME_UNKNOWN", f"no repository {request.route.name}")
        tags = sorted({reference.tag for reference in entries if reference.tag is not None})
        shown, link = page(tags, request.route.query, f"{request.target}/tags/list")
        return _json({"name": request.route.name, "tags": shown}, link)

    def _manifest(self, request: Request) -> Response:
        repository = _repository(request.route)
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
            raise _no_manifest(request.route.rest) from None
        return Response(200, headers, raw)

    def _found(self, repository: Reference, name: str) -> Descriptor:
        digest = _digest_or_none(name)
        if digest is None:
            if not TAG.fullmatch(name):
                raise ApiError(404, "MANIFEST_UNKNOWN", f"{name[:150]!r} is neither a tag nor a digest")
            for reference, descriptor in self._entries(repository):
                if reference.tag == name:
                    return descriptor
            raise _no_manifest(name)
        if (repository.repository, digest) in self._hidden:
            raise _no_manifest(name)
        for _, descriptor in self._source.names():
            if descriptor.digest == digest:
                return descriptor
        return self._unlisted(digest)

    def _unlisted(self, digest: Digest) -> Descriptor:
        """A document that is only a child of a listed one: what it is, it says itself."""
        size = self._size(digest)
        if size is None or size > MAX_DOCUMENT:
            raise _no_manifest(str(digest))
        guess = Descriptor("application/octet-stream", digest, size)
        try:
            document = parse(self._source.manifest(guess), None, str(digest))
        except (InvalidContent, NotFound, Unsupported):
            raise _no_manifest(str(digest)) from None
        return Descriptor(document.media_type, digest, size)

    def _size(self, digest: Digest) -> int | None:
        sizes = getattr(self._source, "blobs", None)
        if sizes is not None:
            size: int | None = sizes.size(digest)
            return size
        for _, top in self._source.names():
            for known in _needed(self._source, top):
                if known.digest == digest:
                    return known.size
        return None

    def _blob(self, request: Request) -> Response:
        repository = _repository(request.route)
        digest = _digest(request.route.rest)
        size = None if (repository.repository, digest) in self._hidden else self._size(digest)
        if size is None:
            raise ApiError(404, "BLOB_UNKNOWN", f"no blob {digest}")
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        try:
            wanted = parse_range(request.headers.get("Range"), size)
        except Unsatisfiable:
            raise ApiError(416, "SIZE_INVALID", "the range lies outside", Content_Range=f"bytes */{size}") from None
        blob = self._source.blob(Descriptor("application/octet-stream", digest, size))
        if wanted is None:
            return Response(200, headers, blob=blob, start=0, end=size)
        start, end = wanted
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Response(206, headers, blob=blob, start=start, end=end)

    def _referrers(self, request: Request) -> Response:
        repository = _repository(request.route)
        subject = _digest(request.route.rest)
        wanted = request.route.one("artifactType")
        found: dict[Digest, Descriptor] = {}
        for _, descriptor in self._entries(repository):
            if descriptor.digest in found:
                continue
            try:
                document = parse(self._source.manifest(descriptor), descriptor.media_type)
            except LaminaError:
                continue  # a damaged document refers to nothing, and must not hide the others
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

    # writing

    def _writable(self) -> tuple[Store, Uploads]:
        if self._store is None or self._uploads is None:
            raise ApiError(405, "UNSUPPORTED", "this registry is read-only", Allow="GET, HEAD")
        return self._store, self._uploads

    def _begin(self, request: Request) -> Response:
        store, uploads = self._writable()
        repository = _repository(request.route)
        mount, digest = request.route.one("mount"), request.route.one("digest")
        if mount:
            wanted = _digest(mount)
            size = store.blobs.size(wanted)
            if size is not None and store.has(Descriptor("application/octet-stream", wanted, size)):
                self._show(repository, wanted)
                return self._created(request, wanted)
        if digest and not mount:
            stated = _digest(digest)
            ident = uploads.create()
            uploads.append(ident, request.body)
            return self._finished(request, repository, ident, stated)
        ident = uploads.create()
        return Response(202, self._progress(request, ident, 0))

    def _upload(self, request: Request) -> Response:
        _, uploads = self._writable()
        repository, ident = _repository(request.route), request.route.rest
        size = uploads.size(ident)
        if request.method in ("GET", "HEAD"):
            return Response(204, self._progress(request, ident, size))
        if request.method == "DELETE":
            uploads.cancel(ident)
            return Response(204)
        if request.method not in ("PATCH", "PUT"):
            raise ApiError(405, "UNSUPPORTED", f"{request.method} is not done here", Allow="GET, PATCH, PUT, DELETE")
        stated = _digest(request.route.one("digest")) if request.method == "PUT" else None
        with uploads.held(ident):
            self._in_order(request, ident, uploads.size(ident))
            size = uploads.append(ident, request.body)
            if stated is not None:
                return self._finished(request, repository, ident, stated)
        return Response(202, self._progress(request, ident, size))

    def _in_order(self, request: Request, ident: str, size: int) -> None:
        try:
            chunk = parse_chunk(request.headers.get("Content-Range"))
        except ValueError:
            raise ApiError(400, "BLOB_UPLOAD_INVALID", "Content-Range is none") from None
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
        store, uploads = self._writable()
        descriptor = Descriptor("application/octet-stream", digest, uploads.size(ident))
        try:
            store.put_file(descriptor, uploads.path(ident), Gone(descriptor))
        except Unsupported as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        except (InvalidContent, BlobNotFound) as error:
            raise ApiError(400, "DIGEST_INVALID", error.message) from None
        self._show(repository, digest)
        return self._created(request, digest)

    def _created(self, request: Request, digest: Digest) -> Response:
        location = f"{request.target}/blobs/{digest}{_ns(request.route)}"
        return Response(201, {"Location": location, "Docker-Content-Digest": str(digest)})

    def _location(self, request: Request, ident: str) -> str:
        return f"{request.target}/blobs/uploads/{ident}{_ns(request.route)}"

    def _put_manifest(self, request: Request) -> Response:
        store, _ = self._writable()
        repository, name = _repository(request.route), request.route.rest
        raw = _body(request.body, request.length)
        stated = _digest_or_none(name)
        tags = [name] if stated is None else request.route.query.get("tag", [])
        for tag in tags:
            if not TAG.fullmatch(tag):
                raise ApiError(400, "TAG_INVALID", f"{tag[:150]!r} is no tag")
        announced = mediatype.essence(request.headers.get("Content-Type", "")) or None
        try:
            document = parse(raw, announced, "the manifest")
            digest = stated or Digest.of(raw)
            descriptor = Descriptor(document.media_type, digest, len(raw))
            descriptor.check(raw)
            store.put_manifest(descriptor, raw)
        except BlobNotFound as error:
            raise ApiError(404, "MANIFEST_BLOB_UNKNOWN", error.message) from None
        except Unsupported as error:
            raise ApiError(400, "MANIFEST_INVALID", error.message) from None
        except InvalidContent as error:
            code = "DIGEST_INVALID" if "digest" in error.message else "MANIFEST_INVALID"
            raise ApiError(400, code, error.message) from None
        self._show(repository, digest)
        pinned = f"{repository.repository}@{digest}"
        for full in [f"{repository.repository}:{tag}" for tag in tags] or [pinned]:
            store.tag(full, descriptor)
        headers = {
            "Location": f"{request.target}/manifests/{digest}{_ns(request.route)}",
            "Docker-Content-Digest": str(digest),
        }
        if document.subject is not None:
            headers["OCI-Subject"] = str(document.subject.digest)
        if stated is not None and tags:
            headers["OCI-Tag"] = ", ".join(tags)
        return Response(201, headers)

    def _delete_manifest(self, request: Request) -> Response:
        store, _ = self._writable()
        repository, name = _repository(request.route), request.route.rest
        descriptor = self._found(repository, name)
        digest = _digest_or_none(name)
        entries = list(self._entries(repository))
        if digest is None:
            # the tag goes, the document stays in the repository
            store.tag(f"{repository.repository}@{descriptor.digest}", descriptor)
            store.drop([str(reference) for reference, _ in entries if reference.tag == name])
        else:
            store.drop([str(reference) for reference, entry in entries if entry.digest == digest])
            with self._guard:
                self._hidden.add((repository.repository, digest))
        return Response(202)

    def _delete_blob(self, request: Request) -> Response:
        store, _ = self._writable()
        repository, digest = _repository(request.route), _digest(request.route.rest)
        if (repository.repository, digest) in self._hidden or store.blobs.size(digest) is None:
            raise ApiError(404, "BLOB_UNKNOWN", f"no blob {digest}")
        with self._guard:
            self._hidden.add((repository.repository, digest))  # `prune` frees the bytes once nothing needs them
        return Response(202)

    def _show(self, repository: Reference, digest: Digest) -> None:
        with self._guard:
            self._hidden.discard((repository.repository, digest))


def _repository(route: Route) -> Reference:
    """Raises ApiError."""
    host = route.one("ns")
    try:
        return Reference.parse(f"{host}/{route.name}" if host else route.name)
    except UsageError as error:
        raise ApiError(400, "NAME_INVALID", error.message) from None


def _ns(route: Route) -> str:
    from urllib.parse import urlencode

    return f"?{urlencode({'ns': route.one('ns')})}" if route.one("ns") else ""


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except UsageError as error:
        raise ApiError(400, "DIGEST_INVALID", error.message) from None


def _digest_or_none(text: str) -> Digest | None:
    return _digest(text) if ":" in text else None


def _no_manifest(name: str) -> ApiError:
    return ApiError(404, "MANIFEST_UNKNOWN", f"no manifest {name[:150]}")


def _json(value: object, link: str = "") -> Response:
    headers = {"Content-Type": "application/json"}
    if link:
        headers["Link"] = link
    return Response(200, headers, json.dumps(value).encode())


def _body(pieces: Iterable[bytes], length: int | None) -> bytes:
    too_large = ApiError(413, "MANIFEST_INVALID", f"a manifest has at most {MAX_DOCUMENT} bytes")
    if length is not None and length > MAX_DOCUMENT:
        raise too_large
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_DOCUMENT:
            raise too_large
        parts.append(piece)
    return b"".join(parts)


def _needed(source: Reader, top: Descriptor) -> Iterator[Descriptor]:
    """Everything below a listed document, itself among it."""
    pending = [top]
    seen: set[Digest] = set()
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        yield descriptor
        try:
            document = parse(source.manifest(descriptor), descriptor.media_type)
        except LaminaError:
            continue  # a sparse index, or a damaged document: it leads to nothing
        if isinstance(document, Index):
            pending += document.manifests
        elif isinstance(document, Manifest):
            yield document.config
            yield from document.layers
