"""New networks: what was asked for is checked, and addresses that nothing on the host has are chosen."""

from __future__ import annotations

import os
import time
from ipaddress import ip_network

from lamina.errors import Conflict, NotFound, Unsupported, UsageError
from lamina.host import privileges
from lamina.light import TYPE_CHECKING, Value, field
from lamina.run.networks import addresses, links, place, programs
from lamina.run.networks.catalog import Catalog, digest, interface_name
from lamina.run.networks.record import (
    BRIDGE,
    IPVLAN,
    MACVLAN,
    Network,
    Subnet,
    is_interface_name,
    parse_network_name,
)
from lamina.store.journal import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.run.networks.addresses import Range
    from lamina.store.store import Store

_DRIVERS = (BRIDGE, MACVLAN, IPVLAN)
_SINCE = {"ipvlan": (1, 5), "no_default_route": (1, 7), "vrf": (1, 8), "vlan": (1, 14)}
"""The version of netavark that knows a driver or an option."""
_OPTIONS = {
    BRIDGE: ("mtu", "isolate", "metric", "vlan", "no_default_route", "vrf", "mode"),
    MACVLAN: ("parent", "mode", "mtu", "metric", "no_default_route"),
    IPVLAN: ("parent", "mode", "mtu", "metric", "no_default_route"),
}
_DOCKER = {
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.name": "interface",
}
_BY_DEFAULT = {
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.default_bridge": "false",
}
"""Options of docker that ask for what every network does."""


class Wanted(Value):
    """What is asked of a new network. ``subnets``, ``gateways``, ``ranges``: as given. ``interface``: of the host."""

    name: str
    driver: str = BRIDGE
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    internal: bool = False
    ipv6: bool = False
    dns: bool = True
    dns_servers: tuple[str, ...] = ()
    interface: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def create(store: Store, wanted: Wanted) -> Network:
    """Make a network; the bridge is made with the first container on it. Raises UsageError, Unsupported, Conflict
    (the name or the subnet is taken), NotFound (no netavark), SystemFailure."""
    name = parse_network_name(wanted.name)
    interface, options = _options(wanted)
    subnets = addresses.ipam(wanted.subnets, wanted.gateways, wanted.ranges)
    _check_driver(wanted, options)
    identity = os.urandom(32).hex()
    interface = interface or (interface_name(store, identity) if wanted.driver == BRIDGE else _parent())
    catalog = Catalog(store)
    with catalog.locked():
        others = catalog.every()
        if wanted.driver == BRIDGE:
            _check_interface(store, others, interface, asked="interface" if wanted.interface else "")
            subnets = _with_chosen(store, wanted, subnets, others)
        network = Network(
            name,
            identity,
            wanted.driver,
            interface,
            tuple(subnets),
            wanted.internal,
            wanted.ipv6 or any(":" in one.subnet for one in subnets),
            wanted.dns and wanted.driver == BRIDGE,
            wanted.dns_servers,
            tuple(wanted.labels.items()),
            tuple(options.items()),
            time.time(),
        )
        catalog.add(network)
    note(store.paths.root, "network", "create", identity, {"name": name, "type": network.driver})
    return network


def _options(wanted: Wanted) -> tuple[str, dict[str, str]]:
    """The interface and the options of the driver. Raises UsageError."""
    interface, found = wanted.interface, {}
    for key, value in wanted.options.items():
        name = _DOCKER.get(key, key)
        if _BY_DEFAULT.get(key) == value.lower():
            continue
        if name == "interface" or (name == "parent" and wanted.driver != BRIDGE):
            interface = value
        elif name in _OPTIONS.get(wanted.driver, ()):
            found[name] = _checked(name, value)
        else:
            raise UsageError(
                f"the driver {wanted.driver} has no option {key!r:.80}",
                hint="use " + ", ".join(_OPTIONS.get(wanted.driver, ("bridge",))),
            )
    if interface and not is_interface_name(interface):
        raise UsageError(f"{interface!r:.60} is not the name of an interface", hint="use 1 to 15 letters and digits")
    return interface, found


def _checked(name: str, value: str) -> str:
    limits = {"mtu": (68, 65535), "metric": (0, (1 << 32) - 1), "vlan": (1, 4094)}
    if name in limits:
        low, high = limits[name]
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise UsageError(f"{name}={value!r:.40} is not a number from {low} to {high}", hint=f"write {name}=N")
        return str(int(value))
    if name in ("isolate", "no_default_route") and value not in ("true", "false"):
        raise UsageError(f"{name}={value!r:.40} is unknown", hint=f"write {name}=true or {name}=false")
    return value


def _check_driver(wanted: Wanted, options: Mapping[str, str]) -> None:
    """Raises Unsupported, NotFound."""
    if wanted.driver not in _DRIVERS:
        raise Unsupported(f"unknown network driver {wanted.driver!r:.60}", hint="use " + ", ".join(_DRIVERS))
    version = programs.version()
    for name in (wanted.driver, *options):
        least = _SINCE.get(name, (0, 0))
        if version < least:
            raise Unsupported(
                f"{name} needs netavark {least[0]}.{least[1]}, and {'.'.join(map(str, version))} is installed",
                hint="update netavark, or leave it out",
            )
    if wanted.driver == BRIDGE:
        return
    if not privileges.is_root():
        raise Unsupported(f"only root may use the driver {wanted.driver}", hint="use the driver bridge")
    if not wanted.subnets:
        raise Unsupported(
            f"the driver {wanted.driver} needs the subnet of its network: addresses by DHCP are not supported",
            hint="give --subnet and --gateway",
        )


def _parent() -> str:
    """The interface of this host's default route. Raises NotFound."""
    for interface, route in links.routes("/proc/self/net", default=True):
        if not route.prefixlen:
            return interface
    raise NotFound("this host has no default route", hint="name the interface: -o parent=NAME")


def _check_interface(store: Store, others: Sequence[Network], interface: str, *, asked: str) -> None:
    """Raises Conflict."""
    where = place.existing(store)
    there = links.interfaces(where.routes) if where is not None else []
    if interface in [*(one.interface for one in others if one.is_bridge), *(there if asked else ())]:
        raise Conflict(f"the interface {interface} is in use", hint="choose another name")


def _with_chosen(store: Store, wanted: Wanted, subnets: Sequence[Subnet], others: Sequence[Network]) -> list[Subnet]:
    """Refuse subnets that are in use, and add those that are missing. Raises Conflict."""
    where = place.existing(store)
    used: list[tuple[str, Range]] = [
        (f"the network {one.name}", ip_network(subnet.subnet)) for one in others for subnet in one.subnets
    ]
    if where is not None:
        used += [(f"the interface {name}", net) for name, net in links.routes(where.routes)]
    for one in subnets:
        net = ip_network(one.subnet)
        for user, other in used:
            if net.version == other.version and net.overlaps(other):
                raise Conflict(f"the subnet {net} is in use by {user} ({other})", hint="choose another --subnet")
    found = list(subnets)
    kinds = {ip_network(one.subnet).version for one in subnets}
    if not kinds:
        start = int(digest(f"{store.paths.root} {wanted.name}")[:8], 16)
        chosen = addresses.free_subnet([net for _, net in used], start)
        found.append(Subnet(str(chosen), str(chosen.network_address + 1)))
    if wanted.ipv6 and 6 not in kinds:
        local = addresses.local_subnet(os.urandom(7))
        found.append(Subnet(str(local), str(local.network_address + 1)))
    return found
