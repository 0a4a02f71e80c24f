"""The explorer alone on a loopback address, for `lamina ui`: one thread for each connection, for the user of this
machine only."""

from __future__ import annotations

import logging
import os
import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lamina.errors import LaminaError, UsageError
from lamina.events import start_threads
from lamina.host.files import failure
from lamina.host.peer import UNKNOWN, user_of_peer
from lamina.remote.loopback import is_loopback
from lamina.serve.connections import ConnectionServer
from lamina.serve.explorer.asked import Answer, Asked, Refused
from lamina.serve.explorer.explorer import HEADERS, Explorer
from lamina.serve.http_message import Asker
from lamina.serve.origin import check_local
from lamina.serve.routes import ApiError
from lamina.version import __version__

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Mapping

CHUNK = 256 << 10
IDLE = 75.0  # seconds that a connection may be idle
MAX_CONNECTIONS = 64
_log = logging.getLogger("lamina.serve")


class ExplorerServer:
    """Serves an explorer on a loopback address. A context manager starts and closes it. Raises UsageError (an address
    that others reach), SystemFailure (a taken port)."""

    def __init__(self, explorer: Explorer, *, host: str = "127.0.0.1", port: int = 0) -> None:
        if not is_loopback(host):
            raise UsageError(
                f"{host} is not a loopback address",
                hint="use a loopback address, or `lamina serve` with user accounts",
            )
        self.host = host
        try:
            self._server = _Server((host, port), explorer)
        except OSError as error:
            raise failure(error, f"{host}:{port}") from None
        self.port: int = self._server.server_address[1]
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="lamina-ui", daemon=True
        )
        start_threads([self._thread])

    def close(self) -> None:
        """Stop at once; requests in progress are cut off."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.explorer.close()
        self._server.hang_up()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ConnectionServer):
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], explorer: Explorer) -> None:
        self.explorer = explorer
        self.users = own_users()
        super().__init__(address, _Handler, most=MAX_CONNECTIONS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"lamina/{__version__}"
    sys_version = ""
    timeout = IDLE
    disable_nagle_algorithm = True
    server: _Server
    _is_of_user = False

    def do_GET(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            self.close_connection = True  # nothing here takes a body
        try:
            if not self._is_of_user:  # asked once for each connection
                check_user(self.connection, self.server.users)
                self._is_of_user = True
            check_origin(headers)
            asked = Asked.parse(self.command, self.path, headers, Asker(str(self.client_address[0])))
        except Refused as error:
            answer = error.answer()
            answer.headers.update(HEADERS)
        else:
            answer = self.server.explorer.answer(asked)
        try:
            self._send(answer)
        except (OSError, LaminaError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _send(self, answer: Answer) -> None:
        bodyless = self.command == "HEAD" or answer.status in (204, 304)
        length = answer.length if answer.stream is not None else len(answer.body)
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if answer.stream is None:
            if not bodyless:
                self.wfile.write(answer.body)
            return
        with answer.stream as stream:
            while not bodyless and length > 0:
                data = stream.read(min(CHUNK, length))
                if not data:
                    raise OSError("the file is shorter than stated")
                length -= len(data)
                self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        _log.debug("%s " + format, self.address_string(), *arguments)


def own_users() -> frozenset[int]:
    """The users who may look: the one who runs this, the one who became root for it, and root. Empty: everybody (not
    Linux)."""
    if not hasattr(os, "getuid"):
        return frozenset()
    former = (os.environ.get(name, "") for name in ("SUDO_UID", "PKEXEC_UID"))
    users = {0, os.getuid()}
    if os.getuid() == 0:
        users |= {int(one) for one in former if one.isascii() and one.isdigit()}
    return frozenset(users)


def check_user(connection: socket.socket, users: Collection[int]) -> None:
    """Refuse other users of this machine, who can't read the images otherwise. Raises Refused."""
    try:
        user = user_of_peer(connection)
    except OSError:
        user = UNKNOWN
    if users and user is not None and user not in users:
        raise Refused(403, "denied", "this page is only for the user who has started it", "run `lamina ui` yourself")


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse web pages from elsewhere, and names that resolve to this machine (DNS rebinding). ``headers``: names in
    lower case. Raises Refused."""
    try:
        check_local({key.title(): headers[key] for key in ("host", "origin") if key in headers})
    except ApiError as error:
        raise Refused(403, "denied", str(error)) from None
    if headers.get("sec-fetch-site", "") in ("cross-site", "same-site"):
        raise Refused(403, "denied", "another web page may not look at the images here")
