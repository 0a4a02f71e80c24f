"""One connection: uvicorn's HTTP protocol with limits of its own. Slow and endless heads, too many connections and
clients that do not read are ended; what can't be parsed is answered with the registry's JSON."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lamina.serve.asgi.kernel_copy import KERNEL, KernelCopy
from lamina.serve.routes import ApiError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from lamina.serve.asgi.admission import Admission, Admitted
    from lamina.serve.asgi.limits import Limits

GONE = "lamina.gone"
"""The extension of the scope that tells whether the client has closed the connection: a callable that returns a
bool."""
ABORT = "lamina.abort"
"""The extension of the scope that cuts the connection at once: a callable."""

CORK = "lamina.cork"
"""The extension of the scope that says that the response is long: a callable. Until its end only full packets go, so
that the client is woken less often; that is half of what sending costs over a loopback address."""

USER = "lamina.user"
"""The extension of the scope that names the client by its certificate, if it has shown one: a str."""


_DIRECT = 64 << 10  # a body of which more than this is missing is taken around the parser


class Connection(HttpToolsProtocol):
    """A connection of a client. uvicorn makes one for each."""

    def __init__(
        self, *, limits: Limits, admission: Admission, admitted: Admitted | None = None, **parts: Any
    ) -> None:
        """``admitted``: the connection is counted already."""
        super().__init__(**parts)
        self._limits = limits
        self._admission = admission
        self._admitted = admitted
        self._running: RequestResponseCycle | None = None
        self._refusal: ApiError | None = None
        self._user = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = False
        self._body_left = 0  # bytes of a body with a known length
        self._direct = False
        self._kernel_copy: KernelCopy | None = None
        self._corked = self._lost = False
        self._head_size = 0  # bytes of the current head, as far as it is known
        self._pieces_size = 0  # bytes that came since the current head began

    # what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._user = common_name(transport.get_extra_info("peercert"))
        if KernelCopy.is_possible(transport):
            self._kernel_copy = KernelCopy(self.transport, self._limits.patience)
        self._await_head()
        if self._admitted is None:
            self._admitted = self._admission.enter(self.client[0] if self.client else "")
        self._admitted.taken = True
        if self._admitted.refusal is not None:
            self._refusal = self._admitted.refusal
            self.send_400_response("")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._pieces_size += len(data)
        if self._direct or self._body_left > _DIRECT:
            self._take_body(data)
        else:
            super().data_received(data)
        if self._in_head and self._pieces_size > self._limits.head:
            self._refusal = _head_too_large()
            self.send_400_response("")
        elif not self._busy and self._deadline is None:
            self._await_head()

    def _take_body(self, data: bytes) -> None:
        """Take bytes of a long body around the parser, which would copy them: all that are missing, because the
        parser does not know of them."""
        self._direct = True
        whole = len(data) <= self._body_left
        part = data if whole else data[: self._body_left]
        self._body_left -= len(part)
        self._append(part)
        if self._body_left:
            return
        self._direct = False
        self.parser = httptools.HttpRequestParser(self)  # the old one still waits for the body
        self.on_message_complete()
        if not whole:
            super().data_received(data[len(part) :])

    def _append(self, data: bytes) -> None:
        """Give bytes of the body to the request: the first ones as they are, without a copy."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        kept: bytes | bytearray = cycle.body
        if not kept:
            cycle.body = data  # type: ignore[assignment]
        elif isinstance(kept, bytearray):
            kept += data
        else:
            cycle.body = bytearray(kept) + data
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may close its half after a whole request, and still wait for the answers."""
        waits = self._busy and self._running is not None and not self._running.more_body
        if not waits or self.scheme != "http":  # TLS can't be closed by half
            return False
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None:
            last.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._admitted is not None:
            self._admission.leave(self._admitted)
            self._admitted = None
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        cycles = [cycle for cycle, _ in self.pipeline]
        for cycle in [self._running, *cycles] if self._running is not None else cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        self._lost = True
        if self._kernel_copy is not None:
            self._kernel_copy.close()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffers are full: the client has to read. It gets ``patience`` for one piece and what is buffered."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._limits.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None and not self.transport.is_closing():
            self._stalled.cancel()
            self._stalled = None

    # what the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_size = self._pieces_size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        if len(self.headers) >= self._limits.headers:
            self._refusal = _head_too_large()
            raise ValueError(name)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        if self.parser.should_upgrade():  # to a protocol that is not spoken here: the parser takes no other request
            self.cycle.keep_alive = False
        length = b"0"
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                length = b"0"
                break
        self._body_left = int(length)

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        self._append(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._body_left = 0
        self._in_head = True  # empty lines may follow without end
        self._head_size = self._pieces_size = 0

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head:
            self._refusal = _head_too_large()
            raise ValueError("head")  # the parser stops, and uvicorn calls send_400_response

    # requests

    @property
    def _busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._rest()
        extensions: dict[str, Any] = {
            GONE: lambda: cycle.disconnected or self.transport.is_closing(),
            ABORT: self.transport.abort,
            CORK: partial(self._cork, True),
            USER: self._user,
        }
        if self._kernel_copy is not None:
            extensions[KERNEL] = _Body(self, cycle, self._kernel_copy)
        cycle.scope["extensions"] = extensions
        super()._start_asgi_task(cycle, app)

    async def flush(self) -> None:
        """Wait until what was written is with the kernel, or the client is gone."""
        transport = self.transport
        if transport.get_write_buffer_size():
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
        if transport.get_write_buffer_size() and not transport.is_closing():
            transport.set_write_buffer_limits(high=0)
            try:
                await self.flow.drain()
            finally:
                transport.set_write_buffer_limits()

    def _cork(self, on: bool) -> None:
        if self._lost:  # the descriptor may belong to another connection by now
            return
        self._corked = on
        with suppress(AttributeError, OSError):  # not on Linux; a Unix socket has no packets; the client is gone
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def on_response_complete(self) -> None:
        if self._corked:
            self._cork(False)
        if self._kernel_copy is not None:
            self._kernel_copy.release()
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_soon()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not a request, and close."""
        error = self._refusal or ApiError(400, "UNSUPPORTED", "this is not an HTTP request")
        running = self._running if self._busy else None
        if running is not None and (running.response_started or not running.more_body):
            # the request before it is being answered: that goes on, and the connection ends with it
            running.keep_alive = False
            self.flow.pause_reading()
            self.pipeline.clear()
            if running.more_body:  # its own body is broken
                running.disconnected = True
                running.message_event.set()
                self.transport.abort()
            return
        if running is not None:
            running.disconnected = True
            running.message_event.set()
        body = error.body()
        lines = [STATUS_LINE[error.status]]
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([*lines, b"Connection: close\r\n\r\n", body]))
        self.transport.close()
        self._close_soon()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._close_soon()

    # time

    def _await_head(self) -> None:
        self._rest()
        self._deadline = self.loop.call_later(self._limits.head_time, self._too_slow)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._busy or self.transport.is_closing():
            return
        if self._pieces_size or self._head_size:
            self._refusal = ApiError(408, "UNSUPPORTED", "the request took too long")
            self.send_400_response("")
        else:
            self.transport.close()
            self._close_soon()

    def _close_soon(self) -> None:
        """A transport closes once its buffer is written; a client that does not read may not prevent that."""
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._limits.patience, self.transport.abort)


