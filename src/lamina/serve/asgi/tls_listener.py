"""A listener for TLS that counts a connection when it is accepted: those of the event loops tell nobody of a client
before its handshake has ended, and no limit would know those that never end it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import ssl

    from lamina.serve.asgi.admission import Admission, Admitted

HANDSHAKE = 10.0
"""Seconds that a client may take for the handshake of TLS."""
REFUSED = 64
"""Connections that are too many and still get through the handshake at once, so that they can be told why; more are
closed."""
_AT_ONCE = 64  # connections that are accepted before other work goes on
_PAUSE = 1.0  # seconds until it accepts again when the process has no more files
_log = logging.getLogger("lamina.serve")


class Make(Protocol):
    def __call__(self, *, admitted: Admitted) -> asyncio.Protocol: ...


class TlsListener:
    """Accepts connections on an open socket until ``close``. ``make``: makes the protocol of a connection."""

    def __init__(self, listener: socket.socket, make: Make, tls: ssl.SSLContext, admission: Admission) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener.dup()  # the server closes its own as soon as it stops
        self._listener.setblocking(False)
        self._make, self._tls, self._admission = make, tls, admission
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._accepting = self._start(self._accept())

    def close(self) -> None:
        """Accept nothing more. Handshakes go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._accepting

    async def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    self._begin(*await self._loop.sock_accept(self._listener))
                    for _ in range(_AT_ONCE):
                        self._begin(*self._listener.accept())
                    await asyncio.sleep(0)  # asyncio's sock_accept lets nothing else run where a client waits
                except (BlockingIOError, ConnectionAbortedError):
                    pass
                except OSError as error:
                    _log.warning("no connection can be accepted now: %s", error)
                    await asyncio.sleep(_PAUSE)

    def _begin(self, connection: socket.socket, address: Any) -> None:
        admitted = self._admission.enter(str(address[0]) if isinstance(address, tuple) else "")
        if admitted.refusal is not None and self._refused >= REFUSED:
            self._admission.leave(admitted)
            connection.close()
            return
        self._refused += admitted.refusal is not None
        self._start(self._shake_hands(connection, admitted))

    async def _shake_hands(self, connection: socket.socket, admitted: Admitted) -> None:
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(
                partial(self._make, admitted=admitted), connection, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE
            )
        except OSError as error:
            _log.debug("no handshake: %s", error)
        finally:
            self._refused -= admitted.refusal is not None
            if not admitted.taken:
                self._admission.leave(admitted)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
