"""urllib3's connections and pools with three changes: a connection can be cut off from another thread, sends a URL
unchanged, and goes directly, through an HTTP proxy or through a SOCKS proxy."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError

from lamina.errors import Unsupported, UsageError

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


slot = Slot()


class _Tracked:
    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        slot.connection = self  # type: ignore[assignment]
        if slot.target:  # a proxy gets the whole URL, other hosts the part after the host
            url = slot.target if url.startswith("/") else url[: host_end(url)] + slot.target
        super().request(method, url, *arguments, **options)  # type: ignore[misc]
        slot.socket = self.sock  # type: ignore[attr-defined]


class _Plain(_Tracked, HTTPConnection):
    pass


class _Secure(_Tracked, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def host_end(url: str) -> int:
    """Return the position in a URL where the host ends (pure)."""
    start = url.find("://") + 3
    return min((at for at in (url.find(mark, start) for mark in "/?#") if at >= 0), default=len(url))


def manager(proxy: str | None, options: dict[str, Any]) -> urllib3.PoolManager:
    """Return a connection manager for the proxy at this URL, or without one. ``options`` are those of urllib3's
    pools. Raises UsageError for an invalid URL, Unsupported for a kind of proxy that is unknown or not installed."""
    if proxy is None:
        made = urllib3.PoolManager(**options)
        made.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
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
            return super()._new_conn()  # type: ignore[misc]
        except (NewConnectionError, ConnectTimeoutError) as error:
            inner = error.__cause__ or error.__context__
            reason = getattr(inner, "socket_err", None) or inner
            raise ProxyError("no connection", reason if isinstance(reason, Exception) else error) from None


def _place(proxy: SplitResult) -> str:
    return proxy.netloc.rpartition("@")[2]
