"""The HTTP server around ``Api``: one thread for each connection, bodies sent by sendfile where available, loopback
addresses only."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lamina.errors import LaminaError, UsageError
from lamina.events import start_threads
from lamina.host.files import failure, has_extent
from lamina.remote.loopback import is_loopback
from lamina.serve.api import Api, check_writable, open_api
from lamina.serve.connections import ConnectionServer
from lamina.serve.failures import answered, failed
from lamina.serve.http_message import Asker, Request, Response
from lamina.serve.origin import FOR_BROWSERS, check_local, check_page
from lamina.serve.routes import ApiError, parse_target
from lamina.source.upload_limits import MOST_OF_CLIENT
from lamina.version import __version__

if TYPE_CHECKING:
    from lamina.serve.mirror.mirror import Mirror
    from lamina.source.protocols import Stream
    from lamina.source.served import Readable

CHUNK = 256 << 10
IDLE = 75.0  # seconds that a connection may be idle
_DRAIN = 16 << 20  # bytes of an unread body that are read to keep the connection
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,12})(?:;.*)?\r?\n")
_log = logging.getLogger("lamina.serve")


class RegistryServer:
    """A registry over ``source`` on a loopback address. ``writable`` needs a place that takes pushes
    (``source.served.Served``). ``uploads_each``: as ``open_api``. ``start`` returns at once; a context manager starts
    and closes.

    Raises UsageError (an address that others reach, a place that can't be written to), SystemFailure (a taken port).
    """

    def __init__(
        self,
        source: Readable,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        writable: bool = False,
        mirror: Mirror | None = None,
        uploads_each: int = MOST_OF_CLIENT,
    ) -> None:
        if not is_loopback(host):
            raise UsageError(
                f"{host} is not a loopback address",
                hint="use a loopback address: this registry has no user accounts, so it serves this machine only",
            )
        if writable:
            check_writable(source)
        self._source, self._writable, self._mirror = source, writable, mirror
        self._uploads_each = uploads_each
        self.host = host
        try:
            self._server = _Server((host, port))
        except OSError as error:
            raise failure(error, f"{host}:{port}") from None
        self.port: int = self._server.server_address[1]
        self._thread: threading.Thread | None = None
        self._open = ExitStack()

    @property
    def api(self) -> Api:
        """What answers; from ``start`` on."""
        return self._server.api

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    @property
    def name(self) -> str:
        """``host:port``, for use in references."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> None:
        self._server.api = self._open.enter_context(
            open_api(self._source, writable=self._writable, mirror=self._mirror, uploads_each=self._uploads_each)
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="lamina-serve", daemon=True
        )
        start_threads([self._thread])

    def close(self) -> None:
        """Stop at once; requests in progress are cut off."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.hang_up()
        self._server.server_close()
        self._open.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ConnectionServer):
    api: Api

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"lamina/{__version__}"
    sys_version = ""
    timeout = IDLE
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        body = _Body(self)
        try:
            route = parse_target(self.path)
            asker = Asker(str(self.client_address[0]))
            request = Request(self.command, route, self.headers, body.pieces(), body.length, asker)  # type: ignore[arg-type]
            body.check()
            check_local(self.headers)  # type: ignore[arg-type]
            check_page(self.command, self.headers)  # type: ignore[arg-type]
            response = answered(self.server.api.answer, request)
        except ApiError as error:
            response = failed(error)
        except _CutOff:
            self.close_connection = True
            return
        if not body.drained():
            self.close_connection = True
        try:
            self._send(response)
        except OSError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _send(self, response: Response) -> None:
        if response.blob is None or self.command == "HEAD":
            self._send_head(response)
            return
        try:
            stream = response.blob.open(response.start, response.end)
        except LaminaError as error:
            self._send_head(failed(error))
            return
        with stream:
            self._send_head(response)
            try:
                self._send_stream(stream)
            except LaminaError as error:  # the client must not take it for whole
                _log.warning("%s", error)
                self.close_connection = True

    def _send_head(self, response: Response) -> None:
        """Send the head, and the body if it is not a blob."""
        length = response.end - response.start if response.blob is not None else len(response.body)
        self.send_response(response.status)
        for key, value in response.headers.items():
            self.send_header(key, value.replace("\r", "").replace("\n", ""))
        for key, value in FOR_BROWSERS.items():
            self.send_header(key, value)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        if response.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers_with(b"" if self.command == "HEAD" or response.status in (204, 304) else response.body)

    def end_headers_with(self, body: bytes) -> None:
        """Send head and body in one packet if they fit."""
        lines: list[bytes] = getattr(self, "_headers_buffer", [])
        self._headers_buffer: list[bytes] = []
        self.wfile.write(b"".join([*lines, b"\r\n", body]))

    def _send_stream(self, stream: Stream) -> None:
        if has_extent(stream) and hasattr(os, "sendfile"):
            descriptor, at, end = stream.extent()
            out = self.connection.fileno()
            while at < end:
                try:
                    sent = os.sendfile(out, descriptor, at, min(end - at, 1 << 30))
                except BlockingIOError:  # the connection has a timeout, so its descriptor does not block
                    self._wait_until_writable()
                    continue
                if not sent:
                    raise OSError("the file is shorter than expected")
                at += sent
            return
        while data := stream.read(CHUNK):
            self.connection.sendall(data)

    def _wait_until_writable(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.connection, select.POLLOUT)
        if not poll.poll(IDLE * 1000):
            raise TimeoutError

    def log_message(self, format: str, *arguments: Any) -> None:
        _log.debug("%s " + format, self.address_string(), *arguments)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses: bad request lines, too many headers."""
        self.close_connection = True
        # with a status line, also if the request had no version: by it docker and others tell that this is no TLS
        self.request_version = self.protocol_version
        error = ApiError(code, "UNSUPPORTED", message or "bad request")
        with suppress(OSError):
            self.command = getattr(self, "command", None) or "GET"
            self._send(Response(code, {"Content-Type": "application/json"}, error.body()))


class _CutOff(Exception):
    """The client has closed the connection."""


class _Body:
    """The body of a request, read at most once: by Content-Length, or in chunks (RFC 9112, section 7.1)."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        headers = handler.headers
        coded = headers.get_all("Transfer-Encoding", [])
        lengths = headers.get_all("Content-Length", [])
        stated = lengths[0] if lengths else ""
        self._chunked = bool(coded)
        self.length = (
            int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 and not self._chunked else None
        )
        # a proxy may see another end of such a body, and another request behind it (RFC 9112, section 6.3)
        self._bad = (
            len(lengths) + len(coded) > 1
            or [one.strip().lower() for one in coded] not in ([], ["chunked"])
            or bool(stated and self.length is None)
        )
        self._left = 0 if self._chunked else self.length or 0
        self._done = not self._chunked and not self._left

    def check(self) -> None:
        if self._bad:
            raise ApiError(400, "SIZE_INVALID", "Content-Length or Transfer-Encoding is invalid")

    def pieces(self) -> Iterator[bytes]:
        if self._chunked:
            yield from self._chunks()
            return
        while self._left > 0:
            data = self._read(min(self._left, CHUNK))
            self._left -= len(data)
            self._done = self._left == 0
            yield data

    def _chunks(self) -> Iterator[bytes]:
        while not self._done:
            line = self._line()
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise ApiError(400, "SIZE_INVALID", "a chunk has no length")
            left = int(found[1], 16)
            if left == 0:
                while self._line() not in (b"\r\n", b"\n"):
                    pass
                self._done = True
                return
            while left > 0:
                data = self._read(min(left, CHUNK))
                left -= len(data)
                yield data
            self._line()

    def drained(self) -> bool:
        """Whether the connection can be reused; a short rest of the body is read for that."""
        if self._done:
            return True
        if self._bad or self._chunked or self._left > _DRAIN:
            return False
        try:
            for _ in self.pieces():
                pass
        except _CutOff:
            return False
        return True

    def _read(self, size: int) -> bytes:
        try:
            data = self._handler.rfile.read1(size)
        except OSError:
            data = b""
        if not data:
            raise _CutOff
        return bytes(data)

    def _line(self) -> bytes:
        try:
            line = self._handler.rfile.readline(4096)
        except OSError:
            line = b""
        if not line:
            raise _CutOff
        return line
