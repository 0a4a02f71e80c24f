"""The kernel sends files and what comes from other sockets: whole, at the pace of the client, and without a
descriptor left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lamina.serve.asgi.kernel_copy import KernelCopy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile and splice of Linux")

DATA = os.urandom(1 << 20) * 12  # more than the buffers of two sockets hold
Work = Callable[[KernelCopy, asyncio.Transport], Awaitable[None]]


def served(work: Work, client: Callable[[socket.socket], bytes]) -> bytes:
    """Do some work with the connection of a client. Returns what the client read."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                assert KernelCopy.is_possible(transport)
                self.kernel = KernelCopy(transport, 30)
                self.task = loop.create_task(self.run(transport))

            async def run(self, transport: asyncio.Transport) -> None:
                try:
                    await work(self.kernel, transport)
                except BaseException as error:
                    done.set_exception(error)
                else:
                    done.set_result(None)
                transport.close()

            def connection_lost(self, error: Exception | None) -> None:
                self.kernel.close()

        server = await loop.create_server(Connection, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        def connect() -> bytes:
            with socket.create_connection(address) as one:
                return client(one)

        async with server:
            found = await asyncio.to_thread(connect)
            await done
            await asyncio.sleep(0)  # connection_lost
        return found

    return asyncio.run(main())


def read_all(one: socket.socket) -> bytes:
    found = bytearray()
    while piece := one.recv(1 << 16):
        found += piece
    return bytes(found)


def leave(one: socket.socket) -> bytes:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    return one.recv(1000)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Source:
    """A socket to which a thread writes."""

    def __enter__(self) -> socket.socket:
        server = socket.create_server(("127.0.0.1", 0))
        self._here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
        server.close()

        def write() -> None:
            with there, suppress(OSError):
                there.sendall(DATA)

        self._thread = threading.Thread(target=write)
        self._thread.start()
        self._here.setblocking(False)
        return self._here

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._thread.join()


async def pass_all(kernel: KernelCopy, source: socket.socket) -> list[int]:
    """Pass on what comes until nothing does; how many bytes each time."""
    loop = asyncio.get_running_loop()
    counts = []
    while True:
        count = await kernel.pass_on(source.fileno(), 256 << 10)
        if count is None:
            ready = loop.create_future()
            loop.add_reader(source, lambda ready=ready: ready.done() or ready.set_result(None))
            await ready
            loop.remove_reader(source)
            continue
        if not count:
            return counts
        counts.append(count)


def test_what_comes_from_a_socket_arrives_whole() -> None:
    passed: list[int] = []

    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        with Source() as source:
            passed.extend(await pass_all(kernel, source))

    assert served(work, read_all) == DATA
    assert sum(passed) == len(DATA)


def test_a_file_arrives_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)

    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        with (tmp_path / "f").open("rb") as file:
            at = 0
            while count := await kernel.copy(file.fileno(), at, 256 << 10):
                at += count

    assert served(work, read_all) == DATA


@pytest.mark.parametrize("kind", ["file", "socket"])
def test_a_client_that_goes_away_ends_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "f").write_bytes(DATA)

    async def work(kernel: KernelCopy, transport: asyncio.Transport) -> None:
        with Source() as source, (tmp_path / "f").open("rb") as file:
            if kind == "socket":
                assert sum(await pass_all(kernel, source)) < len(DATA)
            else:
                at = 0
                while count := await kernel.copy(file.fileno(), at, 256 << 10):
                    at += count
                assert at < len(DATA)
            assert transport.is_closing()

    served(work, leave)


def test_what_was_taken_from_a_socket_and_not_sent_gets_into_no_other_response() -> None:
    over = threading.Event()

    async def work(kernel: KernelCopy, transport: asyncio.Transport) -> None:
        with Source() as source:
            passing = asyncio.create_task(pass_all(kernel, source))
            while kernel._waits is None:  # until then the client's buffers take what comes
                await asyncio.sleep(0)
            passing.cancel()
            with suppress(asyncio.CancelledError):
                await passing
            assert transport.is_closing()
            over.set()

    def wait(_: socket.socket) -> bytes:
        over.wait(30)
        return b""

    served(work, wait)


def test_nothing_is_sent_to_whoever_has_the_descriptor_of_a_lost_connection(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)

    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        kernel.close()
        with Source() as source, (tmp_path / "f").open("rb") as file:
            assert await kernel.copy(file.fileno(), 0, 1000) == 0
            assert await kernel.pass_on(source.fileno(), 1000) == 0

    assert served(work, read_all) == b""


@pytest.mark.parametrize("call", ["dup", "pipe2"])
def test_without_a_free_descriptor_it_is_left_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "f").write_bytes(DATA)

    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        with Source() as source, (tmp_path / "f").open("rb") as file, monkeypatch.context() as patch:
            patch.setattr(os, call, refused)
            assert await kernel.pass_on(source.fileno(), 1000) == 0
            assert await kernel.copy(file.fileno(), 0, 1000) == (None if call == "dup" else 1000)

    assert served(work, read_all) == (b"" if call == "dup" else DATA[:1000])


def test_between_two_responses_a_connection_has_no_other_descriptor(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)

    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        with (tmp_path / "f").open("rb") as file:
            before = len(os.listdir("/proc/self/fd"))
            for at in (0, 1000):
                assert await kernel.copy(file.fileno(), at, 1000) == 1000
                kernel.release()
                assert len(os.listdir("/proc/self/fd")) == before

    assert served(work, read_all) == DATA[:2000]


def test_an_error_of_the_disk_is_left_to_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "sendfile", failing)

    async def work(kernel: KernelCopy, transport: asyncio.Transport) -> None:
        assert await kernel.copy(0, 0, 1000) is None
        assert not transport.is_closing()

    assert served(work, read_all) == b""


def test_what_is_not_a_socket_is_left_to_be_read(tmp_path: Path) -> None:
    async def work(kernel: KernelCopy, _: asyncio.Transport) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            assert await kernel.pass_on(descriptor, 1000) == 0
            assert await kernel.copy(descriptor, 0, 1000) is None
        finally:
            os.close(descriptor)

    assert served(work, read_all) == b""
