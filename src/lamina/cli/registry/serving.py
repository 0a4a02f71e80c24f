"""How the verb `serve` runs a server: the one of the extra `serve`, else the small one."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from lamina.cli import say, warn
from lamina.cli.format.output import write
from lamina.errors import LaminaError, Unsupported, UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

    from starlette.routing import BaseRoute

    from lamina.cli.registry.serve_access import Protection
    from lamina.serve.access.gate import Gate
    from lamina.serve.access.opening import OpenAccess
    from lamina.serve.asgi.application import Site
    from lamina.serve.asgi.callers import Callers
    from lamina.serve.asgi.listen import Address
    from lamina.serve.asgi.processes import Shared
    from lamina.serve.asgi.status import Checks
    from lamina.serve.mirror.mirror import Mirror
    from lamina.serve.routes import Route
    from lamina.source.served import Readable, Repositories

INSTALL = "run `pip install 'lamina[serve]'`"
CONNECTIONS_EACH = 1024
"""Connections at once from one address: docker has up to 8, and hundreds of hosts may be behind one address (NAT)."""


@dataclass(frozen=True)
class Settings:
    """What the command line says. ``grace`` in seconds, ``max_blob`` in bytes. ``state``: the directory of the
    server's own files, "" if there is none. ``passing_key`` signs tokens where no file has a key: it is the
    same in all processes of this server, and ends with it."""

    host: str
    port: int
    listen: Sequence[str]
    writable: bool
    plain_http: bool
    anonymous_push: bool
    trusted: Sequence[str]
    workers: int
    connections_each: int
    uploads_each: int
    grace: int
    max_blob: int
    access_log: str | None
    log_format: str
    metrics_from: Sequence[str]
    explorer: bool
    explorer_cache: str | None
    protection: Protection
    state: str
    gc_every: float | None = None
    mirror: Mirror | None = None
    passing_key: bytes = field(default_factory=partial(os.urandom, 32), repr=False)

    def needing_service(self) -> list[str]:
        """The options that only the server of the extra has."""
        given = {
            "--listen": self.listen,
            "--plain-http": self.plain_http,
            "--anonymous-push": self.anonymous_push,
            "--trusted-proxy": self.trusted,
            "--workers": self.workers > 1,
            "--connections-per-address": self.connections_each != CONNECTIONS_EACH,
            "--access-log": self.access_log,
            "--metrics-from": self.metrics_from,
            "--explorer-cache": self.explorer_cache,
        }
        return [*(name for name, value in given.items() if value), *self.protection.given()]


def service_is_installed() -> bool:
    """Whether the packages of the extra `serve` are there."""
    return all(
        importlib.util.find_spec(name) is not None for name in ("starlette", "uvicorn", "httptools", "bcrypt", "jwt")
    )


@contextmanager
def whole_service() -> Iterator[None]:
    """Report a package that the packages of the extra need and that is not there. Raises Unsupported."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "lamina"):
            raise
        raise Unsupported(
            f"the packages of the extra `serve` are not complete: {error.name} is missing", hint=INSTALL
        ) from None


def run_small(place: Readable, settings: Settings) -> None:
    """Run the server that needs no packages. Raises UsageError if more was asked of it."""
    from lamina.serve.server import RegistryServer
    from lamina.serve.server_log import protect_standard_error

    protect_standard_error()
    missing = settings.needing_service()
    if missing:
        raise UsageError(f"{', '.join(missing)}: the packages of the extra `serve` are not installed", hint=INSTALL)
    server = RegistryServer(
        place,
        host=settings.host,
        port=settings.port,
        writable=settings.writable,
        mirror=settings.mirror,
        uploads_each=settings.uploads_each,
    )
    done = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        done.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    say(f"this is the small server, for this machine only; {INSTALL} for the one with TLS, users and metrics")
    with server, _collecting(place, settings):
        _announce(place, [server.url], settings)
        while not done.wait(0.5):  # with a timeout: a signal may come just before it blocks
            pass


