"""The explorer as pages of the ASGI application: in threads of its own, so that clients that pull and push do not
wait for people who look at images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.routing import Route

from lamina.serve.asgi.connection import GONE
from lamina.serve.asgi.sending import send_stream
from lamina.serve.asgi.threads import Lane
from lamina.serve.explorer.asked import Answer, Asked, Refused
from lamina.serve.explorer.explorer import API, HEADERS, Explorer
from lamina.serve.http_message import Asker, Request
from lamina.serve.permit import EVERYTHING, Permit
from lamina.serve.routes import ApiError
from lamina.serve.routes import Route as ApiRoute

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from lamina.serve.asgi.body import Receive
    from lamina.serve.asgi.exchange import Exchange
    from lamina.serve.asgi.sending import Send

Admit = Callable[[Request], tuple[Permit, str]]
"""What the sender of a request may see, and the user's name. Raises ApiError."""
THREADS = 6
WAITING = 10.0  # seconds that a request waits for a thread


def everybody(request: Request) -> tuple[Permit, str]:
    """Admit everybody to everything."""
    return EVERYTHING, ""


def explorer_routes(explorer: Explorer, admit: Admit = everybody) -> Sequence[Route]:
    """Return the routes of the explorer. They must be used in one event loop."""
    pages = _Pages(explorer, admit)
    return [Route(path, pages) for path in ("/", "/explore", "/explore/{rest:path}", "/favicon.ico")]


class _Pages:
    """An ASGI endpoint over an explorer."""

    def __init__(self, explorer: Explorer, admit: Admit) -> None:
        self._explorer = explorer
        self._admit = admit
        self._lane: Lane | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if self._lane is None:  # it belongs to the event loop
            self._lane = Lane("explore", THREADS, WAITING)
        try:
            answer = await self._lane.run(partial(self._answer, scope))
        except ApiError as error:
            answer = _refused(error, scope["path"])
        try:
            await self._send(answer, scope, send, self._lane)
        finally:
            if answer.stream is not None:
                answer.stream.close()

    def _answer(self, scope: MutableMapping[str, Any]) -> Answer:
        """In a thread. Raises ApiError."""
        exchange: Exchange = scope["lamina"]
        asker = Asker(exchange.client.address, exchange.user)
        query = parse_qs(exchange.target.partition("?")[2], keep_blank_values=True)
        request = Request(
            exchange.method,
            ApiRoute("explore", query=query),
            exchange.headers,
            iter(()),
            0,
            asker,
            exchange.client.scheme,
        )
        permit, exchange.user = self._admit(request)
        asker = Asker(asker.address, exchange.user)
        try:
            asked = Asked.parse(exchange.method, exchange.target, exchange.headers, asker, permit)
        except Refused as error:
            answer = error.answer()
            answer.headers.update(HEADERS)
            return answer
        return self._explorer.answer(asked)

    async def _send(self, answer: Answer, scope: MutableMapping[str, Any], send: Send, lane: Lane) -> None:
        size = len(answer.body) if answer.stream is None else answer.length
        empty = answer.status in (204, 304)
        head = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in answer.headers.items()]
        if not empty:
            head.append((b"content-length", b"%d" % size))
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        if scope["method"] == "HEAD" or empty or answer.stream is None:
            body = b"" if scope["method"] == "HEAD" or empty else answer.body
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        gone: Callable[[], bool] = scope.get("extensions", {}).get(GONE, lambda: False)
        await send_stream(answer.stream, size, send, lane.executor, gone)


def _refused(error: ApiError, path: str) -> Answer:
    """The refusal of a login or of a busy server, in the explorer's form."""
    codes = {401: "unauthorized", 403: "denied", 429: "busy", 503: "busy"}
    headers = {key.replace("-", "_"): value for key, value in error.headers.items()}
    hint = "log in" if error.status == 401 else None
    answer = Refused(error.status, codes.get(error.status, "failed"), str(error), hint, **headers).answer()
    if not path.startswith(API):
        answer.headers["Content-Type"] = "text/plain; charset=utf-8"
        answer.body = f"{error}\n".encode()
    answer.headers.update(HEADERS)
    return answer
