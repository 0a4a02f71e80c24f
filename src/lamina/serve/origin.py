"""Keeps web pages away from what a browser would let them do (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from lamina.remote.loopback import is_loopback
from lamina.serve.routes import ApiError

FOR_BROWSERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of each response of the registry. Clients upload documents and blobs, and a mirrored registry chooses their
media types: a browser must not take one for a page or a script of this server, nor show it to another site."""


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


def check_page(method: str, headers: Mapping[str, str]) -> None:
    """Refuse what a web page may not do: changes, from any page, and requests for pages of other sites. A browser
    sends the login and the client certificate of its user also for those: what loads and what does not would tell
    which images exist. A link to this server may be followed. Clients of registries send none of these headers.
    Raises ApiError."""
    if method not in ("GET", "HEAD") and ("Origin" in headers or "Sec-Fetch-Site" in headers):
        raise ApiError(403, "DENIED", "a web page can't change anything in this registry")
    if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _is_link(headers):
        raise ApiError(403, "DENIED", "a web page of another site can't read this registry")


def _is_link(headers: Mapping[str, str]) -> bool:
    """Whether a browser shows the answer as a page of its own."""
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
