"""``NetworkSettings`` of docker's inspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lamina.run.inspection.host_config import network_mode
from lamina.run.options import OWN_NETWORK

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions

BRIDGE = "bridge"
"""docker's name of the default network."""


def network_settings(
    wanted: ContainerOptions, connected: Mapping[str, Mapping[str, Any]], ports: Mapping[str, Any]
) -> dict[str, Any]:
    """``connected``: the networks that the container is on while it runs, by name, as ``network.json`` has them.
    ``ports``: the published and exposed ones."""
    return {
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": dict(ports),
        "SandboxKey": "",
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
        "Networks": {name: _endpoint(one) for name, one in sorted(_networks(wanted, connected).items())},
    }


def network_names(wanted: ContainerOptions, connected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The networks of a container, as `ps` lists them."""
    return sorted(_networks(wanted, connected))


def _networks(wanted: ContainerOptions, connected: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {one.name: {} for one in wanted.networks} | dict(connected)
    mode = network_mode(wanted)
    if found or mode.startswith(("container:", "ns:")):
        return found
    return {BRIDGE if mode in (*OWN_NETWORK, "pasta") else mode: {}}


def _endpoint(_connected: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": "",
        "DriverOpts": None,
    }
