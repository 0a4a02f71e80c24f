"""What counts as one client, for limits of each (pure)."""

from __future__ import annotations

import ipaddress

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.serve.http_message import Asker


def client_key(asker: Asker) -> str:
    """A user, or an address without one; "" for an unknown client of a Unix socket."""
    return f"user {asker.name}" if asker.name else address_key(asker.address)


def address_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
