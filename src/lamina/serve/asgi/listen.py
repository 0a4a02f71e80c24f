"""Where a server listens: addresses, Unix sockets, and sockets that systemd has opened; and what it tells systemd."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from lamina.errors import Conflict, SystemFailure, UsageError
from lamina.host.files import failure
from lamina.remote.loopback import is_loopback

BACKLOG = 2048
EVERYWHERE = "0.0.0.0"
_FIRST = 3  # systemd passes descriptors from here on
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[A-Za-z0-9._-]*))(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """``path``: of a Unix socket; else ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return bool(self.path) or is_loopback(self.host)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, port: int = 5000) -> Address:
    """Parse HOST, HOST:PORT, [V6]:PORT, :PORT (all addresses of this machine) or unix:PATH. Raises UsageError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise UsageError(f"{text!r:.200} has no path", hint="give unix:/run/lamina/serve.sock")
        return Address(path=os.path.abspath(path))
    found = _ADDRESS.fullmatch(text)
    if found is None or not text or int(found["port"] or 0) > 65535:
        if re.fullmatch(r"[0-9A-Fa-f:]+", text) and text.count(":") > 1:
            return Address(text, port)
        raise UsageError(f"{text!r:.200} is not an address", hint="give HOST:PORT, [IPV6]:PORT or unix:PATH")
    return Address(found["v6"] or found["host"] or EVERYWHERE, int(found["port"]) if found["port"] else port)


def listen(addresses: Iterable[Address]) -> list[socket.socket]:
    """Open a listening socket for each address. Raises SystemFailure (a taken port), Conflict (another server has the
    Unix socket)."""
    opened: list[socket.socket] = []
    try:
        for address in addresses:
            opened += [_unix(address.path)] if address.path else _inet(address)
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _inet(address: Address) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SystemFailure(f"{address}: {error.strerror or error}", hint="check the name of the host") from None
    opened: list[socket.socket] = []
    for family, kind, protocol, _, where in sorted(set(found)):
        if opened and opened[0].family != family and address.port == 0:
            where = (where[0], opened[0].getsockname()[1], *where[2:])  # localhost: one port for both families
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(where)
            one.listen(BACKLOG)
        except OSError as error:
            one.close()
            for other in opened:
                other.close()
            raise failure(error, str(address)) from None
        opened.append(one)
    return opened


def _unix(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                _check_dead(path)
                os.unlink(path)
        one.bind(path)
        os.chmod(path, 0o660)  # who may connect: the owner and the group
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise failure(error, path) from None
    return one


def _check_dead(path: str) -> None:
    """Raise Conflict if a server answers at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        try:
            other.connect(path)
        except OSError:
            return
    raise Conflict(f"unix:{path}: another server listens there", hint="stop it, or choose another path")


def address_of(listener: socket.socket) -> Address:
    """Return where an open socket listens."""
    where = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return Address(path=where if isinstance(where, str) else os.fsdecode(where))
    return Address(str(where[0]), int(where[1]))


def given_by_systemd() -> list[socket.socket]:
    """Return the sockets that systemd has opened for this process (LISTEN_FDS), none without that. Raises
    UsageError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not count.isdigit() or int(count) > 64:
        return []
    found = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(descriptor, False)
        try:
            one = socket.socket(fileno=descriptor)
            accepts = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise failure(error, f"descriptor {descriptor} of systemd") from None
        if one.type != socket.SOCK_STREAM or not accepts:
            raise UsageError(
                f"descriptor {descriptor} of systemd is not a listening stream socket",
                hint="use ListenStream= and Accept=no in the .socket unit",
            )
        found.append(one)
    return found


def notify(state: str) -> None:
    """Tell systemd the state of the service (sd_notify), if it wants to know: READY=1, STOPPING=1, WATCHDOG=1."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        one.connect("\0" + where[1:] if where.startswith("@") else where)
        one.sendall(state.encode())


_told = 0.0


def notify_alive() -> None:
    """Tell systemd that the service is alive, if its watchdog wants to know and it is time."""
    global _told
    text = os.environ.get("WATCHDOG_USEC", "")
    now = time.monotonic()
    if text.isdigit() and now - _told > int(text) / 3e6:
        _told = now
        notify("WATCHDOG=1")
