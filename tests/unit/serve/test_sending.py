"""How the bytes of a blob are sent: what comes from a socket is sent without a thread, and a thread goes on where the
socket ends."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from lamina.serve.asgi.sending import ShortBlob, send_stream

DATA = bytes(range(256)) * 8000


class PipedStream:
    """A stream with a piece that is there at once, then a socket with ``offered`` bytes, then whatever ``read``
    finds."""

    def __init__(self, offered: int, whole: bytes = DATA, *, silent: bool = False) -> None:
        self._ours, theirs = socket.socketpair()
        self._over = threading.Event()
        self._whole = whole
        self._at = 0
        self._end = len(DATA)
        self.asked: list[int] = []

        def write() -> None:
            with theirs, suppress(OSError):
                theirs.sendall(DATA[100 : 100 + offered])
                if silent:
                    self._over.wait(60)

        self._thread = threading.Thread(target=write)
        self._thread.start()

    def source(self) -> tuple[socket.socket, int] | None:
        return (self._ours, self._end - self._at) if self._at and not len(self.asked) > 1 else None

    def taken(self, size: int) -> None:
        self._at += size

    def read(self, size: int = -1, /) -> bytes:
        self.asked.append(self._at)
        piece = self._whole[self._at : min(self._at + (size if self._at else 100), self._end)]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        self._ours.close()
        self._over.set()
        self._thread.join()


def sent(stream: PipedStream, stop_after: int | None = None) -> tuple[bytes, int]:
    found: list[bytes] = []
    last: list[bool] = []

    async def send(message: dict[str, Any]) -> None:
        found.append(bytes(message["body"]))
        last.append(message["more_body"])

    def gone() -> bool:
        return stop_after is not None and sum(map(len, found)) >= stop_after

    async def main() -> int:
        with ThreadPoolExecutor(1) as pool:
            return await send_stream(stream, len(DATA), send, pool, gone)  # type: ignore[arg-type]

    try:
        count = asyncio.run(main())
    finally:
        stream.close()
    assert last[:-1] == [True] * (len(last) - 1)
    assert last[-1] == (count < len(DATA))
    return b"".join(found), count


def test_a_socket_is_read_to_its_end_by_the_loop() -> None:
    stream = PipedStream(len(DATA) - 100)
    assert sent(stream) == (DATA, len(DATA))
    assert stream.asked == [0]


@pytest.mark.parametrize("offered", [0, 1, 1_000_000])
def test_a_thread_goes_on_where_a_socket_ends_early(offered: int) -> None:
    stream = PipedStream(offered)
    assert sent(stream) == (DATA, len(DATA))
    assert stream.asked[:2] == [0, 100 + offered]


def test_a_socket_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.serve.asgi.sending._SILENT", 0.01)
    stream = PipedStream(0, silent=True)
    assert sent(stream) == (DATA, len(DATA))
    assert stream.asked[:2] == [0, 100]


def test_a_blob_that_is_short_is_not_sent_as_whole() -> None:
    with pytest.raises(ShortBlob):
        sent(PipedStream(1000, DATA[:50_000]))


def test_nothing_is_sent_to_a_client_that_is_gone() -> None:
    data, count = sent(PipedStream(len(DATA) - 100), stop_after=300_000)
    assert 300_000 <= count < len(DATA)
    assert data == DATA[:count]
