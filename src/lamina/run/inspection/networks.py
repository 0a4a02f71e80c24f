"""``NetworkSettings`` of docker's inspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lamina.run.inspection.host_config import network_mode
from lamina.run.options import OWN_NETWORK

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions, NetworkEndpoint

BRIDGE = "bridge"
"""docker's name of the default network."""


def network_settings(
    identity: str,
    wanted: ContainerOptions,
    connected: Mapping[str, Mapping[str, Any]],
    ports: Mapping[str, Any],
    *,
    ids: Mapping[str, str],
    pid: int,
) -> dict[str, Any]:
    """``identity``: of the container. ``connected``: the networks that the container is on while it runs, by name, as
    ``network.json`` has them. ``ports``: the published and exposed ones. ``ids``: of networks by name; empty if it
    was never started. ``pid``: of its first process, 0 if it does not run."""
    asked = {one.name: one for one in wanted.networks}
    return {
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": dict(ports),
        "SandboxKey": f"/proc/{pid}/ns/net" if pid and not is_shared(wanted) else "",
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": {
            name: _endpoint(identity if ids else "", asked.get(name), one) | {"NetworkID": ids.get(name, "")}
            for name, one in sorted(_networks(wanted, connected).items())
        },
    }


def is_shared(wanted: ContainerOptions) -> bool:
    """Whether it has the network of another container, or a namespace that somebody else made."""
    return network_mode(wanted).startswith(("container:", "ns:"))


def network_names(wanted: ContainerOptions, connected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The networks of a container, as `ps` lists them."""
    return sorted(_networks(wanted, connected))


def _networks(wanted: ContainerOptions, connected: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {one.name: {} for one in wanted.networks} | dict(connected)
    mode = network_mode(wanted)
    if found or is_shared(wanted):
        return found
    return {BRIDGE if mode in (*OWN_NETWORK, "pasta") else mode: {}}


def _endpoint(identity: str, asked: NetworkEndpoint | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """``identity``: "" if the container was never started. ``asked``: what it asks of the network. ``now``: what it
    has there while it runs."""
    addresses, gateways = _words(now, "addresses"), _words(now, "gateways")
    four, six = _of(addresses, version=4), _of(addresses, version=6)
    static = {"IPv4Address": asked.ip, "IPv6Address": asked.ip6} if asked else {}
    aliases = [*(asked.aliases if asked else _words(now, "aliases")), *((identity[:12],) if identity else ())]
    return {
        "IPAMConfig": {key: word for key, word in static.items() if word} or None,
        "Links": None,
        "Aliases": (aliases or None) if asked or now else None,
        "NetworkID": "",
        "EndpointID": str(now.get("endpoint", "")),
        "Gateway": _of(gateways, version=4),
        "IPAddress": four.partition("/")[0],
        "IPPrefixLen": int(four.partition("/")[2] or 0),
        "IPv6Gateway": _of(gateways, version=6),
        "GlobalIPv6Address": six.partition("/")[0],
        "GlobalIPv6PrefixLen": int(six.partition("/")[2] or 0),
        "MacAddress": str(now.get("mac", "")),
        "DriverOpts": None,
    }


def _words(now: Mapping[str, Any], key: str) -> list[str]:
    found = now.get(key)
    return [str(word) for word in found] if isinstance(found, list) else []


def _of(addresses: Iterable[str], *, version: int) -> str:
    return next((one for one in addresses if (":" in one) == (version == 6)), "")
