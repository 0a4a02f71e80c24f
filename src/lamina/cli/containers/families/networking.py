"""Options of `run`: the networks of the container."""

from __future__ import annotations

from lamina.cli.option_table import MANY, Option
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

OPTIONS = (
    Option(
        ("--network", "--net"),
        "network",
        "Network to use, by kind or by name (default: pasta if it is installed, else none).",
        "pasta|none|host|NAME[:ip=...,alias=...]",
        MANY,
    ),
    Option(("--network-alias", "--net-alias"), "network_alias", "Further name on its networks.", "NAME", MANY),
    Option(("--ip",), "ip", "Address on its network.", "ADDRESS"),
    Option(("--ip6",), "ip6", "Address of IPv6 on its network.", "ADDRESS"),
    Option(("--mac-address",), "mac_address", "Hardware address on its network.", "ADDRESS"),
)


def parsed(given: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError."""
    words = given["network"]
    details = given["network_alias"] or given["ip"] or given["ip6"] or given["mac_address"]
    if words in (("host",), ("none",), ("pasta",)) and not details:
        return {"network": words[0]}  # the usual ones, without what parses addresses
    from lamina.run.networks.syntax import parse_networks

    mac = given["mac_address"]
    network, networks = parse_networks(words, given["network_alias"], given["ip"], given["ip6"], mac)
    return {"network": network, "networks": networks}