def run_service(place: Readable, settings: Settings) -> None:
    """Run the server of the extra `serve` until a signal. Raises UsageError, SystemFailure."""
    from lamina.serve.api import check_writable
    from lamina.serve.asgi.callers import Callers
    from lamina.serve.asgi.forwarded import parse_networks
    from lamina.serve.asgi.listen import address_of, given_by_systemd, listen, notify, notify_alive
    from lamina.serve.asgi.processes import supervise

    if settings.writable:
        check_writable(place)
    for networks in (settings.trusted, settings.metrics_from):
        parse_networks(networks)
    if settings.trusted:  # a proxy is there for other machines, and TLS is its business
        _check_exposure(settings, "this server through a proxy", local=False, tls=True)
    _check_protection(settings)
    sockets = given_by_systemd()
    if not sockets:
        addresses = _addresses(settings)
        for address in addresses:
            _check(settings, address)
        sockets = listen(addresses)
    bound = [address_of(one) for one in sockets]
    for address in bound:
        _check(settings, address)
    local = all(address.is_local for address in bound) and not settings.trusted

    scheme = "https" if settings.protection.has_tls else "http"

    def announce() -> None:
        _announce(place, [str(one) if one.path else f"{scheme}://{one}" for one in bound], settings)
        notify("READY=1")

    callers = None
    if settings.connections_each:
        callers = Callers(settings.connections_each, parse_networks(settings.trusted), settings.workers)
    work = partial(_work, place, settings, sockets, local, callers)
    try:
        if settings.workers == 1:
            code = work(0, None, announce)
        else:
            code = supervise(settings.workers, work, announce, notify_alive)
    finally:
        for one in sockets:
            one.close()
        for address in bound:
            if address.path:
                _remove(address.path)
    if code:
        sys.exit(code)


def _addresses(settings: Settings) -> list[Address]:
    from lamina.serve.asgi.listen import Address, parse_address

    if settings.listen:
        return [parse_address(text, settings.port) for text in settings.listen]
    return [Address(settings.host, settings.port)]


def _check(settings: Settings, address: Address) -> None:
    _check_exposure(settings, str(address), local=address.is_local, tls=settings.protection.has_tls)


def _check_exposure(settings: Settings, address: str, *, local: bool, tls: bool) -> None:
    from lamina.serve.exposure import check_exposure

    check_exposure(
        address,
        local=local,
        tls=tls,
        plain_http=settings.plain_http,
        writable=settings.writable,
        has_users=settings.protection.says_who_may_push,
        anonymous_push=settings.anonymous_push,
    )


def _work(
    place: Readable,
    settings: Settings,
    sockets: Sequence[socket.socket],
    local: bool,
    callers: Callers | None,
    number: int,
    shared: Shared | None,
    ready: Callable[[], None],
) -> int:
    """Serve in this process. ``number``: of this process; ``shared``: where the figures of the others are, if there
    are others. Returns an exit code."""
    from lamina.serve.asgi.application import Application
    from lamina.serve.asgi.listen import notify_alive
    from lamina.serve.asgi.running import Server, allow_files, run, stopped_by_signals
    from lamina.serve.server_log import protect_standard_error

    protect_standard_error()
    allow_files()
    tls = settings.protection.open_tls(settings.state)
    with _access(settings, local) as access, _site(place, settings, local, access, shared) as site:

        def tick() -> None:
            if shared is not None:
                shared.write(site.metrics.series())
            else:
                notify_alive()

        def reload() -> None:
            if site.log is not None:
                site.log.reopen()
            if access is not None:
                access.reload()
            if tls is not None:
                tls.reload()

        if number == 0:
            threading.Thread(
                target=_tell_problems, args=(site.checks, site.writing), name="lamina-checks", daemon=True
            ).start()
        context = tls.context if tls is not None else None
        if callers is not None:
            callers.begin(number)
        server = Server(lambda: Application(site), site.limits, callers=callers, tls=context, ready=ready, tick=tick)

        with stopped_by_signals(server.stop, reload):
            run(server, sockets)
        if server.force_exit:
            os._exit(1)  # requests still run in threads: they end with the process, as they would with kill -9
    return 0


def _tell_problems(checks: Checks, writing: Callable[[], None] | None) -> None:
    """Say what `/readyz` would say: storage that can't be used is a reason to look, not to end, because it may come
    later."""
    for check in (*checks.values(), *((writing,) if writing is not None else ())):
        try:
            check()
        except LaminaError as error:
            warn(error.message + (f"; {error.hint}" if error.hint else ""))
            break  # one reason is enough


def _check_protection(settings: Settings) -> None:
    """Read all files about users and TLS once, so that the command fails before it listens, and make what is missing.
    Raises UsageError, SystemFailure."""
    settings.protection.open_tls(settings.state)
    with _access(settings, local=False):
        pass
    own = settings.protection.self_signed(settings.state)
    if own is not None:
        say(
            f"clients have to trust {own.ca}: docker and podman read it as /etc/docker/certs.d/HOST:PORT/ca.crt and "
            "/etc/containers/certs.d/HOST:PORT/ca.crt"
        )


