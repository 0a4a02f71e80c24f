"""Keeps web pages away from what a browser would let them do (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from lamina.remote.loopback import is_loopback
from lamina.serve.routes import ApiError


def check_local(headers: Mapping[str, str]) -> None:
    """Refuse web pages of other sites: those whose domain resolves to this machine (DNS rebinding), and those that
    send requests here. Pages of the registry itself may ask it. Raises ApiError."""
    host = headers.get("Host", "localhost").strip()
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    origin = headers.get("Origin")
    if not is_loopback(name) or (origin and not _is_of(origin, host)):
        raise ApiError(
            403,
            "DENIED",
            "this registry only answers requests to names of this machine that are not from a web page",
        )


def check_change(method: str, headers: Mapping[str, str]) -> None:
    """Refuse changes that a web page asks for: a browser sends the login and the client certificate of its user also
    for the pages of others. Clients of registries send neither of these headers. Raises ApiError."""
    if method not in ("GET", "HEAD") and ("Origin" in headers or "Sec-Fetch-Site" in headers):
        raise ApiError(403, "DENIED", "a web page can't change anything in this registry")


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
