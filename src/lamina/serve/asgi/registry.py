"""The registry as an ASGI endpoint: a request of a client becomes a ``Request`` for a worker thread, and its
``Response`` becomes what the client gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError, TooManyFiles
from lamina.host.files import failure
from lamina.serve.asgi.body import Body, ClientGone, too_large
from lamina.serve.asgi.connection import CORK, GONE
from lamina.serve.asgi.exchange import Exchange
from lamina.serve.asgi.kernel_copy import KERNEL, KernelBody
from lamina.serve.asgi.limits import PIECE, Limits
from lamina.serve.asgi.sending import Send, send_stream
from lamina.serve.asgi.threads import Lane
from lamina.serve.failures import answered, failed, fault
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.origin import FOR_BROWSERS
from lamina.serve.routes import ApiError, Route, parse_target

if TYPE_CHECKING:
    from lamina.serve.asgi.body import Receive
    from lamina.source.protocols import Stream

_DISCARD = 16 << 20  # bytes that a client may still send after it was refused
_DISCARD_SECONDS = 5.0
_LONG = 1 << 20  # a body of more bytes is sent in full packets
_EMPTY = (204, 304)
_ALWAYS = [
    (b"docker-distribution-api-version", b"registry/2.0"),
    *((name.lower().encode(), value.encode()) for name, value in FOR_BROWSERS.items()),
]


class RegistryEndpoint:
    """Answers the requests below ``/v2``."""

    def __init__(
        self, answer: Callable[[Request], Response], limits: Limits, is_elsewhere: Callable[[Route], bool]
    ) -> None:
        """``is_elsewhere``: whether an answer may wait for another registry."""
        self._answer = answer
        self._limits = limits
        self._is_elsewhere = is_elsewhere
        self.reading = Lane("read", limits.reading, limits.waiting)
        self.elsewhere = Lane("elsewhere", limits.elsewhere, limits.waiting)
        self.writing = Lane("write", limits.sending, limits.waiting)

    async def __call__(self, exchange: Exchange, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request. Raises ShortBlob, and what the place raises while a blob is sent: then the connection
        has to be cut."""
        length = _length_of(exchange.headers)
        body = Body(receive, self._limits, length)
        extensions = scope.get("extensions", {})
        gone: Callable[[], bool] = extensions.get(GONE, lambda: False)
        try:
            try:
                response, stream = await self._work(exchange, body, length)
            except ApiError as error:
                response, stream = failed(error), None
            try:
                await self._send(exchange, response, stream, body, send, gone, extensions)
            finally:
                if stream is not None:
                    stream.close()
        except ClientGone:
            exchange.status = 0
        finally:
            exchange.received = body.received
            await body.close()

    async def _work(self, exchange: Exchange, body: Body, length: int | None) -> tuple[Response, Stream | None]:
        route = parse_target(exchange.target)
        exchange.kind, exchange.repository = route.kind, route.name
        if length is not None and length > self._limits.body:
            raise too_large(self._limits.body)
        client = exchange.client
        request = Request(
            exchange.method,
            route,
            exchange.headers,
            body.pieces(),
            length,
            Asker(client.address, exchange.user),
            client.scheme,
        )
        if length == 0:
            lane = self.elsewhere if self._is_elsewhere(route) else self.reading
        else:
            lane = self.writing
            if length is not None and length <= PIECE and "expect" not in exchange.headers:
                await body.arrive()  # a thread does not wait for it
        try:
            return await lane.run(partial(self._answer_and_open, request))
        finally:
            exchange.user = request.asker.name

    def _answer_and_open(self, request: Request) -> tuple[Response, Stream | None]:
        """In a worker thread: answer, and open the blob that will be sent, because what can't be opened needs another
        answer."""
        try:
            response = answered(self._answer, request)
            if response.blob is None or request.method == "HEAD":
                return response, None
            return response, response.blob.open(response.start, response.end)
        except (ClientGone, ApiError):
            raise
        except LaminaError as error:
            return failed(error, request), None
        except Exception as error:  # noqa: BLE001 - a fault of the server, which must not end it
            if isinstance(error, OSError) and isinstance(found := failure(error), TooManyFiles):
                return failed(found, request), None
            return fault(error, request), None

    async def _send(
        self,
        exchange: Exchange,
        response: Response,
        stream: Stream | None,
        body: Body,
        send: Send,
        gone: Callable[[], bool],
        extensions: Mapping[str, Any],
    ) -> None:
        exchange.status = response.status
        size = response.end - response.start if response.blob is not None else len(response.body)
        unread = not body.complete
        head = [
            (name.lower().encode("latin-1"), _plain(value).encode("latin-1", "replace"))
            for name, value in response.headers.items()
        ]
        head += _ALWAYS
        if response.status not in _EMPTY:
            head.append((b"content-length", b"%d" % size))
        if unread:
            head.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        whole = exchange.method == "HEAD" or response.status in _EMPTY
        if stream is None or not size:
            data = b"" if whole else response.body
            exchange.sent = len(data)
            await send({"type": "http.response.body", "body": data, "more_body": unread})
            if unread:
                if body.begun or "expect" not in exchange.headers:
                    await body.discard(_DISCARD, _DISCARD_SECONDS)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if size > _LONG and CORK in extensions:
            extensions[CORK]()
        kernel: KernelBody | None = extensions.get(KERNEL)
        exchange.sent = await send_stream(stream, size, send, self.reading.executor, gone, kernel)

    def close(self) -> None:
        self.reading.close()
        self.elsewhere.close()
        self.writing.close()


def _length_of(headers: Mapping[str, str]) -> int | None:
    """The length of the body; None if it comes in chunks. The HTTP parser has refused what is not a number."""
    if "transfer-encoding" in headers:
        return None
    return int(headers.get("content-length") or 0)


def _plain(value: str) -> str:
    return value.replace("\r", "").replace("\n", "")
