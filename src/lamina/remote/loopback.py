"""Detection of loopback hosts (pure): only they may use plain http and servers without a password."""

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
