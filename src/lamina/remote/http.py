"""HTTP requests that can be cancelled: urllib3 without redirects, retries or decoding, which are done in
``client``."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from http.client import HTTPException
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import urllib3

from lamina.errors import LimitExceeded, RemoteFailure, SystemFailure
from lamina.events import Cancel, start_threads
from lamina.host.files import reported
from lamina.remote import connection
from lamina.remote.connection import Slot, host_end, slot
from lamina.remote.encoding import decoder_for, encoding_of
from lamina.remote.loopback import is_of_this_machine
from lamina.remote.proxy import proxy_for
from lamina.version import __version__

CONNECT_TIMEOUT, READ_TIMEOUT = 15.0, 60.0  # seconds; when reading, between two pieces
DOCUMENT_TIME = 120.0  # seconds that a whole document may take
AGENT = f"lamina/{__version__}"
_Manager = tuple[urllib3.PoolManager, bool]
"""Connections to a host, and whether they are direct, not by a proxy."""
_DRAIN_TIME = 1.0  # seconds that reading the rest of a body may take
_DRAIN = 64 << 10  # bytes of an unread body that are read to keep the connection


def decoded(data: bytes, encoding: str, limit: int, what: str) -> bytes:
    """Decode a body with a Content-Encoding. Raises LimitExceeded above ``limit`` bytes, Unsupported,
    RequestFailed."""
    from lamina.errors import InvalidLayer

    pieces, size = [], 0
    try:
        decoder = decoder_for(encoding, what)
        for piece in decoder.feed(data):
            size += len(piece)
            if size > limit:
                raise LimitExceeded(
                    f"{what}: the answer has more than {limit} bytes", hint="report it to the registry's operator"
                )
            pieces.append(piece)
        decoder.finish()
    except InvalidLayer as error:
        raise RequestFailed(f"{what}: {error.message}") from None
    return b"".join(pieces)


def digits(text: str | None) -> int | None:
    """Parse a number in a header, or return None. Only ASCII digits count (``isdigit`` accepts superscripts, ``int``
    does not)."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


MOVED = frozenset({301, 302, 303, 307, 308})
"""Statuses of redirects."""


