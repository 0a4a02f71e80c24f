"""Runs an application on uvicorn in this process: until a signal, and then until running requests end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from lamina.serve.asgi.admission import Admission
from lamina.serve.asgi.connection import Connection
from lamina.serve.asgi.listen import BACKLOG, notify
from lamina.serve.asgi.tls_listener import TlsListener

if TYPE_CHECKING:
    import ssl
    from types import FrameType

    from lamina.serve.asgi.application import Application
    from lamina.serve.asgi.callers import Callers
    from lamina.serve.asgi.limits import Limits

FILES = 16_384
"""Open files of a server: four times the connections that it answers, for what they read and write."""
ENDING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM") if name in signal.Signals.__members__)


class Server(uvicorn.Server):
    """uvicorn's server, with signals of our own: the first one stops it when running requests have ended or the grace
    period is over, the second one at once."""

    def __init__(
        self,
        make: Callable[[], Application],
        limits: Limits,
        *,
        callers: Callers | None = None,
        tls: ssl.SSLContext | None = None,
        ready: Callable[[], None] = lambda: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """``make``: makes the application, in the event loop. ``callers``: limits the connections of each address.
        ``ready`` is called when connections are accepted,
        ``tick`` about every second, both in the loop."""
        self._admission, self._tls = Admission(limits.connections, callers), tls
        config = uvicorn.Config(
            self._call,
            http=cast("type[asyncio.Protocol]", partial(Connection, limits=limits, admission=self._admission)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(limits.keep_alive),
            timeout_graceful_shutdown=max(1, int(limits.grace)),
        )
        super().__init__(config)
        self._make, self._ready, self._tick = make, ready, tick
        self.application: Application | None = None

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.application is not None
        await self.application(scope, receive, send)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.application = self._make()
        if self._tls is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            make: Any = partial(
                cast("Any", self.config.http_protocol_class),
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            for one in sockets or []:
                self.servers.append(cast("Any", TlsListener(one, make, self._tls, self._admission)))
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._tick()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for task in list(self.server_state.tasks):
            task.cancel()
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=1)
        if self.application is not None:
            self.application.close()

    def stop(self) -> None:
        """Begin to stop; called again, stop at once. Safe from any thread."""
        if self.should_exit:
            self.force_exit = True
        else:
            notify("STOPPING=1")
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured here: ``stopped_by_signals`` does it for the process."""
        yield


@contextmanager
def stopped_by_signals(stop: Callable[[], None], reload: Callable[[], None] | None = None) -> Iterator[None]:
    """Call ``stop`` at SIGINT and SIGTERM, ``reload`` at SIGHUP, while the block runs."""

    def ended(number: int, frame: FrameType | None) -> None:
        stop()

    def reloaded(number: int, frame: FrameType | None) -> None:
        if reload is not None:
            reload()

    before = {number: signal.signal(number, ended) for number in ENDING}
    if reload is not None and hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reloaded)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(server: Server, sockets: Sequence[socket.socket]) -> None:
    """Run a server on open sockets, which it closes, until it is stopped."""
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(server.serve(list(sockets)))


def allow_files(most: int = FILES) -> None:
    """Let this process have so many open files, or as many as it may: each connection is one."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop: uvloop's if it is installed; None for any (not POSIX)."""
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return asyncio.SelectorEventLoop if os.name == "posix" else None
