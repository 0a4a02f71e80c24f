"""Sends the bytes of files and of other connections over a plain connection without reading them: the kernel moves
them from the page cache (sendfile), or from socket to socket (splice)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from contextlib import suppress
from typing import Protocol

KERNEL = "lamina.kernel"
"""The extension of the scope that has the kernel send the next bytes of the body: a ``KernelBody``. It is missing
where the connection can't, as with TLS."""

_PIPE = 256 << 10  # bytes; the kernel may allow less


class KernelBody(Protocol):
    """What sends the next bytes of a body, without reading them."""

    async def copy(self, descriptor: int, at: int, size: int) -> int | None:
        """Send up to ``size`` bytes of a file from the offset ``at``, once the client takes bytes. Returns how many;
        0 if the file has ended there or the client is gone; None if this file can't be sent so."""

    async def pass_on(self, descriptor: int, size: int) -> int | None:
        """Send up to ``size`` bytes that have arrived at a socket. Returns how many, once the client has taken them;
        0 if the socket can't be read so, has ended or the client is gone; None if nothing has arrived."""


class KernelCopy:
    """What the kernel sends to one connection. ``patience``: seconds for which the client may take nothing; then the
    connection is cut."""

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._transport = transport
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._socket = -1
        self._pipe: tuple[int, int] | None = None
        self._passing = self._lost = False
        self._waits: asyncio.Future[None] | None = None

    @staticmethod
    def is_possible(transport: asyncio.BaseTransport) -> bool:
        """Whether the kernel can send files over this connection."""
        plain = transport.get_extra_info("sslcontext") is None and transport.get_extra_info("ssl_object") is None
        return plain and sys.platform == "linux" and transport.get_extra_info("socket") is not None

    async def copy(self, descriptor: int, at: int, size: int) -> int | None:
        """As ``KernelBody`` says. Nothing that was written to the transport may be left in its buffer."""
        try:
            if not self._prepared():
                return 0
        except OSError:  # no descriptor is free
            return None
        while not self._transport.is_closing():
            try:
                return os.sendfile(self._socket, descriptor, at, size)
            except BlockingIOError:
                await self._writable()
            except ConnectionError:
                self._transport.abort()
            except OSError:  # not for this file, or the disk's error: who reads meets it again
                return None
        return 0

    async def pass_on(self, descriptor: int, size: int) -> int | None:
        """As ``KernelBody`` says. Nothing that was written to the transport may be left in its buffer."""
        try:
            if not self._prepared():
                return 0
            here, there = self._pipe = self._pipe or _pipe()
        except OSError:  # no descriptor is free
            return 0
        try:
            count = os.splice(descriptor, there, size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError:  # the caller reads, and meets the error again
            return 0
        left, self._passing = count, True
        try:
            while left and not self._transport.is_closing():
                try:
                    left -= os.splice(here, self._socket, left, flags=os.SPLICE_F_NONBLOCK)
                except BlockingIOError:
                    await self._writable()
                except OSError:
                    self._transport.abort()
        finally:
            self._passing = False
            if left:  # these bytes may get into no other answer
                self._transport.abort()
                self._close_pipe()
        return count - left

    def _prepared(self) -> bool:
        """Have a descriptor of the connection. False if it is lost: its number may belong to another one by now."""
        if self._socket < 0 and not self._lost:
            # the event loop watches the transport's own descriptor, and refuses to watch it twice
            self._socket = os.dup(self._transport.get_extra_info("socket").fileno())
        return not self._lost

    async def _writable(self) -> None:
        """Wait until the client has taken bytes, or is gone."""
        self._waits = self._loop.create_future()
        timer = self._loop.call_later(self._patience, self._transport.abort)
        self._loop.add_writer(self._socket, self._wake)
        try:
            await self._waits
        finally:
            timer.cancel()
            if self._socket >= 0:
                self._loop.remove_writer(self._socket)
            self._waits = None

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    def close(self) -> None:
        """The connection is lost: nobody waits any more."""
        self._lost = True
        self._wake()
        self.release()

    def release(self) -> None:
        """Give the descriptors back until the next response: a connection that rests has none but its own."""
        if self._socket >= 0:
            with suppress(OSError, ValueError):
                self._loop.remove_writer(self._socket)
            os.close(self._socket)
            self._socket = -1
        if not self._passing:  # otherwise pass_on, which is woken, closes it
            self._close_pipe()

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        for descriptor in pipe or ():
            os.close(descriptor)


def _pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):  # the user has many large ones
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE)
    return pipe
