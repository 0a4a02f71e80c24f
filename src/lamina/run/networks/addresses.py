"""Addresses of networks and of containers on them (pure)."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lamina.errors import Conflict, UsageError
from lamina.light import TYPE_CHECKING, pattern
from lamina.run.networks.record import Subnet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lamina.run.networks.record import Network

    Address = IPv4Address | IPv6Address
    Range = IPv4Network | IPv6Network

_FIRST_POOL, _LAST_POOL = int(IPv4Address("10.89.0.0")), int(IPv4Address("10.255.255.0"))
_SIZE = 1 << 8  # addresses of a subnet that is chosen
_MAC = pattern(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_MAX_LOOKED_AT = 1 << 20  # addresses
_SCOPE = "%"
"""Before an interface (RFC 4007), for which ipaddress takes any text."""
_RESERVED = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/64", "ff00::/8")))
"""A bridge with addresses of loopback would take the host's own away."""
_PRIVATE = "choose a private range, like 10.5.0.0/16 or fd00:5::/64"


def free_subnet(taken: Iterable[Range], start: int) -> IPv4Network:
    """A subnet of 256 addresses that overlaps none of ``taken``. ``start``: where to begin to look; a number that
    differs between stores keeps their networks apart that are not up yet. Raises Conflict."""
    used = [(int(one.network_address), int(one.broadcast_address)) for one in taken if one.version == 4]
    count = (_LAST_POOL - _FIRST_POOL) // _SIZE + 1
    for step in range(count):
        first = _FIRST_POOL + (start + step) % count * _SIZE
        if not any(low < first + _SIZE and first <= high for low, high in used):
            return IPv4Network((first, 24))
    raise Conflict("no subnet is free for a new network", hint="give one with --subnet, or remove unused networks")


def local_subnet(random: bytes) -> IPv6Network:
    """A subnet of a private range (RFC 4193). ``random``: seven bytes."""
    return IPv6Network((int.from_bytes(b"\xfd" + random + bytes(8), "big"), 64))


def parse_subnet(word: str) -> Range:
    """Raises UsageError."""
    net: Range | None = None
    if "/" in word and _SCOPE not in word:
        try:
            net = ipaddress.ip_network(word)
        except ValueError:
            pass
    if net is None:
        raise UsageError(
            f"{word!r:.100} is not a subnet", hint="write it like 10.5.0.0/16, with zeros behind the prefix"
        )
    for other in _RESERVED:
        if net.version == other.version and net.overlaps(other):
            raise UsageError(f"the subnet {net} has addresses that no container can have ({other})", hint=_PRIVATE)
    return net


def parse_address(word: str, what: str) -> Address:
    """``what``: the option. Raises UsageError."""
    if _SCOPE not in word:
        try:
            return ipaddress.ip_address(word)
        except ValueError:
            pass
    raise UsageError(f"{what} {word!r:.100} is not an address", hint="write it like 10.5.0.9 or fd00::9")


def parse_mac(word: str, what: str = "--mac-address") -> str:
    """A hardware address of one interface. Raises UsageError."""
    if not _MAC.fullmatch(word.replace("-", ":")):
        raise UsageError(f"{what} {word!r:.60} is not a hardware address", hint="write it like 02:42:ac:11:00:02")
    if int(word[:2], 16) & 1:
        raise UsageError(f"{what} {word!r:.60} is the address of a group", hint="give it an even first byte")
    return word.replace("-", ":").lower()


def ipam(subnets: Sequence[str], gateways: Sequence[str], ranges: Sequence[str]) -> list[Subnet]:
    """The subnets that were asked for, with their gateways and ranges. Raises UsageError."""
    nets = [parse_subnet(word) for word in subnets]
    for number, net in enumerate(nets):
        if net.num_addresses < 4:
            raise UsageError(f"the subnet {net} has no address for a container", hint="give a larger one, like a /30")
        if any(net.version == other.version and net.overlaps(other) for other in nets[:number]):
            raise UsageError(f"the subnet {net} overlaps another one of the network", hint="give separate subnets")
    given: dict[Range, dict[str, str]] = {net: {} for net in nets}
    for word in gateways:
        address = parse_address(word, "--gateway")
        net = _subnet_of(address, nets, f"--gateway {word}")
        if address in (net.network_address, _last(net)):
            raise UsageError(f"--gateway {word} is not the address of a host in {net}", hint="give another address")
        given[net]["gateway"] = str(address)
    for word in ranges:
        first, last = _range(word)
        net = _subnet_of(first, nets, f"--ip-range {word}")
        if last not in net:
            raise UsageError(f"--ip-range {word} is not in the subnet {net}", hint="give a part of the subnet")
        given[net] |= {"ip_range": word, "first": str(first), "last": str(last)}
    return [_with_gateway(net, given[net]) for net in nets]


