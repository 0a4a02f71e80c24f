"""Interfaces and routes where the bridges are: what netavark does not tell or does not remove."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from struct import pack, unpack_from

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.run.networks.addresses import Range

_GET_ADDRESS, _SET_ADDRESS, _ETHERNET = 0x8927, 0x8924, 1  # netdevice(7), arp(7)
_REMOVE_LINK, _REQUEST, _ACKNOWLEDGE, _INTERFACE_NAME = 17, 1, 4, 3  # rtnetlink(7)


def routes(directory: str, *, default: bool = False) -> list[tuple[str, Range]]:
    """The subnets that interfaces reach directly or through a router, with the interfaces. ``default``: also
    default routes. ``directory``: of /proc, with the files route and ipv6_route (proc(5))."""
    found: list[tuple[str, Range]] = []
    for line in _lines(os.path.join(directory, "route"))[1:]:
        words = line.split()
        if len(words) > 7:
            first, mask = (int.from_bytes(bytes.fromhex(word)[::-1], "big") for word in (words[1], words[7]))
            if mask or default:
                found.append((words[0], IPv4Network((first, mask.bit_count()))))
    for line in _lines(os.path.join(directory, "ipv6_route")):
        words = line.split()
        if len(words) > 9 and words[9] != "lo" and 0 < int(words[1], 16) < 128:
            net = IPv6Network((int(words[0], 16), int(words[1], 16)), strict=False)
            if not (net.is_link_local or net.is_multicast):
                found.append((words[9], net))
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def interfaces(directory: str) -> list[str]:
    """The names of all interfaces. ``directory``: of /proc."""
    return [line.partition(":")[0].strip() for line in _lines(os.path.join(directory, "dev"))[2:]]


def remove_link(name: str) -> None:
    """Remove an interface of this process's network; nothing happens if there is none. Raises OSError."""
    import errno
    import socket

    value = name.encode() + b"\0"
    attribute = pack("HH", 4 + len(value), _INTERFACE_NAME) + value
    body = pack("BxHiII", 0, 0, 0, 0, 0) + attribute + bytes(-len(attribute) % 4)
    head = pack("IHHII", 16 + len(body), _REMOVE_LINK, _REQUEST | _ACKNOWLEDGE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:  # type: ignore[attr-defined,unused-ignore]
        link.sendto(head + body, (0, 0))
        answer = link.recv(4096)
    number = -unpack_from("i", answer, 16)[0]
    if number not in (0, errno.ENODEV):
        raise OSError(number, os.strerror(number), name)


def fix_address(name: str, address: str) -> None:
    """Give a bridge of this process's network a hardware address for good. Without one it changes with every
    container that comes and goes, and those that know the old one do not reach the bridge any more. Raises
    OSError."""
    import fcntl
    import socket

    wanted = bytes.fromhex(address.replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        found = fcntl.ioctl(control.fileno(), _GET_ADDRESS, pack("16s24x", name.encode()))
        if found[18:24] != wanted:
            fcntl.ioctl(control.fileno(), _SET_ADDRESS, pack("16sH6s16x", name.encode(), _ETHERNET, wanted))
