"""Downloads a file from a web server by its URL. It is not a registry: no stored credentials are sent."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from lamina.errors import (
    AccessDenied,
    LaminaError,
    LimitExceeded,
    NotFound,
    RemoteFailure,
    Unsupported,
    UsageError,
)
from lamina.light import pattern, replace
from lamina.remote.auth import Authorizer
from lamina.remote.challenge import Challenge
from lamina.remote.client import Access, Client
from lamina.remote.http import Answer, RequestFailed, digits
from lamina.remote.loopback import is_loopback
from lamina.spec.mediatype import essence

_LIKE = "use a URL like https://HOST/rootfs.tar.gz, percent-encoded if needed"
_URL = pattern(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(text: str) -> bool:
    """Whether it is a URL of any scheme, not a local path."""
    return _URL.match(text) is not None


def shown(url: str) -> str:
    """Return a URL for messages and histories, without the query, in which signed URLs have their secret."""
    return url.partition("#")[0].partition("?")[0]


class Download:
    """The bytes at ``url`` as a stream, read once. More than ``limit`` bytes are an error, and so are fewer than the
    server announced. Redirects are followed, except from https to http. ``etag``: of a copy that the caller has
    already; if the file is still the same, ``is_same`` is true and nothing is sent. ``pages``: a web page is a file
    too. ``login``: user and password in the URL are allowed; they are sent to its server only, and told nowhere.

    Opening it raises UsageError (invalid URL), Unsupported (neither http nor https), NotFound, AccessDenied,
    RemoteFailure, Cancelled.
    """

    def __init__(
        self,
        url: str,
        access: Access,
        *,
        limit: int,
        etag: str = "",
        accept: str = "",
        pages: bool = False,
        login: bool = False,
    ) -> None:
        url, authorization = _without_login(url) if login else (url, "")
        self._what = shown(url)
        parts = _checked(url)
        self._limit = limit
        self._cancel = access.cancel
        base = f"{parts.scheme.lower()}://{parts.netloc}"
        if authorization and parts.scheme.lower() == "http" and not is_loopback(parts.hostname or ""):
            raise UsageError(
                f"{self._what}: a password can't be sent over plain http", hint="use https, or leave the password out"
            )
        self._server = _Server(base, parts.netloc, access, authorization)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # the whole URL: a path that begins with two slashes would be taken for a host
        stated = {"If-None-Match": etag, "Accept": accept}
        asked = {name: value for name, value in stated.items() if value}
        ok = (200, 304) if etag else (200,)
        self._answer = self._server.request("GET", base + target, headers=asked, ok=ok, what=self._what)
        self.is_same = self._answer.status == 304
        try:
            if not pages and essence(self._answer.headers.get("Content-Type", "")) in (
                "text/html",
                "application/xhtml+xml",
            ):
                raise RemoteFailure(
                    f"{self._what}: {self._server.host} sends a web page",
                    hint="check the URL: it must be that of the file itself",
                )
            self._size = 0 if self.is_same else digits(self._answer.headers.get("Content-Length"))
            self._check_limit(self._size or 0)
        except LaminaError:
            self.close()
            raise
        self._at = 0

    def header(self, name: str) -> str:
        """A header of the answer; "" if it has none."""
        return self._answer.headers.get(name, "")

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes. Raises LimitExceeded, RemoteFailure (cut off), Cancelled."""
        pieces: list[bytes] = []
        while size != 0:
            data = self._some(min(size, 1 << 20) if size > 0 else 1 << 20)
            if not data:
                break
            pieces.append(data)
            size = max(-1, size - len(data)) if size > 0 else size
        return b"".join(pieces)

    def _some(self, size: int) -> bytes:
        try:
            with self._cancel.calling(self._answer.abort):
                data = self._answer.read1(size)
        except RequestFailed as error:
            self._cancel.check()
            raise RemoteFailure(
                f"{self._what} broke off at byte {self._at}: {error}", hint="try again: nothing was stored"
            ) from None
        self._cancel.check()
        self._at += len(data)
        self._check_limit(self._at)
        if not data and self._size is not None and self._at != self._size:
            raise RemoteFailure(
                f"{self._what} broke off at byte {self._at} of {self._size}", hint="try again: nothing was stored"
            )
        return data

    def _check_limit(self, size: int) -> None:
        if size > self._limit:
            raise LimitExceeded(
                f"{self._what} is too large: more than {self._limit} bytes", hint="raise the setting max_layer"
            )

    def close(self) -> None:
        self._answer.close()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_login(url: str) -> tuple[str, str]:
    """The URL without user and password, and the Authorization header for them; "" if it has none."""
    scheme = _URL.match(url)
    if scheme is None:
        return url, ""
    start = scheme.end()
    end = min((at for at in (url.find(mark, start) for mark in "/?#") if at >= 0), default=len(url))
    login, at, host = url[start:end].rpartition("@")
    if not at:
        return url, ""
    name, _, password = login.partition(":")
    pair = f"{unquote(name)}:{unquote(password)}".encode()
    return url[:start] + host + url[end:], f"Basic {b64encode(pair).decode()}"


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checks the port
    except ValueError as error:
        raise UsageError(f"{shown(url)!r:.300} is not a valid URL: {error}", hint=_LIKE) from None
    if parts.scheme.lower() not in ("http", "https"):
        raise Unsupported(f"the scheme {parts.scheme}: is not supported", hint="use http or https")
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{shown(url)!r:.300} is not a valid URL", hint=_LIKE)
    if parts.username is not None:
        raise UsageError(
            f"the URL of {parts.hostname} contains a password",
            hint="download the file in another way: everybody can see a password in the process list",
        )
    return parts


class _Server(Client):
    """A web server, with the scheme of the URL. Its login, if any, is that of the URL."""

    def __init__(self, base: str, netloc: str, access: Access, authorization: str) -> None:
        super().__init__(netloc, replace(access, credential=lambda host, path: None, given=None, token=""))
        self._base_url = base
        self._authorization = authorization

    def failure(self, answer: Answer, what: str) -> LaminaError:
        with answer:
            status = answer.status
        if status in (401, 403):
            return AccessDenied(
                f"{what}: {self.host} denies access (status {status})",
                hint="download the file in another way and pipe it in",
            )
        if status in (404, 410):
            return NotFound(f"{what}: not found at {self.host}", hint="check the URL")
        return RemoteFailure(f"{what}: {self.host} answers with status {status}", hint="try again later")

    def _authorizer(self, url: str) -> Authorizer:
        own = url == self._base_url or url.startswith(f"{self._base_url}/")
        return _FixedLogin(self._authorization if own else "")


class _FixedLogin(Authorizer):
    """An authorizer that sends the same header, or none, and answers no challenge."""

    def __init__(self, authorization: str) -> None:
        super().__init__("", lambda: None, _no_exchange, plain=False)
        self._fixed = authorization

    def header(self, scopes: Sequence[str]) -> str:
        return self._fixed

    def answer(self, challenges: Sequence[Challenge], scopes: Sequence[str], rejected: str) -> bool:
        return False


def _no_exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    raise AssertionError("nobody asks for tokens")
