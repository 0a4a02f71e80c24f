"""Reading from a repository: names, documents and blobs, from its mirrors in order and then from the repository
itself.

distribution-spec, "Pull". A blob that is cut off is resumed (Range). It is not verified here: ``source.verify`` does
that for every place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeVar

from lamina.errors import (
    AccessDenied,
    BlobNotFound,
    Cancelled,
    DigestMismatch,
    InvalidDocument,
    InvalidLayer,
    LaminaError,
    NotFound,
    ReferenceNotFound,
    RemoteFailure,
    SizeMismatch,
    Unsupported,
    UsageError,
)
from lamina.events import Cancel, Warned
from lamina.light import pattern
from lamina.remote.challenge import scope
from lamina.remote.client import Client
from lamina.remote.encoding import decoder_for
from lamina.remote.http import Answer, RequestFailed, digits
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.json import MAX_DOCUMENT
from lamina.spec.manifest import parse
from lamina.spec.reference import Reference

ACCEPT = ", ".join(mediatype.ACCEPT)
PIECE = 256 << 10  # bytes that are passed on at once
PROGRESS = 64 << 10  # bytes after which a cut connection counts as a new failure
SLOW_WINDOW, SLOW_BYTES = 30.0, 30 << 10  # fewer bytes in so many seconds: give up the connection
_CONTENT_RANGE = pattern(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_UNSATISFIED = pattern(r"bytes \*/(\d{1,19})")  # in a 416: the size that the server has
_NO_HEAD = (400, 403, 405, 501)
"""Answers of registries and proxies that don't support HEAD; some answer 404, but a 404 is mostly true."""
T = TypeVar("T")


class Site:
    """A repository at one host: ``path`` there; ``mirror`` if it stands in for another."""

    def __init__(self, client: Client, path: str, *, mirror: bool = False) -> None:
        self.client = client
        self.path = path
        self.mirror = mirror

    def url(self, rest: str) -> str:
        return f"/v2/{self.path}/{rest}"

    @property
    def pull(self) -> tuple[str, ...]:
        return (scope("repository", self.path, "pull"),)

    @property
    def push(self) -> tuple[str, ...]:
        return (scope("repository", self.path, "pull,push"),)

    @property
    def delete(self) -> tuple[str, ...]:
        return (scope("repository", self.path, "delete,pull,push"),)


class RemoteReader:
    """``Reader`` of a repository. ``location`` is ``docker://host/path``."""

    location: str
    repository: str
    _documents: dict[Digest, bytes]

    def sites(self, reference: Reference | None = None) -> Sequence[Site]:
        """Return the sites to ask for ``reference``, in order; the repository itself is the last."""
        raise NotImplementedError

    def resolve(self, name: str) -> Descriptor:
        """Resolve a reference of this repository with a tag or a digest; the document is fetched with it. Raises
        ReferenceNotFound, AccessDenied, RemoteFailure, InvalidContent."""
        reference = self.reference(name)
        descriptor, raw = self._first_answer(
            self.sites(reference), lambda site: _get_manifest(site, reference), str(reference)
        )
        self._documents[descriptor.digest] = raw
        return descriptor

    def head(self, name: str) -> Descriptor:
        """Resolve a name without fetching the document: one HEAD, which rate limits don't count. Falls back to
        ``resolve`` if the registry does not support HEAD or does not state the digest."""
        reference = self.reference(name)
        try:
            found = self._first_answer(
                self.sites(reference), lambda site: _head_manifest(site, reference), str(reference)
            )
        except (NotFound, AccessDenied):  # some registries and proxies answer every HEAD like this
            found = None
        return found or self.resolve(name)

    def reference(self, name: str) -> Reference:
        """Parse ``name`` as a reference of this repository. Raises UsageError."""
        reference = Reference.parse(name).with_default_tag()
        if reference.repository != self.repository:
            raise UsageError(f"{reference} is not in {self.repository}", hint="use references of one repository")
        return reference

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Return a verified document. Raises BlobNotFound, InvalidContent, RemoteFailure."""
        raw = self._documents.get(descriptor.digest)
        if raw is None:
            if descriptor.data is not None:
                return descriptor.data
            pinned = Reference.parse(f"{self.repository}@{descriptor.digest}")
            try:
                found, raw = self._first_answer(
                    self.sites(pinned), lambda site: _get_manifest(site, pinned), str(pinned)
                )
            except ReferenceNotFound as error:
                raise BlobNotFound(error.message, hint=error.hint) from None
            if found.media_type != descriptor.media_type and mediatype.is_known_document(found.media_type):
                raise InvalidDocument(
                    f"{pinned} is inconsistent: it was announced as {descriptor.media_type}, "
                    f"but its type is {found.media_type}",
                    hint="don't use this image; report it to its publisher",
                )
            self._documents[descriptor.digest] = raw
        descriptor.check(raw)
        return raw

    def forget(self) -> None:
        """Drop the documents that were read: a server that runs for long must not keep them all."""
        self._documents.clear()

    def remember(self, descriptor: Descriptor, raw: bytes) -> None:
        """The document is known: it need not be asked for."""
        self._documents[descriptor.digest] = raw

    def blob(self, descriptor: Descriptor) -> RemoteBlob:
        return RemoteBlob(self, descriptor)

    def stat_blob(self, digest: Digest) -> Descriptor:
        """Return the descriptor of a blob, with its size, from its digest. Raises BlobNotFound, RemoteFailure,
        AccessDenied."""
        site = self.sites()[-1]
        what = f"blob {digest}"
        status, size = _head_blob(site, digest)
        if status != 200 or size is None:
            size = _size_by_get(site, digest)
        if size is None:
            raise RemoteFailure(
                f"{what}: {site.client.host} does not state its size",
                hint="report it to the registry's operator",
            )
        return Descriptor("application/octet-stream", digest, size)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository itself has the blob, as far as it says. Raises SizeMismatch, RemoteFailure."""
        site = self.sites()[-1]
        try:
            status, size = _head_blob(site, descriptor.digest)
            if status in _NO_HEAD:
                status, size = 200, _size_by_get(site, descriptor.digest)
        except (BlobNotFound, AccessDenied):
            return False  # readers may be denied access to a repository that does not exist yet: the upload will tell
        if status == 200 and size not in (None, descriptor.size):
            raise SizeMismatch(
                f"{self.location} has blob {descriptor.digest} with {size} bytes, not {descriptor.size}",
                hint="check both: one of the two is damaged",
            )
        return status == 200

    def _first_answer(self, sites: Sequence[Site], ask: Callable[[Site], T], what: str) -> T:
        """Ask each site in turn and return the first answer; if a mirror lacks something or fails, the next one is
        asked."""
        for site in sites[:-1]:
            try:
                return ask(site)
            except (NotFound, RemoteFailure, AccessDenied, Unsupported) as error:
                if not isinstance(error, NotFound):
                    site.client.emit(Warned(f"mirror {site.client.host}: {error.message}; asking the next"))
        return ask(sites[-1])


