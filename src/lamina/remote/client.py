"""One registry host: its URL, authentication, redirects, retries, and its errors as LaminaErrors.

distribution-spec, "API" and "Error Codes". Credentials are sent only to the host that they are for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import count
from urllib.parse import urlsplit

from lamina.errors import AccessDenied, LaminaError, NotFound, RateLimited, RemoteFailure, Unsupported
from lamina.events import Cancel, Event, OnEvent, Warned, ignore
from lamina.light import Value, field, pattern
from lamina.remote.auth import Authorizer
from lamina.remote.challenge import parse_challenges
from lamina.remote.complaint import Complaint
from lamina.remote.credentials import Credential
from lamina.remote.http import MOVED, Answer, RequestFailed, Transport, absolute, digits, joined
from lamina.remote.loopback import is_loopback
from lamina.remote.registries import api_host
from lamina.remote.site import is_login_host, login_hosts_setting
from lamina.spec.mediatype import essence

ATTEMPTS = 5
MAX_WAIT = 60.0  # seconds
MAX_REDIRECTS = 10
TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of errors that may pass: the request is worth repeating."""
_PAGES = ("text/html", "application/xhtml+xml")
Body = bytes | Callable[[], Iterable[bytes]]
_WARNING = pattern(r'299\s+\S+\s+"((?:[^"\\]|\\.)*)"')


class Access(Value):
    """How to access registries.

    ``credential`` finds the credential for (host, repository). ``given`` is only for the registry itself, not for
    mirrors or redirect targets; so is ``token``, a bearer token that replaces any login. ``login_hosts`` are
    (registry, host) pairs on other sites that may get the login of a registry: token servers and redirect targets.
    ``tls_verify``: None means true, but plain http is allowed for loopback hosts. ``attempts`` limits tries after
    temporary errors; ``every_wait`` is the pause between them in seconds, instead of growing pauses.
    A pause has at most ``max_wait`` seconds; a longer Retry-After is an error.
    """

    credential: Callable[[str, str], Credential | None] = lambda host, path: None
    given: Credential | None = None
    token: str = ""
    login_hosts: frozenset[tuple[str, str]] = frozenset()
    tls_verify: bool | None = None
    cert_dirs: tuple[str, ...] = ()
    cert_dir: str | None = None
    attempts: int = ATTEMPTS
    first_wait: float = 0.5
    every_wait: float | None = None
    max_wait: float = MAX_WAIT
    on_event: OnEvent = ignore
    cancel: Cancel = field(default_factory=Cancel)


