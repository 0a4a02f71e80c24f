"""Sockets of this host for published ports: bound before the container starts, so that a port in use is known."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress

from lamina.errors import AccessDenied, Conflict, LaminaError, SystemFailure, Unsupported, UsageError
from lamina.light import TYPE_CHECKING, Value
from lamina.run.published.shown import Binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.run.options import Port

_BACKLOG = 4096
_TRIES = 64
_V6_ONLY = 26  # IPV6_V6ONLY (ipv6(7))
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_EVERY = ("0.0.0.0", "::")


class Bound(Value):
    """A socket of this host. ``descriptor`` is open and listens."""

    binding: Binding
    descriptor: int


def bind(ports: Sequence[Port], opened: ExitStack) -> list[Bound]:
    """Bind all ports, and choose free ones where none was given. ``opened`` closes the descriptors. Raises Conflict
    (a port is in use), AccessDenied, UsageError (this host has no such address), Unsupported, SystemFailure."""
    found: list[Bound] = []
    _allow_descriptors(2 * len(ports))
    for port in ports:
        if port.protocol == "sctp":
            raise Unsupported(
                f"port {port.port}/sctp can't be published: only tcp and udp are forwarded",
                hint="use --network host",
            )
        found += _bound(port, opened)
    return found


def _bound(port: Port, opened: ExitStack) -> list[Bound]:
    if not port.host_port:
        return _first_free(port, [0] * _TRIES, opened)
    if port.host_last:
        return _first_free(port, range(port.host_port, port.host_last + 1), opened)
    return _at(port, port.host_port, opened)


def _first_free(port: Port, numbers: Sequence[int], opened: ExitStack) -> list[Bound]:
    """Bind the first number that is free at every address; 0 lets the kernel choose."""
    refused: Conflict | None = None
    for number in numbers:
        try:
            return _at(port, number, opened)
        except Conflict as error:
            refused = error
    where = f"{numbers[0]}-{numbers[-1]}" if numbers[0] else "of this host"
    raise Conflict(
        f"port {port.port}/{port.protocol} can't be published: no port {where} is free",
        hint="stop what uses them, or publish other ports",
    ) from refused


def _at(port: Port, number: int, opened: ExitStack) -> list[Bound]:
    found: list[Bound] = []
    with ExitStack() as tried:
        for address in (port.address,) if port.address else _EVERY:
            try:
                descriptor, number = _socket_at(address, number, port.protocol)
            except OSError as error:
                if not port.address and address == "::" and error.errno in _NO_FAMILY:
                    continue  # this host has no IPv6
                raise _refusal(error, address, number, port) from None
            tried.callback(os.close, descriptor)
            found.append(Bound(Binding(address, number, port.port, port.protocol), descriptor))
        opened.push(tried.pop_all())
    return found


def _socket_at(address: str, number: int, protocol: str) -> tuple[int, int]:
    """A socket that is bound; its descriptor and port. Raises OSError."""
    import _socket

    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    one = _socket.socket(family, _socket.SOCK_STREAM if protocol == "tcp" else _socket.SOCK_DGRAM)
    try:
        if family == _socket.AF_INET6:
            one.setsockopt(_socket.IPPROTO_IPV6, _V6_ONLY, 1)
        if protocol == "tcp":
            one.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)  # connections of the last run may linger
        one.bind((address, number))
        if protocol == "tcp":
            one.listen(_BACKLOG)
        chosen: int = one.getsockname()[1]
        return one.detach(), chosen
    finally:
        one.close()


def _refusal(error: OSError, address: str, number: int, port: Port) -> LaminaError:
    shown = f"[{address}]" if ":" in address else address
    what = f"port {number}/{port.protocol} of {shown} can't be published"
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"{what}: it is in use", hint="stop what uses it (see `lamina ps`), or publish another port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{what}: only root may use ports below {_first_unprivileged()}",
            hint="publish a higher port, or lower the kernel setting net.ipv4.ip_unprivileged_port_start",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{what}: this host does not have this address", hint="give an address of this host")
    return SystemFailure(f"{what}: {error.strerror}", hint="publish fewer ports, or check the limits of this user")


def _first_unprivileged() -> str:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "1024"


def _allow_descriptors(number: int) -> None:
    """Raise the limit of this process's open files, if it can be raised: ``number`` more are needed."""
    if number < 256:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, number + 1024)), hard))
