"""A server in a thread of this process: for programs that need a registry beside what they do, and for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.errors import SystemFailure
from lamina.events import start_threads
from lamina.serve.asgi.application import Application, Site
from lamina.serve.asgi.listen import Address, address_of, listen
from lamina.serve.asgi.running import Server, run

if TYPE_CHECKING:
    import ssl

_START = 30.0


@contextmanager
def in_background(
    site: Site,
    address: Address | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    stopping: Callable[[], None] = lambda: None,
) -> Iterator[Address]:
    """Serve a site while the block runs, on any free port of this machine unless ``address`` says more. Gives the
    address where it listens. Requests that run when the block ends get the site's grace period; ``stopping`` is
    called before they are waited for. Raises SystemFailure."""
    sockets = listen([address or Address("127.0.0.1")])
    where = address_of(sockets[0])
    ready = threading.Event()
    server = Server(lambda: Application(site), site.limits, callers=site.callers, tls=tls, ready=ready.set)

    def work() -> None:
        try:
            run(server, sockets)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="lamina-serve", daemon=True)
    start_threads([thread])
    if not ready.wait(_START) or not server.started:
        server.stop()
        raise SystemFailure(f"the server on {where} did not start", hint="its log says why")
    try:
        yield where
    finally:
        server.stop()
        stopping()
        thread.join()
