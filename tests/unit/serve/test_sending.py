"""How the bytes of a blob are sent: what comes from a socket is sent without a thread, and a thread goes on where the
socket ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lamina.serve.asgi.sending import ShortBlob, send_stream

DATA = bytes(range(256)) * 8000
PASSABLE = 100_000


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

    def source(self) -> int | None:
        return self._ours.fileno() if 0 < self._at < self._end and not len(self.asked) > 1 else None

    def arrived(self, size: int) -> bytes | None:
        self._ours.setblocking(False)
        try:
            piece = self._ours.recv(min(size, self._end - self._at))
        except BlockingIOError:
            return None
        self._at += len(piece)
        return piece

    def passable(self) -> int:
        return min(PASSABLE, self._end - self._at)

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


def sent(stream: PipedStream, stop_after: int | None = None, *, passed: int | None = None) -> tuple[bytes, int]:
    """What is sent of a stream. ``passed``: how many bytes the kernel passes on at most; None if it can't."""
    found: list[bytes] = []
    last: list[bool] = []

    class Kernel:
        left = passed or 0

        async def copy(self, descriptor: int, at: int, size: int) -> int | None:
            raise AssertionError

        async def pass_on(self, descriptor: int, size: int) -> int | None:
            assert size <= PASSABLE
            if not self.left:
                return 0
            try:
                with socket.socket(fileno=os.dup(descriptor)) as source:
                    source.setblocking(False)
                    found.append(source.recv(min(size, self.left)))
            except BlockingIOError:
                return None
            self.left -= len(found[-1])
            return len(found[-1])

    async def send(message: dict[str, Any]) -> None:
        found.append(bytes(message["body"]))
        last.append(message["more_body"])

    def gone() -> bool:
        return stop_after is not None and sum(map(len, found)) >= stop_after

    async def main() -> int:
        with ThreadPoolExecutor(1) as pool:
            kernel = None if passed is None else Kernel()
            return await send_stream(stream, len(DATA), send, pool, gone, kernel)  # type: ignore[arg-type]

    try:
        count = asyncio.run(main())
    finally:
        stream.close()
    assert last[:-1] == [True] * (len(last) - 1)
    assert last[-1] == (count < len(DATA))
    return b"".join(found), count


@pytest.mark.parametrize("passed", [None, 0, 1_000_000, 1 << 30])
def test_a_socket_is_read_to_its_end_by_the_loop_or_the_kernel(passed: int | None) -> None:
    stream = PipedStream(len(DATA) - 100)
    assert sent(stream, passed=passed) == (DATA, len(DATA))
    assert stream.asked == [0]


@pytest.mark.parametrize("offered", [0, 1, 1_000_000])
@pytest.mark.parametrize("passed", [None, 1 << 30])
def test_a_thread_goes_on_where_a_socket_ends_early(offered: int, passed: int | None) -> None:
    stream = PipedStream(offered)
    assert sent(stream, passed=passed) == (DATA, len(DATA))
    assert stream.asked[:2] == [0, 100 + offered]


def test_a_socket_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.serve.asgi.sending._SILENT", 0.01)
    stream = PipedStream(0, silent=True)
    assert sent(stream) == (DATA, len(DATA))
    assert stream.asked[:2] == [0, 100]


def test_who_waits_for_a_silent_socket_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.serve.asgi.sending._LOOK", 0.01)
    stream = PipedStream(1000, silent=True)
    assert sent(stream, stop_after=1100) == (DATA[:1100], 1100)
    assert stream.asked == [0]


def test_a_blob_that_is_short_is_not_sent_as_whole() -> None:
    with pytest.raises(ShortBlob):
        sent(PipedStream(1000, DATA[:50_000]))


def test_nothing_is_sent_to_a_client_that_is_gone() -> None:
    data, count = sent(PipedStream(len(DATA) - 100), stop_after=300_000)
    assert 300_000 <= count < len(DATA)
    assert data == DATA[:count]


class PartOfFile:
    """A stream over a part of a file."""

    def __init__(self, descriptor: int, at: int, end: int) -> None:
        self._extent = (descriptor, at, end)

    def extent(self) -> tuple[int, int, int]:
        return self._extent

    def read(self, size: int = -1, /) -> bytes:
        raise AssertionError

    def close(self) -> None: ...


@pytest.mark.parametrize("copies", [0, 1, 3])
def test_a_file_that_the_kernel_can_not_copy_on_is_read_from_there(tmp_path: Path, copies: int) -> None:
    (tmp_path / "f").write_bytes(DATA)
    found: list[bytes] = []
    places: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        found.append(bytes(message["body"]))

    class Kernel:
        async def copy(self, descriptor: int, at: int, size: int) -> int | None:
            places.append(at)
            if len(places) > copies:
                return None
            found.append(os.pread(descriptor, min(size, 1000), at))
            return len(found[-1])

        async def pass_on(self, descriptor: int, size: int) -> int | None:
            raise AssertionError

    async def main(descriptor: int) -> int:
        with ThreadPoolExecutor(1) as pool:
            stream = PartOfFile(descriptor, 7, len(DATA) - 5)
            return await send_stream(stream, len(DATA) - 12, send, pool, lambda: False, Kernel())  # type: ignore[arg-type]

    with (tmp_path / "f").open("rb") as file:
        assert asyncio.run(main(file.fileno())) == len(DATA) - 12
    assert b"".join(found) == DATA[7:-5]
    assert places == [7 + 1000 * number for number in range(copies + 1)]
