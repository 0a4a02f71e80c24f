"""urllib3's connections and their pools as lamina needs them: each can be cut off from another thread, sends an
address byte for byte, and goes straight to a host, through an HTTP proxy or through a SOCKS proxy."""

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
"""The proxy resolves names for both, as for Go's clients: in many networks nobody else can."""


class Slot(threading.local):
    """The connection that this thread's request is on."""

    connection: HTTPConnection | None = None
    socket: socket.socket | None = None
    target: str = ""  # path and query as they are to be sent: urllib3 would quote them anew


slot = Slot()


class _Tracked:
    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        slot.connection = self  # type: ignore[assignment]
        if slot.target:  # a proxy is sent the whole address, all others the part behind the host
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
    """Where in an address the host is over (pure)."""
    start = url.find("://") + 3
    return min((at for at in (url.find(mark, start) for mark in "/?#") if at >= 0), default=len(url))


def manager(proxy: str | None, options: dict[str, Any]) -> urllib3.PoolManager:
    """Connections through the proxy at this address, or straight. ``options``: of urllib3's pools. Raises UsageError
    for what is no address, Unsupported for a proxy of a kind that is not known or not installed."""
    if proxy is None:
        made = urllib3.PoolManager(**options)
        made.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
        return made
    try:
        parts = urlsplit(proxy)
        if parts.scheme in _HTTP + _SOCKS:
            _ = parts.port  # read for its check
            if not parts.hostname:
                raise ValueError
            return _by_http(parts, options) if parts.scheme in _HTTP else _by_socks(parts, options)
    except (HTTPError, ValueError):
        # what is set is not told: a password may stand in it
        raise UsageError("the proxy setting is not an address", hint=_HINT) from None
    raise Unsupported(f"a proxy by {parts.scheme}: is not known", hint=_HINT)


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
    """urllib3's own support: PySocks speaks the protocol."""
    try:
        import socks  # noqa: F401  (urllib3 warns in many words where it is missing)
    except ImportError:
        raise Unsupported(
            "the proxy that is set is a SOCKS proxy, for which PySocks is not installed",
            hint="pip install 'lamina[socks]'",
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
        """Say of a connection that was not made that it is the proxy's failure, as for an HTTP proxy."""
        try:
            return super()._new_conn()  # type: ignore[misc]
        except (NewConnectionError, ConnectTimeoutError) as error:
            inner = error.__cause__ or error.__context__
            reason = getattr(inner, "socket_err", None) or inner
            raise ProxyError("no connection", reason if isinstance(reason, Exception) else error) from None


def _place(proxy: SplitResult) -> str:
    return proxy.netloc.rpartition("@")[2]
