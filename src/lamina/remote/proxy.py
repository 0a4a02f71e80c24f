"""The proxy for a host: HTTPS_PROXY, HTTP_PROXY and NO_PROXY as Go's clients (docker, podman, crane) read them
(golang.org/x/net/http/httpproxy)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping

from lamina.remote.loopback import is_loopback

_PORTS = {"http": 80, "https": 443}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(scheme: str, host: str, port: int | None, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the proxy's URL; None if there is none, and for loopback hosts. ``environ`` replaces the environment,
    and the system settings of Windows and macOS."""
    if is_loopback(host):
        return None
    port = port or _PORTS.get(scheme, 0)
    variables = os.environ if environ is None else environ
    proxy = _named(variables, f"{scheme}_proxy") or _named(variables, "all_proxy")
    if scheme == "http" and variables.get("REQUEST_METHOD"):
        proxy = ""  # a CGI script gets HTTP_PROXY from a request header "Proxy"
    if proxy:
        return None if is_direct(_named(variables, "no_proxy"), host, port) else _with_scheme(proxy)
    if environ is None:
        return _of_the_system(scheme, host)
    return None


def is_direct(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY contains this host (pure): ``*``, an IP address, a range of addresses (10.0.0.0/8), a domain
    with its subdomains (example.com), only subdomains (.example.com, *.example.com); all but the first two may have a
    port."""
    host = host.strip("[]").rstrip(".").lower()
    address = _address(host)
    for entry in no_proxy.lower().split(","):
        entry = entry.strip()
        if entry == "*" or (entry and _fits(entry, host, address, port)):
            return True
    return False


def _fits(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
        return address is not None and address in network
    name, wanted = _split(entry)
    if wanted is not None and wanted != str(port):
        return False
    if not name:
        return False
    stated = _address(name)
    if stated is not None or address is not None:
        return stated == address
    name = name.removeprefix("*") if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _split(entry: str) -> tuple[str, str | None]:
    """Split host and port; an IPv6 address with a port has brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest[1:] if rest.startswith(":") else None
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, None


def _address(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _named(environ: Mapping[str, str], name: str) -> str:
    """Look up a variable, in capitals first, as Go does."""
    return environ.get(name.upper()) or environ.get(name) or ""


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _of_the_system(scheme: str, host: str) -> str | None:
    """Return the proxy of the system settings of Windows and macOS."""
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get(scheme)
    return None if not proxy or proxy_bypass(host) else _with_scheme(proxy)
