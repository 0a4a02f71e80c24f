"""Reads by a socket of one's own: only the answer that was asked for is taken, by http and by https."""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lamina.objects import direct
from lamina.objects.address import is_direct
from lamina.objects.direct import DirectPieces, DirectReads
from lamina.objects.failures import StorageFailure
from lamina.serve.self_signed import SelfSigned

DATA = random.Random(1).randbytes(3_000_000)
START, END = 1000, len(DATA)
RANGE = f"Content-Range: bytes {START}-{END - 1}/{len(DATA)}"
LENGTH = f"Content-Length: {END - START}"


class Storage:
    """Answers each request with ``head`` and ``body``, by TLS if there is a ``context``."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.head = f"HTTP/1.1 206 Partial Content\r\n{LENGTH}\r\n{RANGE}\r\n\r\n"
        self.body = DATA[START:]
        self.asked: list[bytes] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if context else 'http'}://{host}:{self._listener.getsockname()[1]}/b/k?signature=1"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
                self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(4096)
                self.asked.append(asked)
                connection.sendall(self.head.encode() + self.body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    made = SelfSigned(str(tmp_path_factory.mktemp("tls") / "certificates"), ("127.0.0.1",))
    made.renew()
    return made


@pytest.fixture
def context(certificates: SelfSigned) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


@pytest.fixture(params=["http", "https"])
def storage(request: pytest.FixtureRequest, context: ssl.SSLContext, trusted: None) -> Iterator[Storage]:
    server = Storage(context if request.param == "https" else None)
    yield server
    server.close()


@pytest.fixture
def trusted(certificates: SelfSigned, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    direct.trusting.cache_clear()
    yield
    direct.trusting.cache_clear()


def in_the_loop(pieces: DirectPieces, size: int) -> Iterator[bytes]:
    """As an event loop reads, and a thread where the socket does not go on."""
    yield next(pieces)
    while (source := pieces.source()) is not None:
        piece = pieces.arrived(size)
        if piece is None:
            assert select.select([source], [], [], 60)[0]
        else:
            yield bytes(piece) if piece else next(pieces)


@pytest.mark.parametrize(
    "read",
    [list, lambda pieces: in_the_loop(pieces, 256 << 10), lambda pieces: in_the_loop(pieces, 5000)],
    ids=["thread", "loop", "small pieces"],
)
def test_a_range_is_read(storage: Storage, read: Callable[[DirectPieces], Iterator[bytes]]) -> None:
    pieces = DirectReads("s3://b").read(storage.url, START, END)
    assert pieces is not None
    assert b"".join(read(pieces)) == DATA[START:]
    pieces.close()
    (asked,) = storage.asked
    assert asked.startswith(b"GET /b/k?signature=1 HTTP/1.1\r\n")
    assert f"Range: bytes={START}-{END - 1}\r\n".encode() in asked


@pytest.mark.parametrize("read", [list, lambda pieces: in_the_loop(pieces, 256 << 10)], ids=["thread", "loop"])
def test_an_answer_that_ends_early_is_not_taken_for_whole(
    storage: Storage, read: Callable[[DirectPieces], Iterator[bytes]]
) -> None:
    storage.body = DATA[START:-1]
    pieces = DirectReads("s3://b").read(storage.url, START, END)
    assert pieces is not None
    with pytest.raises(StorageFailure):
        list(read(pieces))


@pytest.mark.parametrize(
    ("head", "usable"),
    [
        (f"HTTP/1.1 200 OK\r\n{LENGTH}\r\n{RANGE}", True),
        (f"HTTP/1.1 206 x\r\nContent-Length: 5\r\n{RANGE}", True),
        (f"HTTP/1.1 206 x\r\n{LENGTH}\r\nContent-Range: bytes 0-{END - START - 1}/{len(DATA)}", True),
        (f"HTTP/1.1 206 x\r\n{LENGTH}", True),
        (f"HTTP/1.1 206 x\r\n{LENGTH}\r\n{RANGE}\r\nTransfer-Encoding: chunked", True),
        (f"HTTP/1.1 206 x\r\n{LENGTH}\r\n{RANGE}\r\nContent-Encoding: gzip", True),
        ("HTTP/1.1 404 Not Found", True),
        ("HTTP/1.1 503 Slow Down", True),
        ("HTTP/1.1 400 Bad Request", False),
        ("HTTP/1.1 403 Forbidden", False),
        ("HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:1/", False),
        ("nonsense", True),
        ("HTTP/1.1 \u00e9 \u00e9", True),
        ("x" * 200_000, True),
        ("", True),
    ],
)
def test_another_answer_is_not_taken(storage: Storage, head: str, usable: bool) -> None:
    storage.head = f"{head}\r\n\r\n"
    reads = DirectReads("s3://b")
    assert reads.read(storage.url, START, END) is None
    assert reads.usable == usable


def test_a_server_is_asked_only_if_its_certificate_is_trusted_and_has_its_name(
    context: ssl.SSLContext, trusted: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = Storage(context, "localhost")
    reads = DirectReads("s3://b")
    assert reads.read(named.url, START, END) is None
    assert not reads.usable
    for name, value in (("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    direct.trusting.cache_clear()
    unknown = Storage(context)
    assert DirectReads("s3://b").read(unknown.url, START, END) is None
    for one in (named, unknown):
        one.close()
        assert not one.asked


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("NO_PROXY", "example.com", True),
        ("HTTPS_PROXY", "http://proxy.example.com", False),
        ("all_proxy", "http://proxy.example.com", False),
        ("AWS_PROXY_URL", "http://proxy.example.com", False),
        ("AWS_SKIP_SIGNATURE", "true", False),
        ("AWS_SSE_CUSTOMER_KEY_BASE64", "a2V5", False),
    ],
)
def test_requests_that_a_signed_url_cannot_express_are_left_to_obstore(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, used: bool
) -> None:
    for one in list(os.environ):
        if one.lower().endswith("_proxy") or one.startswith("AWS_"):
            monkeypatch.delenv(one)
    assert is_direct()
    monkeypatch.setenv(name, value)
    assert is_direct() == used


def test_what_only_a_thread_can_do_is_left_to_it(storage: Storage) -> None:
    pieces = DirectReads("s3://b").read(storage.url, START, END)
    assert pieces is not None
    pieces.close()  # as after a failure in the middle
    assert pieces.arrived(10) == b""
    with pytest.raises(StorageFailure):
        list(pieces)
