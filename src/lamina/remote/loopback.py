"""Detection of loopback hosts (pure): only they may use plain http and servers without a password. And of what only
this machine reaches: a registry elsewhere may not lead there."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether it is localhost, 127.0.0.0/8 or ::1; names are not resolved."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_OF_CLOUDS = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Where clouds tell a machine its own credentials, beside the link-local 169.254.169.254."""


def is_of_this_machine(host: str) -> bool:
    """Whether it is an address that means another machine to everyone who names it: loopback, link-local, or where
    clouds tell a machine its own credentials. In any notation that resolvers take (127.1, 2130706433); names are not
    resolved."""
    from socket import inet_aton

    host = host.strip("[]").rstrip(".").partition("%")[0]
    if is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(inet_aton(host))
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _OF_CLOUDS
