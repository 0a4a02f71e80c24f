"""The ASGI application: the registry below ``/v2``, and other pages on Starlette. Each request is counted and
logged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as WebRequest
from starlette.responses import Response as WebResponse

from lamina.errors import LaminaError
from lamina.serve.asgi.connection import ABORT, USER
from lamina.serve.asgi.exchange import Exchange
from lamina.serve.asgi.forwarded import Client, Network, client_of, host_of, parse_networks
from lamina.serve.asgi.headers import Headers
from lamina.serve.asgi.limits import Limits
from lamina.serve.asgi.metrics import Metrics, Series
from lamina.serve.asgi.registry import RegistryEndpoint
from lamina.serve.asgi.sending import ShortBlob
from lamina.serve.asgi.status import Checks, Status
from lamina.serve.failures import failed
from lamina.serve.origin import check_local, check_page
from lamina.serve.routes import ApiError, Route

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from lamina.serve.asgi.access_log import AccessLog
    from lamina.serve.asgi.body import Receive
    from lamina.serve.asgi.callers import Callers
    from lamina.serve.asgi.sending import Send
    from lamina.serve.http_message import Request, Response

Scope = MutableMapping[str, Any]
_log = logging.getLogger("lamina.serve")
LOOPBACK = parse_networks(["127.0.0.0/8", "::1"])


@dataclass
class Site:
    """What an application is made of.

    ``answer``: the registry. ``routes``: more pages. ``local``: the server has no users and is for this machine only,
    so that web pages are kept out. ``trusted``: proxies whose X-Forwarded headers count. ``others``: the metrics of
    the other processes. ``writing``: raises LaminaError if clients can't write now, though they may. ``callers``:
    limits the connections of each address. ``is_elsewhere``: as in ``RegistryEndpoint``."""

    answer: Callable[[Request], Response]
    limits: Limits = field(default_factory=Limits)
    routes: Sequence[BaseRoute] = ()
    local: bool = False
    trusted: Sequence[Network] = ()
    trust_unix: bool = False
    metrics_readers: Sequence[Network] = LOOPBACK
    metrics: Metrics = field(default_factory=Metrics)
    others: Callable[[], Iterable[Series]] = tuple
    checks: Checks = field(default_factory=dict)
    writing: Callable[[], None] | None = None
    callers: Callers | None = None
    log: AccessLog | None = None
    is_elsewhere: Callable[[Route], bool] = lambda route: False


class Application:
    """An ASGI application over a ``Site``. It is made in the event loop that runs it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._registry = RegistryEndpoint(site.answer, site.limits, site.is_elsewhere)
        status = Status(site.metrics, site.checks, site.metrics_readers, site.others, site.writing)
        self._pages = Starlette(
            routes=[*status.routes(), *site.routes],
            exception_handlers={HTTPException: _as_json, ApiError: _as_json},
        )
        registry = self._registry
        for name, lane in (
            ("read", registry.reading),
            ("mirror", registry.elsewhere),
            ("write", registry.writing),
        ):
            site.metrics.gauges[f'lamina_requests_running{{kind="{name}"}}'] = lane.count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        exchange = self._exchange(scope)
        try:
            await self._answer(exchange, scope, receive, send)
        except asyncio.CancelledError:  # the grace period is over
            exchange.status = 0
            _cut(scope)
        except Exception as error:  # a place failed in mid-blob, or a fault of the server: nothing else can be told
            of_place = isinstance(error, (LaminaError, ShortBlob))
            text = f": {error}" if of_place else ""
            _log.error(
                "the response to %s %r was cut off%s",
                exchange.method,
                exchange.target[:200],
                text,
                exc_info=not of_place,
            )
            if not _cut(scope):
                raise
        finally:
            seconds = time.perf_counter() - started
            self._site.metrics.note(
                exchange.kind, exchange.method, exchange.status, seconds, exchange.received, exchange.sent
            )
            if self._site.log is not None:
                self._site.log.note(exchange, seconds)

    def _exchange(self, scope: Scope) -> Exchange:
        headers = Headers(scope["headers"])
        peer = scope.get("client")
        direct = Client(peer[0] if peer else "", scope.get("scheme", "http"), host_of(headers.get("host", "")))
        client = client_of(direct, headers, self._site.trusted, self._site.trust_unix)
        query = scope.get("query_string", b"")
        target = scope.get("raw_path") or scope["path"].encode()
        if client.host and client.host != direct.host:
            headers.replace("host", client.host)
        return Exchange(
            scope["method"],
            (target + b"?" + query if query else target).decode("latin-1"),
            client,
            headers,
            user=scope.get("extensions", {}).get(USER, ""),
        )

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._site.local:
                if exchange.client.relayed:
                    raise ApiError(403, "DENIED", _RELAYED)
                if scope.get("client"):  # no web page reaches a Unix socket
                    check_local(exchange.headers)
            check_page(exchange.method, exchange.headers)
        except ApiError as error:
            response = failed(error)
            exchange.status = response.status
            await WebResponse(response.body, response.status, response.headers)(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith("/v2/") or path in ("/v2", "/token"):
            await self._registry(exchange, scope, receive, send)
            return
        client = exchange.client
        port = scope["client"][1] if scope.get("client") else 0
        peer = (client.address, port) if client.address else None
        scope = {**scope, "client": peer, "scheme": client.scheme, "lamina": exchange}
        exchange.kind = "explore" if path == "/" or path.startswith("/explore") else path.strip("/")
        if exchange.kind not in _KINDS:
            exchange.kind = "other"

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            else:
                exchange.sent += len(message.get("body", b""))
            await send(message)

        await self._pages(scope, receive, noted)

    def close(self) -> None:
        """Let no more work begin."""
        self._registry.close()


def _cut(scope: Scope) -> bool:
    """Cut the connection of a request, if the server can."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
    return abort is not None


_RELAYED = "this registry is for this machine only, not for clients of a proxy that is not trusted (--trusted-proxy)"
_KINDS = frozenset({"explore", "token", "healthz", "readyz", "metrics"})


async def _as_json(request: WebRequest, error: Exception) -> WebResponse:
    if isinstance(error, HTTPException):
        headers = {key.replace("-", "_"): value for key, value in (error.headers or {}).items()}
        text = "no such path" if error.status_code == 404 else str(error.detail)
        error = ApiError(error.status_code, "UNSUPPORTED", text, **headers)
    assert isinstance(error, ApiError)
    response = failed(error)
    return WebResponse(response.body, response.status, response.headers)
