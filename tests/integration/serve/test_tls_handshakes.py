"""Clients that have not ended the handshake of TLS: they count as connections, and do not stay for long."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise

import pytest

from lamina.serve.asgi import running, tls_listener
from lamina.serve.asgi.admission import Admission, Admitted
from lamina.serve.asgi.application import Site
from lamina.serve.asgi.background import in_background
from lamina.serve.asgi.callers import Callers
from lamina.serve.asgi.limits import Limits
from lamina.serve.asgi.tls_listener import TlsListener
from lamina.serve.http_message import Request, Response
from lamina.serve.self_signed import SelfSigned
from lamina.serve.tls import ServerTls, TlsFiles


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    made = SelfSigned(str(tmp_path_factory.mktemp("tls")), ("127.0.0.1",))
    made.renew()
    return made


def answer(request: Request) -> Response:
    return Response(200, {}, b"{}")


def context_of(made: SelfSigned) -> ssl.SSLContext:
    return ServerTls(TlsFiles(made.certificate, made.key)).context


def status_over_tls(connection: socket.socket, ca: str) -> int:
    """The status of an answer; 0 if the server closes the connection before it."""
    context = ssl.create_default_context(cafile=ca)
    with suppress(OSError), context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped:
        with suppress(OSError):  # a refusal comes before the request
            wrapped.sendall(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return int(wrapped.recv(1000).split()[1])
    return 0


@pytest.mark.parametrize(
    ("site", "code"),
    [
        (partial(Site, answer, Limits(grace=2), callers=Callers(2)), 429),
        (partial(Site, answer, Limits(grace=2, connections=2)), 503),
    ],
    ids=["of one address", "in all"],
)
@pytest.mark.parametrize("loop", [running.loop_factory(), asyncio.SelectorEventLoop], ids=["default", "asyncio"])
def test_connections_in_the_handshake_are_counted(
    certificate: SelfSigned,
    monkeypatch: pytest.MonkeyPatch,
    site: Callable[[], Site],
    code: int,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    monkeypatch.setattr(running, "loop_factory", lambda: loop)
    with in_background(site(), tls=context_of(certificate)) as address, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", address.port), timeout=20))

        waiting = [connect(), connect()]
        waiting[0].sendall(b"\x16\x03\x01")
        assert status_over_tls(connect(), certificate.ca) == code
        monkeypatch.setattr(tls_listener, "REFUSED", 0)
        assert connect().recv(1) == b""
        for one in waiting:
            one.close()
        while status_over_tls(connect(), certificate.ca) != 200:
            pass  # the server has not yet seen that they are closed
        for _ in range(3):  # connections that have ended count no more
            assert status_over_tls(connect(), certificate.ca) == 200


def test_who_does_not_finish_the_handshake_is_cut_off(
    certificate: SelfSigned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "HANDSHAKE", 0.1)
    monkeypatch.setattr(tls_listener, "REFUSED", 0)
    site = Site(answer, Limits(grace=2, connections=1))
    with in_background(site, tls=context_of(certificate)) as address:
        where = ("127.0.0.1", address.port)
        with socket.create_connection(where, timeout=20) as one:
            one.sendall(b"\x16\x03\x01")
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        while status_over_tls(socket.create_connection(where, timeout=20), certificate.ca) != 200:
            pass  # it counts for a moment longer


def test_of_many_that_come_at_once_few_are_told_why_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_listener, "REFUSED", 2)

    async def found() -> list[bool]:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            clients = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(10)]
            admission = Admission(1)
            listener = TlsListener(listening, lambda admitted: asyncio.Protocol(), context, admission)
            for client in clients:
                client.setblocking(False)
            for client in clients[3:]:
                assert await asyncio.wait_for(loop.sock_recv(client, 1), 20) == b""
            listener.close()
            await listener.wait_closed()
            return [_is_open(client) for client in clients]

    with asyncio.Runner(loop_factory=running.loop_factory()) as runner:
        assert runner.run(found()) == [True] * 3 + [False] * 7


@pytest.mark.parametrize("loop", [running.loop_factory(), asyncio.SelectorEventLoop], ids=["default", "asyncio"])
def test_other_work_goes_on_while_many_come(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr(tls_listener, "_AT_ONCE", 2)

    async def accepted() -> list[int]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=30))
            for _ in range(20):
                stack.enter_context(socket.create_connection(listening.getsockname()))
            admission, counts = _Counted(100), []
            listener = TlsListener(listening, lambda admitted: asyncio.Protocol(), context, admission)
            while admission.entered < 20:
                await asyncio.sleep(0)
                counts.append(admission.entered)
            listener.close()
            await listener.wait_closed()
            return counts

    with asyncio.Runner(loop_factory=loop) as runner:
        counts = runner.run(asyncio.wait_for(accepted(), 20))
    assert all(after - before <= 3 for before, after in pairwise([0, *counts]))


class _Counted(Admission):
    entered = 0

    def enter(self, address: str) -> Admitted:
        self.entered += 1
        return super().enter(address)


def _is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
