"""urllib3's connections and pools with four changes: a connection can be cut off from another thread, sends a URL
unchanged, goes directly, through an HTTP proxy or through a SOCKS proxy, and if it has to lead elsewhere, never goes
to an address that only this machine reaches."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ProxyError
from urllib3.util.connection import allowed_gai_family

from lamina.errors import Unsupported, UsageError
from lamina.remote.loopback import is_of_this_machine

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_HTTP = ("http", "https")
_SOCKS = ("socks5", "socks5h")
"""For both schemes the proxy resolves host names, as with Go's clients: in many networks only the proxy can."""


class Slot(threading.local):
    """The connection of this thread's current request."""

    connection: HTTPConnection | None = None
    socket: socket.socket | None = None
    target: str = ""  # path and query to send unchanged: urllib3 would quote them again
    near: bool = False  # the connection goes to an address of this machine


slot = Slot()


class OfThisMachine(HTTPError):
    """A host that has to be elsewhere has only addresses of this machine."""


class _Tracked:
    near = False

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]
        with suppress(OSError):
            self.near = is_of_this_machine(str(made.getpeername()[0]))
        return made

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        slot.connection = self  # type: ignore[assignment]
        if slot.target:  # a proxy gets the whole URL, other hosts the part after the host
            url = slot.target if url.startswith("/") else url[: host_end(url)] + slot.target
        super().request(method, url, *arguments, **options)  # type: ignore[misc]
        slot.socket = self.sock  # type: ignore[attr-defined]
        slot.near = self.near


class _Plain(_Tracked, HTTPConnection):
    pass


class _Secure(_Tracked, HTTPSConnection):
    pass


class _Elsewhere(_Tracked):
    """Resolves the name itself, and connects to the addresses that it has checked: a second look at the name may find
    others."""

    _dns_host: str
    port: int

    def _new_conn(self) -> Any:
        name = self._dns_host
        try:
            found = socket.getaddrinfo(name.strip("[]"), self.port, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(name, self, error) from error  # type: ignore[arg-type]
        failed: HTTPError = OfThisMachine(name)
        for address in dict.fromkeys(str(one[4][0]) for one in found):
            if is_of_this_machine(address):
                continue
            self._dns_host = address
            try:
                return super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failed = error
            finally:
                self._dns_host = name
        raise failed


class _PlainElsewhere(_Elsewhere, HTTPConnection):
    pass


class _SecureElsewhere(_Elsewhere, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _PlainElsewherePool(HTTPConnectionPool):
    ConnectionCls = _PlainElsewhere


class _SecureElsewherePool(HTTPSConnectionPool):
    ConnectionCls = _SecureElsewhere


def host_end(url: str) -> int:
    """Return the position in a URL where the host ends (pure)."""
    start = url.find("://") + 3
    return min((at for at in (url.find(mark, start) for mark in "/?#") if at >= 0), default=len(url))


def manager(proxy: str | None, options: dict[str, Any], *, elsewhere: bool = False) -> urllib3.PoolManager:
    """Return a connection manager for the proxy at this URL, or without one. ``options`` are those of urllib3's
    pools. ``elsewhere``: connect to no address that only this machine reaches (a proxy resolves names itself). Raises
    UsageError for an invalid URL, Unsupported for a kind of proxy that is unknown or not installed."""
    if proxy is None:
        made = urllib3.PoolManager(**options)
        plain, secure = (_PlainElsewherePool, _SecureElsewherePool) if elsewhere else (_PlainPool, _SecurePool)
        made.pool_classes_by_scheme = {"http": plain, "https": secure}
        return made
    try:
        parts = urlsplit(proxy)
        if parts.scheme in _HTTP + _SOCKS:
            _ = parts.port  # checks the port
            if not parts.hostname:
                raise ValueError
            return _by_http(parts, options) if parts.scheme in _HTTP else _by_socks(parts, options)
    except (HTTPError, ValueError):
        # don't show the setting: it may contain a password
        raise UsageError("the proxy setting is not a valid URL", hint=_HINT) from None
    raise Unsupported(f"the proxy scheme {parts.scheme}: is not supported", hint=_HINT)


_HINT = "set HTTPS_PROXY to http://HOST:PORT or socks5://HOST:PORT"


def _by_http(proxy: SplitResult, options: dict[str, Any]) -> urllib3.PoolManager:
    headers = None
    if proxy.username is not None:
        from base64 import b64encode

        texts = (os.fsencode(text or "") for text in (proxy.username, proxy.password))
        secret = b64encode(b":".join(map(unquote_to_bytes, texts))).decode("ascii")
        headers = {"proxy-authorization": f"Basic {secret}"}
    made = urllib3.ProxyManager(f"{proxy.scheme}://{_place(proxy)}", proxy_headers=headers, **options)
    made.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return made


def _by_socks(proxy: SplitResult, options: dict[str, Any]) -> urllib3.PoolManager:
    """Use urllib3's SOCKS support, for which PySocks speaks the protocol."""
    try:
        import socks  # noqa: F401  (urllib3 prints a long warning if it is missing)
    except ImportError:
        raise Unsupported(
            "a SOCKS proxy is set, but PySocks is not installed",
            hint="run `pip install 'lamina[socks]'`",
        ) from None
    from urllib3.contrib.socks import (
        SOCKSConnection,
        SOCKSHTTPConnectionPool,
        SOCKSHTTPSConnection,
        SOCKSHTTPSConnectionPool,
        SOCKSProxyManager,
    )

    class Plain(_ThroughSocks, SOCKSConnection):
        pass

    class Secure(_ThroughSocks, SOCKSHTTPSConnection):
        pass

    class PlainPool(SOCKSHTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(SOCKSHTTPSConnectionPool):
        ConnectionCls = Secure

    name, password = (None if text is None else unquote(text) for text in (proxy.username, proxy.password))
    made = SOCKSProxyManager(f"socks5h://{_place(proxy)}", name, password, **options)
    made.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return made


class _ThroughSocks(_Tracked):
    def _new_conn(self) -> Any:
        """Report a failed connection as the proxy's failure, as for an HTTP proxy."""
        try:
            return super()._new_conn()
        except (NewConnectionError, ConnectTimeoutError) as error:
            inner = error.__cause__ or error.__context__
            reason = getattr(inner, "socket_err", None) or inner
            raise ProxyError("no connection", reason if isinstance(reason, Exception) else error) from None


def _place(proxy: SplitResult) -> str:
    return proxy.netloc.rpartition("@")[2]
