"""The body of a request on its way from the event loop to the worker thread that reads it: pieces are joined, and the
client waits while the thread is busy."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from lamina.serve.asgi.limits import Limits
from lamina.serve.routes import ApiError

JOINED = 192 << 10
"""Smaller pieces are joined to this size; larger ones (uvloop reads 250 KB at a time) are passed on as they are."""
AHEAD = 1
"""Pieces that wait for the thread at most."""

Receive = Callable[[], Awaitable[Any]]


class ClientGone(Exception):
    """The client has closed the connection, or the server stops: there is nobody to answer."""


class Body:
    """The body of one request. ``pieces`` is read by one worker thread; all else is called in the event loop.

    Nothing is received before the thread asks for the first piece, so that a client that waits for ``100 Continue``
    sends nothing that is refused."""

    def __init__(self, receive: Receive, limits: Limits, length: int | None) -> None:
        self._receive = receive
        self._limits = limits
        self._length = length
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._ready: deque[bytes] = deque()
        self._end: BaseException | None = None  # how the body ends: _Complete, or what the thread shall raise
        self._room = asyncio.Event()
        self._ahead = AHEAD
        self._pump: asyncio.Task[None] | None = None
        self.received = 0
        """Bytes that came in."""
        self.begun = length == 0
        """Whether the client was told to send."""

    @property
    def complete(self) -> bool:
        """Whether all of it was received."""
        return self._length == 0 or self._end is _COMPLETE

    def pieces(self) -> Iterator[bytes]:
        """The body, in pieces of ``JOINED`` bytes or more, the last one apart. Raises ClientGone, ApiError."""
        if self._length == 0:
            return
        self._loop.call_soon_threadsafe(self._begin)
        while True:
            with self._changed:
                while not self._ready and self._end is None:
                    self._changed.wait()
                if not self._ready:
                    if self._end is _COMPLETE:
                        return
                    assert self._end is not None
                    raise self._end
                piece = self._ready.popleft()
            self._loop.call_soon_threadsafe(self._room.set)
            yield piece

    def _begin(self) -> None:
        if self._pump is None and self._end is None:
            self.begun = True
            self._pump = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._move()
        except (ClientGone, ApiError) as error:
            self._finish(error)
        except BaseException:
            self._finish(ClientGone())
            raise
        else:
            self._finish(_COMPLETE)

    async def _move(self) -> None:
        parts: list[bytes] = []
        size = 0
        for_client = _Patience(self._loop, self._limits)
        try:
            while True:
                message = await for_client.received(self._receive())
                if message["type"] == "http.disconnect":
                    if parts:
                        self._hand_over(parts)  # bytes so far are kept
                    raise ClientGone
                data = message.get("body", b"")
                self.received += len(data)
                if self.received > self._limits.body:
                    raise too_large(self._limits.body)
                if data:
                    parts.append(data)
                    size += len(data)
                more = message.get("more_body", False)
                if parts and (size >= JOINED or not more):
                    self._hand_over(parts)
                    parts, size = [], 0
                if not more:
                    return
                if len(self._ready) >= self._ahead:
                    for_client.stop()
                    while len(self._ready) >= self._ahead:
                        self._room.clear()
                        await self._room.wait()
        except _TooSlow:
            if parts:
                self._hand_over(parts)
            raise ApiError(
                408, "BLOB_UPLOAD_INVALID", "the body came too slowly; the upload can be resumed"
            ) from None
        finally:
            for_client.stop()

    def _hand_over(self, parts: list[bytes]) -> None:
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        with self._changed:
            self._ready.append(piece)
            self._changed.notify()

    def _finish(self, end: BaseException) -> None:
        with self._changed:
            if self._end is None:
                self._end = end
            self._changed.notify()

    async def arrive(self) -> None:
        """Wait until a short body is here, so that no thread waits for it. Its failure is raised to the thread."""
        self._ahead = sys.maxsize  # nobody takes pieces yet
        self._begin()
        if self._pump is not None:
            await asyncio.wait([self._pump])

    async def discard(self, most: int, seconds: float) -> None:
        """Receive and drop what the client still sends, so that it can read the answer before the connection is
        closed."""
        await self.close()
        left = most
        try:
            async with asyncio.timeout(seconds):
                while left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return

    async def close(self) -> None:
        """Stop receiving; a thread that still reads gets ClientGone."""
        self._finish(ClientGone())
        pump, self._pump = self._pump, None
        if pump is not None and not pump.done():
            pump.cancel()
            await asyncio.wait([pump])


class _TooSlow(Exception):
    pass


class _Patience:
    """Measures whether a client sends ``progress`` bytes in each ``patience`` seconds in which it was waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop, self._limits = loop, limits
        self._began: float | None = None
        self._size = 0

    async def received(self, awaitable: Awaitable[Any]) -> Any:
        now = self._loop.time()
        if self._began is None or self._size >= self._limits.progress:
            self._began, self._size = now, 0
        try:
            async with asyncio.timeout_at(self._began + self._limits.patience):
                message = await awaitable
        except TimeoutError:
            raise _TooSlow from None
        self._size += len(message.get("body", b""))
        return message

    def stop(self) -> None:
        """The client is not waited for now."""
        self._began, self._size = None, 0


_COMPLETE = EOFError("complete")


def too_large(most: int) -> ApiError:
    return ApiError(413, "SIZE_INVALID", f"a body has at most {most} bytes")