class _Body:
    """A ``KernelBody``: the body of the response to one request."""

    def __init__(self, connection: Connection, cycle: RequestResponseCycle, kernel: KernelCopy) -> None:
        self._connection, self._cycle, self._kernel = connection, cycle, kernel

    async def copy(self, descriptor: int, at: int, size: int) -> int | None:
        return self._sent(await self._kernel.copy(descriptor, at, size)) if await self._begin(size) else 0

    async def pass_on(self, descriptor: int, size: int) -> int | None:
        return self._sent(await self._kernel.pass_on(descriptor, size)) if await self._begin(size) else 0

    async def _begin(self, size: int) -> bool:
        """Returns False if the client is gone: then it may not even have got a head."""
        await self._connection.flush()
        if self._cycle.disconnected:
            return False
        if size > self._cycle.expected_content_length:
            raise ValueError("more than Content-Length")
        return True

    def _sent(self, count: int | None) -> int | None:
        self._cycle.expected_content_length -= count or 0
        return count


def _head_too_large() -> ApiError:
    return ApiError(431, "UNSUPPORTED", "the head of the request is too large")


def common_name(certificate: Any) -> str:
    """Return the common name in a verified certificate, as the module ssl gives it; "" if there is none."""
    for parts in (certificate or {}).get("subject", ()):
        for key, value in parts:
            if key == "commonName":
                return str(value)
    return ""
