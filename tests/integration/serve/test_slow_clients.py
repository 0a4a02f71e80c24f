"""Clients that are slow, stop, or do not read: they are ended, and hold nothing for ever."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.serve.api import open_api
from lamina.serve.asgi.application import Site
from lamina.serve.asgi.background import in_background
from lamina.serve.asgi.limits import Limits
from lamina.serve.http_message import Request, Response
from lamina.store.store import Store

HURRIED = Limits(head_time=0.4, keep_alive=1, patience=0.5, progress=1000, sending=1, waiting=10, grace=2)
CONTENT = random.Random(6).randbytes(3 << 20)


@contextmanager
def serving(directory: Path, limits: Limits = HURRIED) -> Iterator[int]:
    with open_api(Store.open(str(directory / "store")), writable=True) as api:
        with in_background(Site(api.answer, limits, local=True)) as address:
            yield address.port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def read_all(one: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    try:
        while piece := one.recv(1 << 20):
            parts.append(piece)
    except ConnectionError:
        pass
    return b"".join(parts)


def ask(port: int, text: str, body: bytes = b"") -> bytes:
    with connect(port) as one:
        one.sendall(text.encode() + body)
        one.shutdown(socket.SHUT_WR)
        return read_all(one)


def begin(port: int) -> str:
    head = ask(port, "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").decode()
    return next(line.split(": ")[1] for line in head.splitlines() if line.lower().startswith("location"))


def received(state: str) -> int:
    """How much an upload has, from the answer to a GET of it."""
    line = next(line for line in state.splitlines() if line.lower().startswith("range"))
    return int(line.rpartition("-")[2]) + 1


def test_a_connection_without_a_request_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path) as port, connect(port) as one:
        assert read_all(one) == b""


def test_a_head_that_comes_byte_by_byte_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as port, connect(port) as one:
        stop = threading.Event()

        def drip() -> None:
            try:
                for letter in "GET /v2/ HTTP/1.1\r\n" + "X: y\r\n" * 1000:
                    one.sendall(letter.encode())
                    if stop.wait(0.05):
                        return
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        found = read_all(one)
        stop.set()
        thread.join()
        assert found.startswith(b"HTTP/1.1 408 ")
        assert json.loads(found.partition(b"\r\n\r\n")[2])["errors"][0]["code"] == "UNSUPPORTED"


def test_an_idle_connection_is_closed_after_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as port, connect(port) as one:
        one.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_all(one).endswith(b"{}")


@pytest.mark.parametrize("drip", [True, False])
def test_a_body_that_comes_too_slowly_is_refused_and_what_came_is_kept(tmp_path: Path, drip: bool) -> None:
    with serving(tmp_path) as port:
        location = begin(port)
        with connect(port) as one:
            one.sendall(f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode())
            one.sendall(b"x" * 2000)
            stop = threading.Event()

            def send() -> None:
                try:
                    while drip and not stop.wait(0.05):
                        one.sendall(b"y")
                except OSError:
                    pass

            thread = threading.Thread(target=send)
            thread.start()
            found = read_all(one)
            stop.set()
            thread.join()
            assert found.startswith(b"HTTP/1.1 408 ")
            assert b"BLOB_UPLOAD_INVALID" in found
        state = ask(port, f"GET {location} HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
        kept = received(state)
        assert kept >= 2000


def test_one_slow_client_does_not_hold_the_only_thread_from_a_small_body(tmp_path: Path) -> None:
    """A short body is received before a thread is taken: the only one stays free meanwhile."""
    limits = Limits(sending=1, patience=60, waiting=5, grace=2)
    digest = "sha256:" + hashlib.sha256(b"quick").hexdigest()
    with serving(tmp_path, limits) as port, connect(port) as slow:
        target = f"/v2/app/blobs/uploads/?digest={digest}"
        slow.sendall(f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx".encode())
        found = ask(port, f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", b"quick")
        assert found.startswith(b"HTTP/1.1 201 ")


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    digest = "sha256:" + hashlib.sha256(CONTENT * 8).hexdigest()
    with serving(tmp_path, Limits(patience=0.5, grace=2)) as port:
        target = f"/v2/app/blobs/uploads/?digest={digest}"
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CONTENT) * 8}\r\n\r\n"
        assert ask(port, head, CONTENT * 8).startswith(b"HTTP/1.1 201 ")
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(20)
            one.connect(("127.0.0.1", port))
            one.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            deadline = time.monotonic() + 20
            while b'running{kind="read"} 0' not in (
                text := ask(port, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ):
                assert time.monotonic() < deadline, text
            time.sleep(1.5)  # longer than its patience: there is no event that a client without reading could see
            found = read_all(one)
        assert len(found) < len(CONTENT) * 8


def test_a_client_that_goes_away_keeps_what_it_sent_and_frees_the_thread(tmp_path: Path) -> None:
    with serving(tmp_path, Limits(sending=1, waiting=10, grace=2)) as port:
        location = begin(port)
        with connect(port) as one:
            one.sendall(f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n".encode())
            one.sendall(CONTENT)
        digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
        deadline = time.monotonic() + 20
        done = b""
        while not done.startswith(b"HTTP/1.1 201 "):  # the server may still write what came before the end
            assert time.monotonic() < deadline, done
            kept = received(ask(port, f"GET {location} HTTP/1.1\r\nHost: localhost\r\n\r\n").decode())
            rest = CONTENT[kept:]
            done = ask(
                port,
                f"PUT {location}?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(rest)}\r\n"
                + (f"Content-Range: {kept}-{len(CONTENT) - 1}\r\n\r\n" if rest else "\r\n"),
                rest,
            )
            assert done.split()[1] in (b"201", b"409", b"416"), done
        assert kept > 1 << 20


def test_a_client_that_goes_away_while_a_blob_is_sent_ends_the_sending(tmp_path: Path) -> None:
    pieces = 0

    class Stream:
        def read(self, size: int = -1, /) -> bytes:
            nonlocal pieces
            pieces += 1
            time.sleep(0.001)
            return bytes(min(size, 100_000))

        def close(self) -> None:
            closed.set()

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    class Endless:
        descriptor = None
        origin = ""

        def open(self, start: int = 0, end: int | None = None) -> Stream:
            return Stream()

    closed = threading.Event()

    def answer(asked: Request) -> Response:
        return Response(200, {}, blob=Endless(), start=0, end=1 << 40)  # type: ignore[arg-type]

    with in_background(Site(answer, Limits(grace=2))) as address:
        with connect(address.port) as one:
            one.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            one.recv(1000)
        assert closed.wait(10)
        assert pieces < 5000


def test_a_client_that_breaks_off_is_no_failure_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their logs would hide what really fails."""
    digest = f"sha256:{hashlib.sha256(CONTENT * 4).hexdigest()}"
    with serving(tmp_path, Limits()) as port:
        put = f"POST /v2/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\n"
        assert b" 201 " in ask(port, f"{put}Content-Length: {4 * len(CONTENT)}\r\n\r\n", CONTENT * 4)
        for _ in range(10):
            with connect(port) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                one.recv(100_000)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