def _get_manifest(site: Site, reference: Reference) -> tuple[Descriptor, bytes]:
    what = str(reference)
    url = site.url(f"manifests/{reference.digest or reference.tag}")
    try:
        answer, raw = site.client.document(
            url, scopes=site.pull, headers={"Accept": ACCEPT}, limit=MAX_DOCUMENT, what=what
        )
    except NotFound as error:
        raise ReferenceNotFound(error.message, hint=error.hint) from None
    media_type = _document_type(answer)
    stated = _stated(answer)
    for digest in filter(None, (reference.digest, stated)):
        if digest.supported and Digest.of(raw, digest.algorithm) != digest:
            raise DigestMismatch(
                f"{what} does not match its digest {digest}", hint="report it to the registry's operator"
            )
    digest = reference.digest or (stated if stated is not None and stated.supported else None) or Digest.of(raw)
    if not media_type:
        media_type = parse(raw, None, what).media_type
    return Descriptor(media_type, digest, len(raw)), raw


def _head_manifest(site: Site, reference: Reference) -> Descriptor | None:
    url = site.url(f"manifests/{reference.digest or reference.tag}")
    answer = site.client.request(
        "HEAD", url, scopes=site.pull, headers={"Accept": ACCEPT}, ok=(200, *_NO_HEAD), what=str(reference)
    )
    answer.release()
    if answer.status != 200 or answer.encoding:
        return None
    stated, size = _stated(answer), digits(answer.headers.get("Content-Length"))
    media_type = _document_type(answer)
    if stated is None or not size or not media_type:
        return None
    if reference.digest is not None and reference.digest != stated:
        return None
    return Descriptor(media_type, stated, size)


def _head_blob(site: Site, digest: Digest) -> tuple[int, int | None]:
    """Return the status (200, 404, or that of a registry without HEAD), and the stated size."""
    url = site.url(f"blobs/{digest}")
    answer = site.client.request("HEAD", url, scopes=site.pull, ok=(200, 404, *_NO_HEAD), what=f"blob {digest}")
    answer.release()
    # some proxies state 0 if they don't know the size
    return answer.status, None if answer.encoding else digits(answer.headers.get("Content-Length")) or None