class Client:
    """A client for one host. ``host`` is as in references (docker.io). ``insecure``: certificates are not checked,
    plain http is accepted."""

    def __init__(self, host: str, access: Access, *, path: str = "", insecure: bool = False) -> None:
        self.host = host
        self._path = path
        self._api = api_host(host)
        self._access = access
        name, _, port = self._api.rpartition(":")
        if not name or not port.isdigit():
            name = self._api
        self._loopback = is_loopback(name)
        self._insecure = insecure or access.tls_verify is False
        self._transport = Transport(verify=not self._insecure, cert_dirs=access.cert_dirs, cert_dir=access.cert_dir)
        self._authorizers: dict[str, Authorizer] = {}
        self._guard = threading.Lock()
        self._base_url = ""
        self._reached = False
        self._near = False  # the last answer of the registry itself came from this machine
        self._warned: set[str] = set()
        self._without_login = ""  # host of a redirect that wanted a login and got none

    @property
    def base(self) -> str:
        """The base URL, ``https://host``. A loopback or insecure host is probed for http and https. Raises
        RemoteFailure."""
        with self._guard:
            if not self._base_url:
                self._base_url = f"{self._scheme()}://{self._api}"
            return self._base_url

    def _scheme(self) -> str:
        plain_allowed = self._insecure or (self._loopback and self._access.tls_verify is not True)
        if not plain_allowed:
            return "https"
        order = ("http", "https") if self._loopback else ("https", "http")
        failed: RequestFailed | None = None
        refused = ""  # answers, but perhaps only to say that it wants the other scheme
        for scheme in order:
            try:
                answer = self._send("GET", f"{scheme}://{self._api}/v2/", {}, None, self._access.cancel, led=False)
            except RequestFailed as error:
                if failed is None or error.tls:  # a TLS port breaks off plain http: its certificate is the reason
                    failed = error
                if error.fatal and not error.tls:
                    break  # nobody listens: another scheme does not help
                continue
            answer.release()
            if scheme == "https" or answer.status != 400:
                return scheme
            refused = scheme
        if refused and not (failed is not None and failed.untrusted):
            return refused
        hint = _TRUST if failed is not None and failed.untrusted else _REACH
        raise RemoteFailure(str(failed or f"{self.host} speaks neither http nor https"), hint=hint)

    def request(
        self,
        method: str,
        path: str,
        *,
        scopes: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        ok: Sequence[int] = (200,),
        retry: bool = True,
        what: str = "",
        cancel: Cancel | None = None,
    ) -> Answer:
        """Send a request and return the answer, whose status is one of ``ok``. ``path`` is relative to the host, or a
        URL that the registry gave. ``body`` is bytes, or a function that returns a new iterator for each try (with a
        Content-Length header).

        Raises NotFound (404), AccessDenied (401, 403), RemoteFailure (others, after retries), Cancelled.
        """
        url = absolute(self.base, path)
        what = what or f"{method} {path.partition('?')[0]}"
        cancel = cancel or self._access.cancel
        answer = self._persistent(
            lambda: self._authorized(method, url, scopes, headers or {}, body, cancel), retry, what, cancel
        )
        self._warn(answer)
        if answer.status in ok:
            return answer
        raise self.failure(answer, what)

    def document(
        self,
        path: str,
        *,
        scopes: Sequence[str],
        headers: Mapping[str, str] | None = None,
        limit: int,
        what: str,
    ) -> tuple[Answer, bytes]:
        """GET a document with a body of at most ``limit`` bytes; retry if it is cut off. Raises as ``request``;
        LimitExceeded; RemoteFailure if a web page comes instead."""
        for number in count(1):
            with self.request("GET", path, scopes=scopes, headers=headers, what=what) as answer:
                if essence(answer.headers.get("Content-Type", "")) in _PAGES:
                    raise RemoteFailure(
                        f"{what}: {self.host} sends a web page",
                        hint="check the host: it is not a registry, or a login page intercepts the request",
                    )
                try:
                    return answer, answer.read_all(limit, f"{what} at {self.host}")
                except RequestFailed as error:
                    if number >= self._access.attempts:
                        raise RemoteFailure(f"{what}: {error}", hint=_REACH) from None
            self.pause(number, None, None)
        raise AssertionError("unreachable")

    def failure(self, answer: Answer, what: str) -> LaminaError:
        """Return the error for an answer that is not ok; the answer is consumed."""
        return self.explained(answer, Complaint.of(answer), what)

    def explained(self, answer: Answer, complaint: Complaint, what: str) -> LaminaError:
        """As ``failure``, for an answer whose body was read already."""
        codes, status, wait = complaint.codes, answer.status, retry_after(answer.headers)
        said = f": {complaint.said}" if complaint.said else ""
        if status == 401 and self._without_login and urlsplit(answer.url).netloc == self._without_login:
            return AccessDenied(
                f"{what}: access denied: {self.host} redirects to {self._without_login}, "
                f"which requires a login{said}",
                hint=f"to send it a login, set {login_hosts_setting(self.host, self._without_login)}",
            )
        if status in (401, 403):
            hint = f"check the name: it may not exist; if it is private, run `lamina login {self.host}`"
            if status == 403 and said:  # the registry knows who asks, and says why not
                hint = "use another name, or ask the registry's operator for permission"
            return AccessDenied(f"{what}: {self.host} denies access{said or f' (status {status})'}", hint=hint)
        if "MANIFEST_BLOB_UNKNOWN" in codes:  # with status 404 (as the specification says) or 400
            return NotFound(
                f"{what}: {self.host} does not have all blobs of this manifest{said}",
                hint="push again: the registry may have removed a blob before the manifest came",
            )
        if status == 404:
            return NotFound(
                f"{what}: not found at {self.host}{said}",
                hint=f"check the name; if it is private, run `lamina login {self.host}`",
            )
        if status == 429:
            again = f"try again in {wait:.0f} s" if wait else "try again later"
            return RateLimited(
                f"{what}: {self.host} limits the rate of requests{said}",
                hint=f"{again}, or log in for a higher limit",
                retry_after=wait,
            )
        if status in (405, 501) or "UNSUPPORTED" in codes:
            return Unsupported(
                f"{what}: {self.host} does not support this{said}", hint="ask the registry's operator to enable it"
            )
        if status in MOVED:
            return RemoteFailure(
                f"{what}: {self.host} sends a redirect that can't be followed",
                hint="report it to the registry's operator",
            )
        hint = "try again later" if status >= 500 else "report it to the registry's operator"
        hint = _HINTS.get(status, hint)
        return RemoteFailure(f"{what}: {self.host} answers with status {status}{said}", hint=hint)

    @property
    def cancel(self) -> Cancel:
        return self._access.cancel

    @property
    def attempts(self) -> int:
        return self._access.attempts

    def emit(self, event: Event) -> None:
        """Send an event to the listener."""
        self._access.on_event(event)

    def close(self) -> None:
        self._transport.close()

    def check_login(self) -> None:
        """Check the credential. Raises AccessDenied, RemoteFailure."""
        self.request("GET", "/v2/", what=f"login to {self.host}").release()

    def _persistent(self, attempt: Callable[[], Answer], retry: bool, what: str, cancel: Cancel | None) -> Answer:
        """Retry after temporary errors (cut connections, 408, 429, 5xx), with growing pauses or as long as the server
        asks."""
        attempts = self._access.attempts if retry else 1
        for number in count(1):
            try:
                answer = attempt()
            except RequestFailed as error:
                restarts = error.refused and self._reached  # it was reached before, so it may come back in a moment
                if (error.fatal and not restarts) or number >= attempts:
                    # an unreachable or untrusted host fails for every blob of an image
                    said = str(error) if error.fatal and what.startswith("blob ") else f"{what}: {error}"
                    raise RemoteFailure(said, hint=_TRUST if error.tls else _REACH) from None
                self.pause(number, None, cancel)
                continue
            self._reached = True
            if answer.status not in TEMPORARY or number >= attempts:
                return answer
            wait = retry_after(answer.headers)
            if wait is not None and wait > self._access.max_wait:
                return answer
            answer.release()
            self.pause(number, wait, cancel)
        raise AssertionError("unreachable")

    def pause(self, number: int, wait: float | None, cancel: Cancel | None) -> None:
        """Wait before attempt ``number`` + 1: ``wait`` seconds, or twice as long as the last time, with jitter."""
        wait = self._access.every_wait if wait is None else wait
        seconds = self._access.first_wait * 2 ** (number - 1) * (0.5 + random.random()) if wait is None else wait
        (cancel or self._access.cancel).wait(min(seconds, self._access.max_wait))

    def _authorized(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body | None,
        cancel: Cancel | None,
    ) -> Answer:
        """Send a request, follow redirects, and answer a 401 once for each host."""
        answered: set[str] = set()
        led = _origin(url) != _origin(self._base_url)
        for _ in range(MAX_REDIRECTS * 2):
            authorizer = self._authorizer(url)
            authorization = authorizer.header(scopes)
            sent = {**headers, "Authorization": authorization} if authorization else dict(headers)
            answer = self._send(method, url, sent, body() if callable(body) else body, cancel, led=led)
            origin = _origin(url)
            if answer.status == 401 and origin not in answered:
                answered.add(origin)
                challenges = parse_challenges(answer.all("WWW-Authenticate"))
                try:
                    again = authorizer.answer(challenges, scopes, authorization)
                except BaseException:
                    answer.close()
                    raise
                if again:
                    answer.release()
                    continue
            target = answer.headers.get("Location") if answer.status in MOVED else None
            if target is None or (method not in ("GET", "HEAD") and answer.status not in (307, 308)):
                return answer
            answer.release()
            url, led = self._redirected(url, target), True
        raise RequestFailed(f"{self.host} redirects without end", fatal=True)

    def _redirected(self, url: str, target: str) -> str:
        new = joined(url, target)
        parts = urlsplit(new)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RequestFailed(f"{self.host} redirects to {new[:200]!r}", fatal=True)
        if parts.scheme == "http" and urlsplit(url).scheme == "https" and not self._insecure:
            raise RequestFailed(f"{self.host} redirects from https to plain http", fatal=True)
        if parts.username is not None:
            raise RequestFailed(f"{self.host} redirects to an address with a password in it", fatal=True)
        return new

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        cancel: Cancel | None,
        *,
        led: bool,
    ) -> Answer:
        """Send one request. ``led``: the registry has chosen the URL (a redirect, a token server, the next page), so
        it may not lead to what only this machine reaches, unless the registry is there itself."""
        answer = self._transport.send(
            method, url, headers, body, cancel=cancel, elsewhere=led and not (self._loopback or self._near)
        )
        if not led:
            self._near = answer.near
        return answer

    def _authorizer(self, url: str) -> Authorizer:
        """Return the authorizer for the host of ``url``: credentials of this registry are never sent to
        another one."""
        origin = _origin(url)
        with self._guard:
            authorizer = self._authorizers.get(origin)
            if authorizer is None:
                authorizer = self._authorizers[origin] = self._new_authorizer(url, origin == _origin(self._base_url))
            return authorizer

    def _new_authorizer(self, url: str, own: bool) -> Authorizer:
        """Make an authorizer. ``own``: ``url`` belongs to this registry. The target of a redirect gets no login, not
        even the one that the user has for that host, because the registry chooses the target. The user can allow it
        (``login_hosts``)."""
        access, netloc = self._access, urlsplit(url).netloc
        # the user allowed plain http to this registry, not to the target of a redirect
        open_wire = not own and url.startswith("http:") and not is_loopback(urlsplit(url).hostname or "")

        def mine() -> Credential | None:
            return access.given or access.credential(self.host, self._path)

        def theirs() -> Credential | None:
            if open_wire:
                return None
            if is_login_host(self.host, netloc, access.login_hosts):
                return access.credential(netloc, "") or mine()
            self._without_login = netloc
            return None

        login_hosts = (
            access.login_hosts
            if own
            else {(netloc, host) for registry, host in access.login_hosts if registry == self.host.lower()}
        )
        return Authorizer(
            self.host if own else netloc,
            mine if own else theirs,
            self._exchange,
            plain=own and url.startswith("http:"),
            login_hosts=login_hosts,
            bearer=access.token if own else "",
        )

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send a request to a token server, with retries."""
        cancel = self._access.cancel
        return self._persistent(
            lambda: self._send(method, url, headers, body, cancel, led=True),
            True,
            f"a token for {self.host}",
            cancel,
        )

    def _warn(self, answer: Answer) -> None:
        for header in answer.all("Warning"):
            found = _WARNING.match(header)
            if found and found[1] not in self._warned and len(self._warned) < 100:
                self._warned.add(found[1])
                self._access.on_event(Warned(f"{self.host} says: {found[1]}"))


_REACH = "check the name, the network and the proxy settings"
_HINTS = {
    409: "use another tag, or ask the registry's operator",
    507: "free space on the registry's disk, or ask its operator, then push again",
}
_TRUST = "put its CA into certs.d, or use --tls-verify=false if you trust the network"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header in either form (RFC 9110, section 10.2.3); None if there is none."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    seconds = digits(text)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
