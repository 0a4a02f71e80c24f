"""Sends parts of a file over a plain connection with sendfile: the bytes go from the page cache to the socket in the
kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from contextlib import suppress
from typing import Protocol

COPY = "lamina.copy"
"""The extension of the scope that sends a part of a file as the next bytes of the body: a ``Copy``. It is missing
where the connection can't, as with TLS."""

_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Copy(Protocol):
    """What sends parts of files as the next bytes of a body."""

    async def __call__(self, descriptor: int, at: int, size: int) -> int | None:
        """Send up to ``size`` bytes from the offset ``at``, once the client takes bytes. Returns how many, 0 if the
        file has ended there or the client is gone; None if this file can't be sent so."""


class KernelCopy:
    """The copies of files to one connection. ``patience``: seconds for which the client may take nothing; then the
    connection is cut."""

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._transport = transport
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._socket = -1
        self._waits: asyncio.Future[None] | None = None

    @staticmethod
    def is_possible(transport: asyncio.BaseTransport) -> bool:
        """Whether the kernel can send files over this connection."""
        plain = transport.get_extra_info("sslcontext") is None and transport.get_extra_info("ssl_object") is None
        return plain and sys.platform == "linux" and transport.get_extra_info("socket") is not None

    async def copy(self, descriptor: int, at: int, size: int) -> int | None:
        """As ``Copy`` says. Nothing that was written to the transport may be left in its buffer."""
        if self._socket < 0:
            # the event loop watches the transport's own descriptor, and refuses to watch it twice
            self._socket = os.dup(self._transport.get_extra_info("socket").fileno())
        while not self._transport.is_closing():
            try:
                return os.sendfile(self._socket, descriptor, at, size)
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                if error.errno in _CANNOT:
                    return None
                if error.errno == errno.EIO:  # the disk's, not the client's
                    raise
                self._transport.abort()
        return 0

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
        self._wake()
        if self._socket >= 0:
            with suppress(OSError, ValueError):
                self._loop.remove_writer(self._socket)
            os.close(self._socket)
            self._socket = -1