def _size_by_get(site: Site, digest: Digest) -> int | None:
    """Return the size, from a GET of the first byte; None if it is not stated. Raises BlobNotFound, AccessDenied,
    RemoteFailure."""
    try:
        answer = site.client.request(
            "GET",
            site.url(f"blobs/{digest}"),
            scopes=site.pull,
            headers={"Range": "bytes=0-0"},
            ok=(200, 206, 416),
            what=f"blob {digest}",
        )
    except NotFound as error:
        raise BlobNotFound(error.message, hint=error.hint) from None
    with answer:
        stated = answer.headers.get("Content-Range", "").strip()
        if answer.status == 206:
            found = _CONTENT_RANGE.fullmatch(stated)
            return int(found[3]) if found is not None and found[3] != "*" else None
        if answer.status == 416:  # it has no first byte
            empty = _UNSATISFIED.fullmatch(stated)
            return int(empty[1]) if empty is not None else 0
        return None if answer.encoding else digits(answer.headers.get("Content-Length"))


def _document_type(answer: Answer) -> str:
    """Return the media type from the header; "" if only the document can tell."""
    media_type = mediatype.essence(answer.headers.get("Content-Type", ""))
    return "" if media_type in ("", "application/json", "text/plain", "application/octet-stream") else media_type


def _stated(answer: Answer) -> Digest | None:
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
    except UsageError:
        return None


