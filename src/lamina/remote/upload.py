"""The upload of one blob into a repository: mounted, sent in one request, or in chunks; resumed after a cut, or after
the process was killed.

distribution-spec, "Pushing Blobs". The registry verifies the digest. Only if it reports a mismatch is the source
hashed again, to tell local damage from a fault of the registry: hashing each time would cost much of the push.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from lamina.errors import Cancelled, DigestMismatch, InvalidContent, LaminaError, NotFound, RemoteFailure
from lamina.events import BlobProgress, Cancel, OnEvent, Warned
from lamina.host.files import CHUNK
from lamina.light import pattern
from lamina.remote.challenge import scope
from lamina.remote.client import MAX_WAIT, TEMPORARY, retry_after
from lamina.remote.http import Answer, RequestFailed, digits, joined
from lamina.remote.read import Site
from lamina.source.verify import verified
from lamina.spec.descriptor import Descriptor

if TYPE_CHECKING:
    from lamina.source.protocols import Blob

SMALL = 256 << 10  # bytes; a blob up to this size is sent in the request that ends the session
FIRST_CHUNK, LEAST_CHUNK = 32 << 20, 1 << 20
MOUNTS = 3  # repositories that are tried as the source of a mount
_RANGE = pattern(r"(?:bytes=)?0-(\d{1,19})")
_STATUSES = (200, 201, 202, 204, 400, 404, 409, 413, 416, *TEMPORARY)


class SessionNote(Protocol):
    """The URL of an upload session, kept for the next process; "" for none."""

    def get(self) -> str: ...

    def set(self, value: str) -> None: ...


class Journal(Protocol):
    """Where upload sessions are recorded. A note belongs to one push; None if another one has it."""

    def note(self, key: str) -> AbstractContextManager[SessionNote | None]: ...


class NoJournal:
    """A journal that records nothing."""

    def note(self, key: str) -> AbstractContextManager[None]:
        return nullcontext()


class _Unfinished(RemoteFailure):
    """All bytes were sent, but the end was not confirmed. ``wait``: seconds that the registry asks to wait,
    if any."""

    def __init__(self, message: str, *, hint: str | None = None, wait: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wait = wait


class Upload:
    """Sends one blob. ``run`` may be called once."""

    def __init__(
        self,
        site: Site,
        blob: Blob,
        *,
        journal: Journal,
        mount_from: Sequence[str] = (),
        on_event: OnEvent,
        cancel: Cancel | None,
    ) -> None:
        self._site = site
        self._client = site.client
        self._blob = blob
        self._descriptor: Descriptor = blob.descriptor
        self._journal = journal
        self._note: SessionNote | None = None
        self._key = f"{site.client.host}/{site.path}@{blob.descriptor.digest}"
        self._mounts = list(dict.fromkeys(mount_from))[:MOUNTS]
        self._on_event = on_event
        self._cancel = cancel
        self._what = f"blob {blob.descriptor.digest}"
        self._location = ""
        self._least = 0
        self._chunk = 0  # bytes; 0 sends the rest in one request

    def run(self) -> bool:
        """Upload the blob. Returns False if the registry mounted it from another of its repositories. Raises
        InvalidContent (the source is damaged), AccessDenied, RemoteFailure, Cancelled; the next run resumes it."""
        small = self._descriptor.size <= SMALL
        with nullcontext() if small else self._journal.note(self._key) as self._note:
            return self._run()

    def _run(self) -> bool:
        at = self._resume()
        if at is None:
            if self._try_mount():
                return False
            at = self._begin()
        for number in count(1):
            try:
                self._send_from(at)
                break
            except _Unfinished as error:
                if number >= self._client.attempts:
                    raise RemoteFailure(error.message, hint=error.hint) from None
                self._client.pause(number, error.wait, self._cancel)
                state = self._state() if self._descriptor.size > SMALL else None
            except NotFound:  # the registry lost the session
                if number >= self._client.attempts:
                    raise
                state = None
            except InvalidContent:  # the source is damaged: nobody can resume this
                self._cancel_session()
                raise
            if state is None:
                self._location = ""
            at = self._begin() if state is None else state
        self._record_session("")
        return True

    def _record_session(self, location: str) -> None:
        if self._note is not None:
            self._note.set(location)

    def _send_from(self, at: int) -> None:
        if self._descriptor.size <= SMALL and at == 0:
            self._end(b"".join(verified(self._blob, on_event=self._on_event, cancel=self._cancel)))
        else:
            self._send(at)
            self._end(b"")

    def _resume(self) -> int | None:
        """Return how many bytes an earlier run's session has; None if there is no session."""
        location = self._note.get() if self._note is not None else ""
        if not location or urlsplit(location)[:2] != urlsplit(self._client.base)[:2]:
            return None
        self._location = location
        try:
            at = self._state(retry=False)
        except Cancelled:
            raise
        except LaminaError:  # whatever the error, the session can't be resumed
            at = None
        if at is None:
            self._record_session("")
            self._location = ""
        return at

    def _try_mount(self) -> bool:
        for source in self._mounts:
            host, _, path = source.partition("/")
            if host != self._client.host or path == self._site.path:
                continue
            parameters = urlencode({"mount": str(self._descriptor.digest), "from": path})
            try:
                answer = self._ask(
                    "POST",
                    self._site.url(f"blobs/uploads/?{parameters}"),
                    scopes=(*self._site.push, scope("repository", path, "pull")),
                    headers={"Content-Length": "0"},
                    ok=(201, 202),
                )
            except Cancelled:
                raise
            except LaminaError:  # refused, not found or not supported: send it instead
                continue
            answer.release()
            if answer.status == 201:
                return True
            self._follow(answer)
            return False
        return False

    def _begin(self) -> int:
        if not self._location:
            answer = self._ask(
                "POST", self._site.url("blobs/uploads/"), headers={"Content-Length": "0"}, ok=(202,), retry=True
            )
            answer.release()
            self._follow(answer)
            self._least = digits(answer.headers.get("OCI-Chunk-Min-Length")) or 0
        return 0

    def _send(self, at: int) -> None:
        """Send all bytes from ``at`` on, in as many requests as needed."""
        size, failures = self._descriptor.size, 0
        while at < size:
            end = size if not self._chunk else min(size, at + self._chunk)
            problem, wait = "", None
            try:
                answer = self._patch(at, end)
            except RemoteFailure as error:
                status, problem = 0, error.message
            else:
                status = answer.status
                if status in (200, 201, 202, 204):
                    answer.release()
                    self._follow(answer)
                    at, failures = self._confirmed(answer, at, end), 0
                    continue
                if status not in (409, 413, 416, *TEMPORARY):
                    raise self._refused(answer)
                wait = retry_after(answer.headers)
                failure = self._client.failure(answer, self._what)
                if wait is not None and wait > MAX_WAIT:
                    raise failure
                problem = failure.message
            failures += status != 413
            if failures >= self._client.attempts:
                hint = failure.hint if status == 507 else "try again: the registry keeps what it has received"
                raise RemoteFailure(problem, hint=hint)
            had = at
            if status == 413 or (status == 0 and failures > 1):
                self._smaller(problem)
            self._client.pause(max(1, failures), wait, self._cancel)
            state = self._state()
            if state is None:
                self._location = ""
                state = self._begin()
            at = state
            if at > had:
                failures = 0
            self._on_event(Warned(f"{problem}; resuming at byte {at} of {size}"))

    def _patch(self, at: int, end: int) -> Answer:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - at)}
        if at or end < self._descriptor.size or self._chunk:
            headers["Content-Range"] = f"{at}-{end - 1}"
        return self._ask("PATCH", self._location, headers=headers, body=lambda: self._pieces(at, end), ok=_STATUSES)

    def _pieces(self, at: int, end: int) -> Iterator[bytes]:
        size = self._descriptor.size
        with self._blob.open(at, end) as stream:
            while at < end:
                if self._cancel is not None:
                    self._cancel.check()
                data = stream.read(min(CHUNK, end - at))
                if not data:
                    raise InvalidContent(
                        f"{self._what} ends at byte {at} of {size}", hint="check the source: it is damaged"
                    )
                at += len(data)
                yield data
                self._on_event(BlobProgress(self._descriptor.digest, at, size))

    def _confirmed(self, answer: Answer, at: int, end: int) -> int:
        """Return the position that the registry confirms in its Range header, else ``end``."""
        found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        return int(found[1]) + 1 if found and at <= int(found[1]) + 1 < end and int(found[1]) > 0 else end

    def _smaller(self, problem: str) -> None:
        """Send smaller chunks, because a proxy before the registry rejects large bodies or fails on them."""
        least = max(self._least, LEAST_CHUNK)
        smaller = min(FIRST_CHUNK, self._descriptor.size // 2) if not self._chunk else self._chunk // 4
        if self._chunk and self._chunk <= least:
            raise RemoteFailure(
                f"{self._what}: {self._client.host} does not accept {self._chunk} bytes in one request: {problem}",
                hint="raise the limit of request sizes in the proxy before the registry",
            )
        self._chunk = max(smaller, least)

    def _state(self, *, retry: bool = True) -> int | None:
        """Return how many bytes the session has; None if it is gone."""
        try:
            answer = self._ask("GET", self._location, ok=(200, 202, 204, 400, 404, 405, 416), retry=retry)
        except NotFound:
            return None
        answer.release()
        if answer.status not in (200, 202, 204):
            return None
        found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        if answer.headers.get("Location"):
            self._follow(answer)
        if found is None or int(found[1]) == 0:
            # most registries say 0-0 both without bytes and with a single byte: start a new session
            self._cancel_session()
            return None
        return min(int(found[1]) + 1, self._descriptor.size)

    def _end(self, data: bytes) -> None:
        parts = urlsplit(self._location)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": str(self._descriptor.digest)}))))
        url = urlunsplit(parts._replace(query=query))
        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        wait = None
        try:
            answer = self._ask("PUT", url, headers=headers, body=data, ok=(200, 201, 202, 204, 400, 416, *TEMPORARY))
            if answer.status in TEMPORARY:
                wait = retry_after(answer.headers)
                raise self._client.failure(answer, self._what)
        except RemoteFailure as error:
            if self._there():
                return  # it was done, only the answer was lost
            if wait is not None and wait > MAX_WAIT:
                raise
            raise _Unfinished(error.message, hint=error.hint, wait=wait) from None
        if answer.status in (400, 416):
            failure = self._client.failure(answer, self._what)
            for _ in verified(self._blob, cancel=self._cancel):
                pass  # raises if the source is damaged
            raise DigestMismatch(
                f"{self._client.host} rejects the digest of {self._what}: {failure.message}",
                hint="push again",
            )
        answer.release()

    def _there(self) -> bool:
        url = self._site.url(f"blobs/{self._descriptor.digest}")
        answer = self._client.request("HEAD", url, scopes=self._site.push, ok=(200, 404), what=self._what)
        answer.release()
        return answer.status == 200

    def _refused(self, answer: Answer) -> LaminaError:
        self._record_session("")
        return self._client.failure(answer, self._what)

    def _cancel_session(self) -> None:
        """Cancel the session at the registry; failures don't matter."""
        self._record_session("")
        try:
            self._ask("DELETE", self._location, ok=(200, 202, 204, 404, 405)).release()
        except LaminaError:
            pass

    def _follow(self, answer: Answer) -> None:
        """Take the session's new URL from an answer."""
        location = answer.headers.get("Location")
        if not location:
            if not self._location:
                raise RemoteFailure(
                    f"{self._what}: {self._client.host} opens an upload without a Location",
                    hint="report it to the registry's operator",
                )
            return
        try:
            url = joined(answer.url, location)
        except RequestFailed as error:
            raise RemoteFailure(f"{self._what}: {error}", hint="report it to the registry's operator") from None
        parts, home = urlsplit(url), urlsplit(self._client.base)
        if parts.scheme not in ("http", "https") or parts.username is not None:
            raise RemoteFailure(
                f"{self._what}: {self._client.host} gives an unsafe upload URL: {url[:200]!r}",
                hint="report it to the registry's operator",
            )
        if home.scheme == "https" and parts.scheme == "http":
            if parts.hostname != home.hostname:
                raise RemoteFailure(
                    f"{self._what}: {self._client.host} gives an upload URL with plain http: {url[:200]!r}",
                    hint="report it to the registry's operator",
                )
            url = urlunsplit(parts._replace(scheme="https"))  # a registry behind a proxy that terminates TLS
        self._location = url
        self._record_session(url)

    def _ask(
        self,
        method: str,
        url: str,
        *,
        scopes: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], Iterable[bytes]] | None = None,
        ok: Sequence[int],
        retry: bool = False,
    ) -> Answer:
        return self._client.request(
            method,
            url,
            scopes=self._site.push if scopes is None else scopes,
            headers=headers,
            body=body,
            ok=ok,
            retry=retry,
            what=self._what,
            cancel=self._cancel,
        )
