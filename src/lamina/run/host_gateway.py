"""The address by which a container reaches this host: docker's ``host-gateway``.

pasta gives a container the addresses of this host, so that the container can't reach the host by them. A container
that asks for the host's address gets another one instead. It then reaches what listens on all addresses of this host,
but not what listens on its loopback addresses only.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

_OUTSIDE = "198.51.100.1"
_NETS = tuple(f"{first}.2." for first in ("10.0", "10.113", "10.217", "172.29", "192.168"))
"""Beginnings of networks of 256 addresses; one that the host is not in is chosen. The first is slirp4netns'."""


class OwnAddress(Value):
    """An address for a container, and of its gateway, in a network of 24 bits."""

    address: str
    gateway: str


def host_address() -> str:
    """The address of IPv4 that this host uses for connections to others; "" if it has none. Nothing is sent."""
    import _socket

    one = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        one.connect((_OUTSIDE, 9))
        return str(one.getsockname()[0])
    except OSError:
        return ""
    finally:
        one.close()


def own_address(routes: str, used: Iterable[str] = ()) -> OwnAddress:
    """An address in a network that this host has no route to (pure). ``routes``: the text of /proc/net/route.
    ``used``: further addresses that are not to be in the network."""
    taken = [_route(line.split()) for line in routes.splitlines()[1:]]
    taken += [(_number(one), 0xFFFFFF00) for one in used if one.replace(".", "").isdecimal()]
    for start in _NETS:
        net = _number(f"{start}0")
        if not any(mask and net & mask == target & mask for target, mask in taken):
            break
    return OwnAddress(f"{start}100", f"{start}2")


def _route(words: list[str]) -> tuple[int, int]:
    """The target and the mask of a line; the default route has no mask. A network that is smaller than 256 addresses
    counts as a whole one."""
    try:
        target, mask = (int.from_bytes(bytes.fromhex(words[at]), "little") for at in (1, 7))
    except (IndexError, ValueError):
        return 0, 0
    return target, mask & 0xFFFFFF00


def _number(address: str) -> int:
    found = 0
    for part in address.split("."):
        found = found << 8 | int(part)
    return found
