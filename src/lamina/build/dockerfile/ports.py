"""The ports of EXPOSE (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from lamina.errors import UsageError

_HINT = "write them like 80, 80/tcp or 8000-8010/udp"


def exposed_ports(words: Iterable[str]) -> list[str]:
    """Each port with its protocol, like ``80/tcp``: ranges are listed port by port; addresses and ports of the host
    are dropped, as docker drops them. Raises UsageError."""
    return [port for word in words for port in _ports(word)]


def _ports(word: str) -> Iterator[str]:
    address, host, inside = split_port(word)
    ports, _, protocol = inside.partition("/")
    protocol = protocol or "tcp"
    if not ports or protocol.lower() not in ("tcp", "udp", "sctp"):
        raise UsageError(f"not a port: {word!r:.100}", hint=_HINT)
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise UsageError(f"not a port: {word!r:.100} (a bad address)", hint=_HINT) from None
    first, last = _range(word, ports)
    if host:
        begin, end = _range(word, host)
        if last - first != end - begin and last != first:
            raise UsageError(f"the ranges of ports differ in length: {word!r:.100}", hint=_HINT)
    for port in range(first, last + 1):
        yield f"{port}/{protocol.lower()}"


def split_port(word: str) -> tuple[str, str, str]:
    """The address, the port of the host, and the port with its protocol."""
    parts = word.split(":")
    if len(parts) < 3:
        return "", parts[0] if len(parts) == 2 else "", parts[-1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _range(word: str, text: str) -> tuple[int, int]:
    start, dash, end = text.partition("-")
    first = _number(word, start)
    last = _number(word, end) if dash and end != start else first
    if last < first:
        raise UsageError(f"not a range of ports: {word!r:.100}", hint=_HINT)
    return first, last


def _number(word: str, text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20 or not 0 <= int(text) <= 65535:
        raise UsageError(f"not a port: {word!r:.100}", hint=_HINT)
    return int(text)