class RequestFailed(Exception):
    """A request got no answer, or the answer was cut off. ``fatal``: a retry does not help. ``tls``: TLS failed.
    ``untrusted``: TLS works, but the certificate is not trusted. ``refused``: connection refused."""

    def __init__(
        self,
        message: str,
        *,
        fatal: bool = False,
        tls: bool = False,
        untrusted: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.fatal = fatal
        self.refused = refused
        self.tls = tls
        self.untrusted = untrusted


class Answer:
    """A response whose body was not read yet. ``headers`` are case-insensitive."""

    def __init__(
        self,
        raw: urllib3.BaseHTTPResponse,
        connected: socket.socket | None,
        url: str,
        method: str = "GET",
        *,
        near: bool = False,
    ) -> None:
        """``near``: it came from this machine itself, and not by a proxy."""
        self._method = method
        self.near = near
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.url = url
        self._raw = raw
        self._socket = connected

    def all(self, name: str) -> list[str]:
        """Return every value of a header that may occur several times."""
        values: list[str] = self._raw.headers.getlist(name)
        return values

    def read1(self, size: int) -> bytes:
        """Read some bytes as they come; b"" at the end. Raises RequestFailed."""
        with _failures_of(self.url):
            return self._raw.read1(size)

    @property
    def encoding(self) -> str:
        """The Content-Encoding, which was not requested; "" if there is none."""
        return encoding_of(self.headers.get("Content-Encoding", ""))

    def read_all(self, limit: int, what: str) -> bytes:
        """Read the whole body of a document and decode its Content-Encoding. Raises LimitExceeded above ``limit``
        bytes, Unsupported (encoding), RequestFailed (also if it comes so slowly that it would never end)."""
        raw = self._read_all(limit, what)
        return decoded(raw, self.encoding, limit, f"{what} from {_host(self.url)}") if self.encoding else raw

    def _read_all(self, limit: int, what: str) -> bytes:
        deadline = time.monotonic() + DOCUMENT_TIME
        stated = digits(self.headers.get("Content-Length"))
        pieces: list[bytes] = []
        size = 0
        while size <= limit and (stated is None or stated <= limit):
            data = self.read1(min(limit + 1 - size, 1 << 20))
            if not data:
                self.release()
                return b"".join(pieces)
            pieces.append(data)
            size += len(data)
            if time.monotonic() > deadline:
                self.close()
                raise RequestFailed(f"{_host(self.url)} sends too slowly")
        self.close()
        raise LimitExceeded(
            f"{what}: the answer has more than {limit} bytes", hint="check that the host is a registry"
        )

    def release(self) -> None:
        """Return the connection to the pool, after reading a short rest of the body."""
        stated = digits(self.headers.get("Content-Length"))
        timer = threading.Timer(_DRAIN_TIME, self.abort)  # a slow server would hold us forever
        timer.daemon = True
        try:
            left = _DRAIN
            has_body = stated != 0 and self._method != "HEAD" and self.status not in (204, 304)
            if has_body and not start_threads([timer], least=0):
                self.close()
                return
            while left > 0 and (data := self._raw.read1(left)):
                left -= len(data)
            if left > 0:
                self._raw.release_conn()
                return
        except (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError):
            pass
        finally:
            timer.cancel()
        self.close()

    def close(self) -> None:
        with suppress(urllib3.exceptions.HTTPError, OSError, ValueError):
            self._raw.close()

    def abort(self) -> None:
        """Wake up a reader in any thread."""
        _shut(self._socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """Connections to any host, kept alive. ``verify`` False: certificates are not checked. ``cert_dirs`` contain
    directories named after hosts, with CAs (*.crt) and client certificates (*.cert with *.key)."""

    def __init__(self, *, verify: bool = True, cert_dirs: Iterable[str] = (), cert_dir: str | None = None) -> None:
        self._verify = verify
        self._cert_dirs = tuple(cert_dirs)
        self._cert_dir = cert_dir
        self._managers: dict[tuple[str, str, bool], _Manager] = {}
        self._guard = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
        *,
        cancel: Cancel | None = None,
        timeout: float = READ_TIMEOUT,
        elsewhere: bool = False,
    ) -> Answer:
        """Send one request; the body of the answer is not read yet. ``elsewhere``: fail if the host is what only this
        machine reaches, by its name or by the address that the connection would go to. Raises RequestFailed,
        Cancelled, SystemFailure."""
        if elsewhere and is_of_this_machine(urlsplit(url).hostname or ""):  # also where a proxy would be asked
            raise _of_this_machine(url)
        manager, direct = self._manager(url, elsewhere)
        mine = _Exchange()
        with cancel.calling(mine.abort) if cancel is not None else nullcontext(), _failures_of(url):
            slot.connection, slot.target, slot.near = None, target_of(url), False
            mine.slot_of(slot)
            try:
                raw = manager.request(
                    method,
                    url,
                    body=body,
                    headers={"User-Agent": AGENT, "Accept-Encoding": "identity", **headers},
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout),
                )
            except Exception:
                if cancel is not None:
                    cancel.check()  # after a cancel, report that instead of the error it caused
                raise
            finally:
                connected, slot.connection, slot.socket, slot.target = slot.socket, None, None, ""
        answer = Answer(raw, connected, url, method, near=direct and slot.near)
        if cancel is not None and cancel.is_set:
            answer.close()
            cancel.check()
        return answer

    def close(self) -> None:
        for manager, _ in self._managers.values():
            manager.clear()

    def _manager(self, url: str, elsewhere: bool) -> _Manager:
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc, elsewhere)  # a connection that may be near is not used again for others
        with self._guard:
            manager = self._managers.get(key)
            if manager is None:
                manager = self._managers[key] = self._made(
                    parts.scheme, parts.netloc, parts.hostname or "", elsewhere
                )
        return manager

    def _made(self, scheme: str, netloc: str, host: str, elsewhere: bool) -> _Manager:
        options: dict[str, Any] = {"maxsize": 32, "num_pools": 4}
        if scheme == "https":
            options["ssl_context"] = self._context(netloc)
            if not self._verify:
                options["assert_hostname"] = False
                # the user asked for it: a warning for each connection would not help
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        proxy = proxy_for(scheme, host, urlsplit(f"//{netloc}").port)
        return connection.manager(proxy, options, elsewhere=elsewhere), proxy is None

    def _context(self, netloc: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        directories = [self._cert_dir] if self._cert_dir else [os.path.join(d, netloc) for d in self._cert_dirs]
        for directory in directories:
            if not os.path.isdir(directory):
                continue
            _load_certificates(context, directory)
            break
        return context


class _Exchange:
    """What a cancel needs to know of a request in another thread."""

    def __init__(self) -> None:
        self._slot: dict[str, Any] = {}

    def slot_of(self, slot: Slot) -> None:
        self._slot = slot.__dict__  # each thread has its own dict of a thread-local

    def abort(self) -> None:
        _shut(getattr(self._slot.get("connection"), "sock", None))


def _load_certificates(context: ssl.SSLContext, directory: str) -> None:
    with reported(directory):
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    key = path.removesuffix(".cert") + ".key"
                    if not os.path.exists(key):
                        raise SystemFailure(
                            f"{path} has no key: {key} was not found", hint="add the key: a client needs both"
                        )
                    context.load_cert_chain(path, key)
            except ssl.SSLError as error:
                raise SystemFailure(
                    f"{path} is not a certificate that can be used: {error.reason or error}",
                    hint="use PEM files: NAME.crt for a CA, NAME.cert with NAME.key for a client",
                ) from None


def _shut(connected: Any) -> None:
    if connected is not None:
        with suppress(OSError, ValueError, AttributeError):
            connected.shutdown(socket.SHUT_RDWR)


class _failures_of:  # noqa: N801  (a context manager by use, not by kind)
    """Turns errors of urllib3 and the system into RequestFailed, with the reason in words."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)):
            return
        if isinstance(error, UnicodeError):
            raise RemoteFailure(f"{_host(self._url)} is not a host name", hint="check the reference") from None
        raise _in_words(error, self._url) from error


def target_of(url: str) -> str:
    """Return path and query of a URL unchanged: signatures cover the exact bytes."""
    rest = url[host_end(url) :].partition("#")[0]
    return rest if rest.startswith("/") else f"/{rest}"


def absolute(base: str, target: str) -> str:
    """Resolve ``target`` relative to ``base``; an absolute URL is returned unchanged."""
    whole = target[:8].lower().startswith(("http://", "https://"))
    return target if whole else urljoin(base, target)


def joined(base: str, target: str) -> str:
    """Resolve a URL that a registry gave. Raises RequestFailed if it is invalid."""
    try:
        url = absolute(base, target)
        parts = urlsplit(url)
        _ = parts.port  # checks the port
    except ValueError:
        parts = None
    # HTTP clients end the host at a backslash, but urlsplit, which judges it, does not
    if parts is None or not url.isascii() or not url.isprintable() or " " in url or "\\" in parts.netloc:
        raise RequestFailed(f"{_host(base)} gives an invalid URL: {target[:200]!r}", fatal=True)
    return url


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _in_words(error: BaseException, url: str) -> RequestFailed:
    host = _host(url)
    exceptions = urllib3.exceptions
    if isinstance(error, connection.OfThisMachine):
        return _of_this_machine(url)
    if isinstance(error, exceptions.ProxyError):
        return RequestFailed(f"{host}: the proxy fails: {_reason(error)}")
    if isinstance(error, exceptions.NameResolutionError):
        return RequestFailed(f"{host}: host not found", fatal=True)
    if isinstance(error, (exceptions.SSLError, ssl.SSLError)):
        text = _reason(error)
        untrusted = isinstance(_innermost(error), ssl.SSLCertVerificationError)
        if untrusted:
            text = f"its certificate is not trusted: {text}"
        return RequestFailed(f"{host}: {text}", fatal=True, tls=True, untrusted=untrusted)
    if isinstance(error, exceptions.NewConnectionError):
        nobody_listens = isinstance(_innermost(error), ConnectionRefusedError)
        return RequestFailed(
            f"{host} can't be reached: {_reason(error)}", fatal=nobody_listens, refused=nobody_listens
        )
    if isinstance(error, exceptions.ConnectTimeoutError):
        return RequestFailed(f"{host} can't be reached: no answer within {CONNECT_TIMEOUT:.0f} s")
    if isinstance(error, exceptions.ReadTimeoutError):
        return RequestFailed(f"{host} stopped sending data")
    if isinstance(error, exceptions.IncompleteRead):
        return RequestFailed(f"{host} cut the connection off")
    return RequestFailed(f"{host}: the connection broke: {_reason(error)}")


def _of_this_machine(url: str) -> RequestFailed:
    return RequestFailed(
        f"{_host(url)[:200]} is an address of this machine, where a registry elsewhere may not lead", fatal=True
    )


def _innermost(error: BaseException) -> BaseException:
    """Return the innermost of wrapped errors."""
    seen: BaseException = error
    for _ in range(8):
        inner = getattr(seen, "reason", None) or getattr(seen, "original_error", None) or seen.__cause__
        if not isinstance(inner, BaseException):
            inner = next((one for one in seen.args if isinstance(one, BaseException)), None)
        if inner is None:
            break
        seen = inner
    return seen


def _reason(error: BaseException) -> str:
    """Return the message of the innermost of wrapped errors."""
    seen = _innermost(error)
    if isinstance(seen, OSError) and seen.strerror:
        return str(seen.strerror)
    return str(seen)[:200] or type(seen).__name__
