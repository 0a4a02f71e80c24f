"""What tells operators how the server is: /healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lamina.errors import LaminaError
from lamina.serve.asgi.forwarded import Network, is_in
from lamina.serve.asgi.metrics import Metrics, Series, added, render

Checks = Mapping[str, Callable[[], None]]
"""What must work for the server to be of use: by name, a call that raises LaminaError."""
_FRESH = 5.0  # seconds that the result of the checks counts
_PATIENCE = 10.0


class Status:
    """The pages of one server process."""

    def __init__(
        self,
        metrics: Metrics,
        checks: Checks,
        readers: Sequence[Network],
        others: Callable[[], Iterable[Series]] = tuple,
        writing: Callable[[], None] | None = None,
    ) -> None:
        """``readers``: who may read the metrics, besides clients of a Unix socket. ``others``: the series of the
        other processes of this server. ``writing``: a check of a server that clients may write to."""
        self._metrics, self._checks, self._readers, self._others = metrics, checks, readers, others
        self._writing = writing
        self._result: dict[str, str] = {}
        self._no_writing = ""
        self._checked = 0.0
        self._checking = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.healthy),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
        ]

    async def healthy(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """The place can be read. If clients may write and can't, that is said, but it does not count as a failure:
        another server of the place could not either, and images can still be pulled. With ``?writing`` it is one."""
        async with self._checking:
            if time.monotonic() - self._checked > _FRESH or not self._checked:
                self._result = {name: await _result(check) for name, check in self._checks.items()}
                self._no_writing = await _result(self._writing) if self._writing is not None else ""
                self._checked = time.monotonic()
        bad = {name: text for name, text in self._result.items() if text}
        can_read = not bad
        if self._no_writing:
            bad["writing"] = self._no_writing
        if not self._may_read(request):
            bad = dict.fromkeys(bad, "the reason is told to addresses that may read the metrics")
        if not can_read or (bad and "writing" in request.query_params):
            return JSONResponse({"status": "failing", "failing": bad}, 503)
        return JSONResponse({"status": "read-only", "failing": bad} if bad else {"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        if request.scope["lamina"].client.relayed:
            return _denied("metrics are not for clients of a proxy that is not trusted (--trusted-proxy)")
        if not self._may_read(request):
            return _denied("metrics are not for this address")
        series = added([self._metrics.series(), *self._others()])
        return Response(render(series), media_type="text/plain; version=0.0.4")

    def _may_read(self, request: Request) -> bool:
        """Whether a client may see more than whether the server works."""
        address = request.client.host if request.client is not None else ""
        return not request.scope["lamina"].client.relayed and (not address or is_in(address, self._readers))


def _denied(message: str) -> Response:
    return JSONResponse({"errors": [{"code": "DENIED", "message": message}]}, 403)


async def _result(check: Callable[[], None]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.to_thread(check)
    except TimeoutError:
        return "no answer in time"
    except LaminaError as error:
        return error.message
    return ""