@contextmanager
def _access(settings: Settings, local: bool) -> Iterator[OpenAccess | None]:
    """What protects the registry, as long as the block runs; None if there is nothing to check."""
    from lamina.serve.access.opening import open_access

    options = settings.protection.access_options(
        state=settings.state,
        local=local,
        anonymous_push=settings.anonymous_push,
        passing_key=settings.passing_key,
    )
    if options.is_open:
        yield None
        return
    access = open_access(options)
    try:
        yield access
    finally:
        access.close()


@contextmanager
def _site(
    place: Readable, settings: Settings, local: bool, access: OpenAccess | None, shared: Shared | None
) -> Iterator[Site]:
    """What this process serves, as long as the block runs."""
    from lamina.serve.access.gate import Gate
    from lamina.serve.api import open_api
    from lamina.serve.asgi.access_log import AccessLog
    from lamina.serve.asgi.application import LOOPBACK, Site
    from lamina.serve.asgi.forwarded import parse_networks
    from lamina.serve.asgi.limits import Limits

    log = AccessLog(settings.access_log, settings.log_format) if settings.access_log else None
    try:
        with ExitStack() as stack:
            api = stack.enter_context(
                open_api(
                    place, writable=settings.writable, mirror=settings.mirror, uploads_each=settings.uploads_each
                )
            )
            gate = Gate(api, access.policy) if access is not None else None
            routes = stack.enter_context(_explorer(place, api.place, settings, gate))
            stack.enter_context(_collecting(place, settings))
            site = Site(
                api.answer if gate is None else gate.answer,
                Limits(body=settings.max_blob, grace=settings.grace),
                is_elsewhere=partial(_is_elsewhere, settings.mirror.hosts if settings.mirror is not None else ()),
                routes=routes,
                local=local if access is None else access.policy.local,
                trusted=parse_networks(settings.trusted),
                trust_unix="unix" in settings.trusted,
                metrics_readers=(*LOOPBACK, *parse_networks(settings.metrics_from)),
                others=shared.others if shared is not None else tuple,
                checks={"names": partial(_check_readable, api.place)},
                writing=api.check_writing if settings.writable else None,
                log=log,
            )
            yield site
    finally:
        if log is not None:
            log.close()


@contextmanager
def _explorer(
    place: Readable, repositories: Repositories, settings: Settings, gate: Gate | None
) -> Iterator[Sequence[BaseRoute]]:
    """The pages of the explorer, as long as the block runs."""
    if not settings.explorer:
        yield ()
        return
    from lamina.serve.asgi.explorer import everybody, explorer_routes
    from lamina.serve.explorer.explorer import Explorer
    from lamina.serve.explorer.gallery import Gallery
    from lamina.serve.explorer.layer_cache import LayerCache, default_directory
    from lamina.source.abilities import keeps_copies
    from lamina.store.store import Store

    if keeps_copies(repositories):  # who looks around must not use up the rate limits of other registries
        repositories = repositories.kept()
    gallery = Gallery(repositories)
    if gate is None and isinstance(
        place, Store
    ):  # everybody may see everything, so layers may be found by what configs state
        gallery = Gallery(repositories, local_layer=place.layers.unpacked)
    cache = LayerCache(settings.explorer_cache or default_directory())
    logins = gate is not None and gate.has_users
    with Explorer(gallery, cache, pulls=True, writable=settings.writable, logins=logins) as explorer:
        yield explorer_routes(explorer, everybody if gate is None else gate.admit)


def _collecting(place: Readable, settings: Settings) -> AbstractContextManager[None]:
    """Garbage collection, as long as the block runs."""
    if settings.gc_every is None:
        return nullcontext()
    from lamina.store.online_gc import collecting
    from lamina.store.store import Store

    assert isinstance(place, Store)
    return collecting(place, settings.gc_every)


def _is_elsewhere(hosts: Collection[str], route: Route) -> bool:
    """Whether a request is for a repository of a mirrored registry."""
    from lamina.serve.http_message import repository_of
    from lamina.serve.routes import ApiError

    if not hosts or not route.name:
        return False
    try:
        return repository_of(route).partition("/")[0] in hosts
    except ApiError:
        return False


def _check_readable(place: Repositories) -> None:
    place.names(limit=1)


def _announce(place: Readable, urls: Sequence[str], settings: Settings) -> None:
    mirrored = f", mirrors {', '.join(settings.mirror.hosts)}" if settings.mirror is not None else ""
    state = "writable" if settings.writable else "read-only"
    write(f"serving {place.location} on {' and '.join(urls)} ({state}{mirrored})")
    sys.stdout.flush()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