def _with_gateway(net: Range, given: dict[str, str]) -> Subnet:
    """Every network has a gateway, an internal one too: that is where names are resolved."""
    gateway = given.get("gateway") or str(net.network_address + 1)
    return Subnet(str(net), gateway, given.get("ip_range", ""), given.get("first", ""), given.get("last", ""))


def _subnet_of(address: Address, nets: Sequence[Range], what: str) -> Range:
    for net in nets:
        if address in net:
            return net
    raise UsageError(f"{what} is in no subnet of the network", hint="give the subnet with --subnet")


def _range(word: str) -> tuple[Address, Address]:
    first, dash, last = word.partition("-")
    if dash:
        ends = parse_address(first, "--ip-range"), parse_address(last, "--ip-range")
        if ends[0].version != ends[1].version or int(ends[0]) > int(ends[1]):
            raise UsageError(f"--ip-range {word!r:.100} is empty", hint="write it like 10.5.0.10-10.5.0.20")
        return ends
    net = parse_subnet(word)
    return net.network_address, net.broadcast_address


def _last(net: Range) -> Address:
    """The address that no host of the subnet can have: IPv4's broadcast address."""
    return net.broadcast_address if net.version == 4 else net.network_address


def allocate(network: Network, taken: Collection[str], wanted: Sequence[str] = ()) -> list[str]:
    """One address in each subnet of the network, with its prefix, like 10.89.1.2/24. ``taken``: addresses that others
    have. ``wanted``: addresses that were asked for. Raises Conflict (it is taken, or none is free), UsageError (it
    is in no subnet)."""
    asked = [parse_address(word, "--ip") for word in filter(None, wanted)]
    nets = [(ipaddress.ip_network(one.subnet), one) for one in network.subnets]
    for address in asked:
        if not any(address in net for net, _ in nets):
            subnets = ", ".join(one.subnet for one in network.subnets)
            raise UsageError(
                f"the address {address} is not in a subnet of the network {network.name} ({subnets})",
                hint="give an address of the subnet",
            )
    return [_allocated(network, net, one, taken, asked) for net, one in nets]


def _allocated(network: Network, net: Range, subnet: Subnet, taken: Collection[str], asked: Sequence[Address]) -> str:
    reserved = {str(net.network_address), str(_last(net)), subnet.gateway}
    for address in asked:
        if address in net:
            if str(address) in reserved:
                raise UsageError(
                    f"the address {address} is not for a container: the network {network.name} uses it itself",
                    hint="give another address",
                )
            if str(address) in taken:
                raise Conflict(
                    f"the address {address} of the network {network.name} is in use",
                    hint="give another address, or stop the container that has it",
                )
            return f"{address}/{net.prefixlen}"
    first = int(ipaddress.ip_address(subnet.first)) if subnet.first else int(net.network_address)
    last = int(ipaddress.ip_address(subnet.last)) if subnet.last else int(net.broadcast_address)
    kind = IPv4Address if net.version == 4 else IPv6Address
    for number in range(first, min(last, first + _MAX_LOOKED_AT) + 1):
        word = str(kind(number))
        if word not in reserved and word not in taken:
            return f"{word}/{net.prefixlen}"
    raise Conflict(
        f"the network {network.name} has no free address in {subnet.ip_range or subnet.subnet}",
        hint="stop a container on it, or make a network with a larger subnet",
    )


def mac_for(address: str) -> str:
    """A hardware address for an address of IPv4, as docker makes it."""
    number = int(ipaddress.ip_interface(address).ip) & 0xFFFFFFFF
    return "02:42:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (24, 16, 8, 0))
