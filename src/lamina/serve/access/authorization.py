"""The Authorization header (RFC 7617, RFC 6750) and its counterpart, the challenge (pure)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lamina.serve.access.scopes import Scope

MAX_HEADER = 48 << 10
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Basic:
    name: str
    password: str

    def __repr__(self) -> str:
        return f"Basic({self.name!r})"


@dataclass(frozen=True, slots=True)
class Bearer:
    token: str

    def __repr__(self) -> str:
        return "Bearer()"


def parse_authorization(text: str | None) -> Basic | Bearer | None:
    """Parse the header; None if there is none. Raises ValueError (another scheme, or invalid) with words."""
    if text is None or not text.strip():
        return None
    if len(text) > MAX_HEADER:
        raise ValueError("the Authorization header is too large")
    scheme, _, rest = text.strip().partition(" ")
    if scheme.lower() == "bearer":
        return Bearer(rest.strip())
    if scheme.lower() != "basic":
        raise ValueError("only Basic and Bearer are supported")
    try:
        pair = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise ValueError("the credentials are not base64 of UTF-8") from None
    name, colon, password = pair.partition(":")
    if not colon:
        raise ValueError("the credentials have no colon")
    return Basic(name, password)


def bearer_challenge(realm: str, service: str, scopes: Iterable[Scope] = (), error: str = "") -> str:
    """The value of WWW-Authenticate that sends a client to the token endpoint."""
    parts = [f'realm="{realm}"', f'service="{service}"']
    scope = " ".join(map(str, scopes))
    if scope:
        parts.append(f'scope="{scope}"')
    if error:
        parts.append(f'error="{error}"')
    return "Bearer " + ",".join(parts)


def basic_challenge(service: str) -> str:
    return f'Basic realm="{service}",charset="UTF-8"'


def is_host(text: str) -> bool:
    """Whether a Host header is a host with or without a port; it goes into the realm."""
    return _HOST.fullmatch(text) is not None
