"""What trusted proxies say about the client (pure): X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lamina.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")
MOST_HOPS = 32
_BY_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers that proxies add. A client that adds them itself gains nothing: it loses what is for this machine alone."""


@dataclass(frozen=True)
class Client:
    """Where a request comes from, and how the client addressed the server. ``address`` is "" for a Unix socket.
    ``relayed``: a proxy that is not trusted has passed the request on, so the address is not that of the client."""

    address: str
    scheme: str
    host: str
    relayed: bool = False


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse addresses and networks (10.0.0.0/8); "unix" stands for clients of a Unix socket and is left out. Raises
    UsageError."""
    found = []
    for text in texts:
        if text == "unix":
            continue
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise UsageError(
                f"{text!r:.100} is not an address or a network", hint="give 10.1.2.3, 10.0.0.0/8 or unix"
            ) from None
    return tuple(found)


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; IPv4 in IPv6 (::ffff:10.1.2.3) counts as IPv4."""
    parsed = _address(address)
    return parsed is not None and any(parsed.version == one.version and parsed in one for one in networks)


def client_of(
    peer: Client, headers: Mapping[str, str], trusted: Sequence[Network], trust_unix: bool = False
) -> Client:
    """Return the client of a request that ``peer`` has sent. The headers count only if the peer is trusted; of the
    addresses in X-Forwarded-For, the last one that is not a trusted proxy."""
    if not (is_in(peer.address, trusted) if peer.address else trust_unix):
        return replace(peer, relayed=any(name in headers for name in _BY_PROXIES))
    address = peer.address
    hops = headers.get("x-forwarded-for", "").split(",")[-MOST_HOPS:]
    for hop in reversed(hops):
        parsed = _address(_without_port(hop.strip()).partition("%")[0])  # a zone is free text
        if parsed is None:
            break
        address = str(parsed)
        if not is_in(address, trusted):
            break
    scheme = headers.get("x-forwarded-proto", "").split(",")[-1].strip().lower()
    host = headers.get("x-forwarded-host", "").split(",")[-1].strip()
    return Client(
        address,
        scheme if scheme in ("http", "https") else peer.scheme,
        host if _HOST.fullmatch(host) else peer.host,
    )


def host_of(header: str) -> str:
    """Return the Host header if it is a host with or without a port; "" if it is not."""
    return header if _HOST.fullmatch(header) else ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