class RemoteBlob:
    """A ``Blob`` of a repository."""

    def __init__(self, reader: RemoteReader, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.origin = reader.repository
        self._reader = reader

    def open(self, start: int = 0, end: int | None = None) -> RemoteStream:
        """Open the blob. No request is sent before the first read, which raises BlobNotFound, AccessDenied,
        RemoteFailure and others."""
        pinned = Reference.parse(f"{self._reader.repository}@{self.descriptor.digest}")
        stop = self.descriptor.size if end is None else min(end, self.descriptor.size)
        return RemoteStream(self._reader.sites(pinned), self.descriptor, start, stop)


class RemoteStream:
    """The bytes ``start`` to ``end`` of a blob, from the first of ``sites`` that has them. After a cut it requests
    the rest, and after a failure it asks the next site. ``abort`` may be called from another thread at any time."""

    def __init__(self, sites: Sequence[Site], descriptor: Descriptor, start: int, end: int) -> None:
        self._site, self._others = sites[0], list(sites[1:])
        self._descriptor = descriptor
        self._at, self._end = start, end
        self._start = start
        self._what = f"blob {descriptor.digest}"
        self._failures, self._last_cut = 0, start
        self._whole = False  # this site refuses ranges: request the whole blob
        self._cancel = Cancel(self._site.client.cancel)
        self._window = (time.monotonic(), start)
        self._answer: Answer | None = None
        self._encoded: _Encoded | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes. Raises RemoteFailure if retries don't help, SizeMismatch, Cancelled."""
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        want = min(size, PIECE, self._end - self._at)
        pieces: list[bytes] = []
        while want > 0:
            data = self._some(want)
            pieces.append(data)
            want -= len(data)
            self._at += len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _some(self, want: int) -> bytes:
        """Return at least one byte, over as many connections as needed."""
        while True:
            try:
                if self._answer is None:
                    self._answer = self._ask()
                data = (self._encoded or self._answer).read1(want)
                if not data:
                    raise RequestFailed(f"{self._site.client.host} cut the connection off")
                self._watch_speed()
                return data
            except RequestFailed as error:
                try:
                    self._connection_lost(error)
                except RemoteFailure as failure:
                    self._next_site(failure)
            except (NotFound, RemoteFailure, AccessDenied, SizeMismatch, Unsupported) as error:
                self._next_site(error)

    def _next_site(self, error: LaminaError) -> None:
        """Continue at the next site. Raises ``error`` if there is none."""
        if not self._others:
            raise error
        if not isinstance(error, NotFound):
            self._site.client.emit(Warned(f"mirror {self._site.client.host}: {error.message}; asking the next"))
        self._close_answer()
        self._site = self._others.pop(0)
        self._failures, self._last_cut = 0, self._at
        self._whole = False

    def _connection_lost(self, error: RequestFailed) -> None:
        if self._cancel.is_set:
            raise Cancelled("cancelled")
        self._close_answer()
        client = self._site.client
        self._failures = 1 if self._at - self._last_cut >= PROGRESS else self._failures + 1
        self._last_cut = self._at
        if self._failures >= client.attempts:
            raise RemoteFailure(
                f"{self._what} from {client.host} broke off at byte {self._at} of {self._descriptor.size}, "
                f"{self._failures} times: {error}",
                hint="try again: the received bytes are kept",
            )
        client.emit(
            Warned(
                f"{self._what}: {error} at byte {self._at} of {self._descriptor.size}; "
                + ("starting over" if self._whole else "resuming there")
            )
        )
        client.pause(self._failures, None, self._cancel)
        self._window = (time.monotonic(), self._at)

    def _close_answer(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = self._encoded = None

    def _watch_speed(self) -> None:
        since, at = self._window
        now = time.monotonic()
        if now - since >= SLOW_WINDOW:
            if self._at - at < SLOW_BYTES:
                raise RequestFailed(f"{self._site.client.host} sends too slowly")
            self._window = (now, self._at)

    def _ask(self) -> Answer:
        site, size = self._site, self._descriptor.size
        ranged = (self._at > 0 or self._end < size) and not self._whole
        try:
            answer = site.client.request(
                "GET",
                site.url(f"blobs/{self._descriptor.digest}"),
                scopes=site.pull,
                headers={"Range": f"bytes={self._at}-{self._end - 1}"} if ranged else {},
                ok=(200, 206, 416),
                what=self._what,
                cancel=self._cancel,
            )
        except NotFound as error:
            raise BlobNotFound(error.message, hint=error.hint) from None
        if self._cancel.is_set:
            answer.close()
            raise Cancelled("cancelled")
        try:
            self._check(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _check(self, answer: Answer) -> None:
        """Check that the answer is for the requested blob and range."""
        host, size = self._site.client.host, self._descriptor.size
        length = digits(answer.headers.get("Content-Length"))
        page = mediatype.essence(answer.headers.get("Content-Type", "")) == "text/html"
        if page and (answer.status != 200 or length != size):  # else it is a blob that is labelled so
            raise RemoteFailure(
                f"{self._what}: {host} sends a web page",
                hint="check the host: it is not a registry, or a login page intercepts the request",
            )
        if answer.status == 206:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
            if answer.encoding and (found is None or length != int(found[2]) - int(found[1]) + 1):
                self._whole = True
                raise RequestFailed(f"{host} sends a range of encoded bytes")
            if found is None or int(found[1]) != self._at:
                raise RequestFailed(f"{host} sends another range than requested")
            if found[3] != "*" and int(found[3]) != size:
                raise self._other_size(found[3])
            return
        if answer.status == 416:
            stated = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range", "").strip())
            if stated is not None and int(stated[1]) != size:
                raise self._other_size(stated[1])
            if self._whole or self._at == self._start:
                raise self._other_size("fewer")
            self._whole = True  # it gave bytes of the blob before: start over and skip these
            raise RequestFailed(f"{host} refuses the rest")
        if answer.encoding and length != size:  # else the header describes the blob itself
            self._encoded = _Encoded(answer, self._what, size)
            self._skip(self._encoded, self._at)
            return
        if length not in (None, size):
            raise self._other_size(str(length))
        self._skip(answer, self._at)

    def _skip(self, answer: Answer | _Encoded, size: int) -> None:
        """Skip what was received before, for a server that ignores Range."""
        since, got = time.monotonic(), 0
        while size > 0:
            data = answer.read1(min(size, PIECE))
            if not data:
                raise RequestFailed(f"{self._site.client.host} cut the connection off")
            size -= len(data)
            got += len(data)
            if time.monotonic() - since >= SLOW_WINDOW:
                if got < SLOW_BYTES:
                    raise RequestFailed(f"{self._site.client.host} sends too slowly")
                since, got = time.monotonic(), 0

    def _other_size(self, found: str) -> SizeMismatch:
        return SizeMismatch(
            f"{self._what} at {self._site.client.host} has {found} bytes instead of {self._descriptor.size}",
            hint="get the image from another registry: this one is damaged",
        )

    def abort(self) -> None:
        self._cancel.set()
        answer = self._answer
        if answer is not None:
            answer.abort()

    def close(self) -> None:
        self._cancel.close()
        if self._answer is not None:
            if self._at >= self._end and self._end == self._descriptor.size:
                self._answer.release()  # complete: the connection can be reused
            else:
                self._answer.close()
            self._answer = self._encoded = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Encoded:
    """The body of an answer, with its Content-Encoding decoded as it comes. ``size`` is the largest decoded size."""

    def __init__(self, answer: Answer, what: str, size: int) -> None:
        self._answer = answer
        self._left = 2 * size + PIECE  # bytes that may come in: empty frames could follow each other forever
        self._decoder = decoder_for(answer.encoding, what)
        self._pieces: Iterator[bytes] = iter(())
        self._piece = b""

    def read1(self, size: int) -> bytes:
        """Read some decoded bytes. Raises RequestFailed."""
        try:
            while not self._piece:
                self._piece = next(self._pieces, b"")
                if self._piece:
                    break
                data = self._answer.read1(PIECE)
                self._left -= len(data)
                if not data or self._left < 0:
                    return b""
                self._pieces = self._decoder.feed(data)
        except InvalidLayer as error:
            raise RequestFailed(error.message) from None
        data, self._piece = self._piece[:size], self._piece[size:]
        return data
