"""Sends a range of a blob as the body of a response: a file by the kernel where that is possible, else from the page
cache in the event loop, everything else from a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lamina.host.files import has_extent
from lamina.serve.asgi.limits import PIECE
from lamina.source.abilities import gives_pieces, is_growing, is_piped

if TYPE_CHECKING:
    from lamina.serve.asgi.kernel_copy import KernelBody
    from lamina.source.protocols import Stream
    from lamina.source.served import Growing, Piped

Send = Callable[[Any], Awaitable[None]]
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_LOOK = 1.0
"""Seconds between two looks whether a client is still there, while its bytes are waited for."""


_SILENT = 60.0
"""Seconds for which a socket may say nothing."""


class ShortBlob(Exception):
    """The blob ended before its size: the connection must be cut, so that the client does not take it for whole."""

    def __str__(self) -> str:
        return "the blob has ended too early"


async def send_stream(
    stream: Stream,
    size: int,
    send: Send,
    threads: Executor,
    gone: Callable[[], bool],
    kernel: KernelBody | None = None,
) -> int:
    """Send ``size`` bytes of a stream, and complete the response. Returns how many were sent: fewer if ``gone`` says
    that the client is. ``kernel``: sends without reading, if the connection can. Raises ShortBlob, and what the
    stream raises."""
    if has_extent(stream):
        descriptor, at, end = stream.extent()
        sent = 0 if kernel is None else await _copy_file(descriptor, at, end, kernel, threads, gone)
        if sent == end - at and sent:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if sent == end - at or gone():
            return sent
        return sent + await _send_file(descriptor, at + sent, end, send, threads, gone)
    if is_growing(stream):
        return await _send_growing(stream, size, send, threads, gone)
    return await _send_read(stream, size, send, threads, gone, kernel)


async def _copy_file(
    descriptor: int, at: int, end: int, kernel: KernelBody, threads: Executor, gone: Callable[[], bool]
) -> int:
    """Returns how many bytes were sent: fewer if the client is gone, or this file has to be read."""
    loop = asyncio.get_running_loop()
    start = at
    while at < end:
        size = min(PIECE, end - at)
        if not _is_cached(descriptor, size, at):  # only a thread may wait for the disk
            await loop.run_in_executor(threads, os.pread, descriptor, size, at)
        count = await kernel.copy(descriptor, at, size)
        if gone() or count is None:
            break
        if not count:
            raise ShortBlob
        at += count
        await asyncio.sleep(0)  # others come first now
    return at - start


def _is_cached(descriptor: int, size: int, at: int) -> bool:
    """Whether the page cache has the first and the last byte of a piece; False where that can't be told."""
    return all(_cached(descriptor, 1, place) for place in (at, at + size - 1))


async def _send_file(
    descriptor: int, at: int, end: int, send: Send, threads: Executor, gone: Callable[[], bool]
) -> int:
    loop = asyncio.get_running_loop()
    start = at
    while at < end:
        size = min(PIECE, end - at)
        piece = _cached(descriptor, size, at)
        if piece is None:  # only a thread may wait for the disk
            piece = await loop.run_in_executor(threads, os.pread, descriptor, size, at)
        if not piece:
            raise ShortBlob
        at += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": at < end})
        await asyncio.sleep(0)  # others come first now
        if gone():
            break
    return at - start


def _cached(descriptor: int, size: int, at: int) -> bytes | memoryview | None:
    """Read what the page cache has, without waiting; None if it does not have the first byte, or can't tell."""
    if not _NOWAIT:
        return None
    buffer = bytearray(size)
    try:
        count = os.preadv(descriptor, [buffer], at, _NOWAIT)
    except OSError:  # EAGAIN: not cached; EOPNOTSUPP: the file system can't tell. A real error is met again
        return None
    return memoryview(buffer)[:count] if count else None


async def _send_read(
    stream: Stream, size: int, send: Send, threads: Executor, gone: Callable[[], bool], kernel: KernelBody | None
) -> int:
    """Read the next piece in a thread while this one is sent. No thread is needed while the bytes come from a
    socket."""
    loop = asyncio.get_running_loop()
    sent = 0
    coming: asyncio.Future[bytes] | None = None

    def read(left: int) -> bytes:
        return stream.piece() if gives_pieces(stream) else stream.read(min(PIECE, left))

    try:
        while sent < size:
            if coming is None:
                coming = loop.run_in_executor(threads, read, size - sent)
            piece, coming = await coming, None
            if not piece:
                raise ShortBlob
            sent += len(piece)
            piped = is_piped(stream) and stream.source() is not None
            if sent < size and not piped:
                coming = loop.run_in_executor(threads, read, size - sent)
            await send({"type": "http.response.body", "body": piece, "more_body": sent < size})
            if gone():
                break
            if is_piped(stream) and coming is None and sent < size:
                sent += await _send_arriving(stream, size - sent, send, gone, kernel)
                if sent == size:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                if gone():
                    break
    finally:
        if coming is not None and not coming.done():  # the stream may not be closed while a thread reads it
            await asyncio.wait([coming])
    return sent


async def _send_arriving(
    stream: Piped, size: int, send: Send, gone: Callable[[], bool], kernel: KernelBody | None
) -> int:
    """Send what comes from the socket of a stream, by the kernel if it can. Returns how much: less if the socket has
    ended, or nothing comes for a while."""
    sent = 0
    while sent < size and (descriptor := stream.source()) is not None:
        most = min(PIECE, size - sent)
        count: int | None
        if kernel is not None and (passable := stream.passable()):
            count = await kernel.pass_on(descriptor, min(most, passable))
            stream.taken(count or 0)
            if count == 0 and not gone():
                kernel = None
                continue
        else:
            piece = stream.arrived(most)
            count = None if piece is None else len(piece)
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if count is None:
            if not await _readable(descriptor, gone):
                break
            continue
        sent += count
        await asyncio.sleep(0)  # others come first now
        if not count or gone():
            break
    return sent


async def _readable(descriptor: int, gone: Callable[[], bool]) -> bool:
    """Wait until a socket can be read. False if this takes too long, or the client is gone."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()
    timer: asyncio.TimerHandle

    def tell(readable: bool) -> None:
        if not ready.done():
            ready.set_result(readable)

    def look(left: float) -> None:
        nonlocal timer
        if left <= 0 or gone():
            tell(False)
        else:
            timer = loop.call_later(min(_LOOK, left), look, left - _LOOK)

    loop.add_reader(descriptor, tell, True)
    timer = loop.call_later(min(_LOOK, _SILENT), look, _SILENT - _LOOK)
    try:
        return await ready
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)


async def _send_growing(stream: Growing, size: int, send: Send, threads: Executor, gone: Callable[[], bool]) -> int:
    """Send what comes in elsewhere. No thread waits for it: many clients may wait for one stalled source."""
    loop = asyncio.get_running_loop()
    sent = 0
    while sent < size:
        ready = asyncio.Event()

        def tell(ready: asyncio.Event = ready) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ready.set)

        stream.when_ready(tell)
        while not ready.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), _LOOK)
            if gone():
                return sent
        coming = loop.run_in_executor(threads, stream.read, min(PIECE, size - sent))
        try:
            piece = await coming
        finally:
            if not coming.done():  # the stream may not be closed while a thread reads it
                await asyncio.wait([coming])
        if not piece:
            raise ShortBlob
        sent += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": sent < size})
        if gone():
            break
    return sent
