"""docker's syntax of published and exposed ports (pure)."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.options import Port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.run.options import ContainerOptions

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORTS = 4096
"""How many ports one container may publish: each takes one or two descriptors of the process that forwards."""
_HINT = "write it like 8080:80, 127.0.0.1:8080:80, [::1]:53:53/udp, 8000-8010:80-90 or 80"


def parse_published(words: Iterable[str]) -> tuple[Port, ...]:
    """``[[ADDRESS:]HOST_PORT:]PORT[/PROTOCOL]`` each; both ports may be ranges of the same length, and the host's may
    be a range from which one is chosen. Equal ones count once. Raises UsageError."""
    found: dict[Port, None] = {}
    for word in words:
        for port in _parse(word):
            found[port] = None
            if len(found) > MAX_PORTS:
                raise UsageError(f"more than {MAX_PORTS} published ports", hint="use --network host")
    check_overlaps(tuple(found))
    return tuple(found)


def _parse(word: str) -> list[Port]:
    rest, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise UsageError(f"--publish {word!r:.100}: unknown protocol", hint="use tcp, udp or sctp")
    *before, inside = rest.split(":")
    outside = before.pop() if before else ""
    address = _address(":".join(before), word) if before else ""
    first, last = _range(inside, word, least=1)
    if not outside:
        return [Port(number, 0, address, protocol) for number in range(first, last + 1)]
    host, host_last = _range(outside, word, least=0)
    if first == last and host < host_last:
        return [Port(first, host, address, protocol, host_last)]
    if last - first != host_last - host:
        raise UsageError(f"--publish {word!r:.100}: the ranges differ in length", hint=_HINT)
    return [Port(first + step, host + step if host else 0, address, protocol) for step in range(last - first + 1)]


def _address(word: str, whole: str) -> str:
    bare = word[1:-1] if word.startswith("[") and word.endswith("]") else word
    if not bare:
        if word:
            raise UsageError(f"--publish {whole!r:.100}: no address in brackets", hint=_HINT)
        return ""
    return parse_host_address(bare, f"--publish {whole!r:.100}")


def parse_host_address(word: str, what: str) -> str:
    """An address of this host. Raises UsageError."""
    import ipaddress

    try:
        found = ipaddress.ip_address(word)
    except ValueError:
        raise UsageError(f"{what}: {word!r:.60} is not an address", hint=_HINT) from None
    if found.is_multicast or getattr(found, "scope_id", None):
        raise UsageError(f"{what}: {word!r:.60} is not the address of one host", hint=_HINT)
    return str(getattr(found, "ipv4_mapped", None) or found)


def _range(word: str, whole: str, *, least: int) -> tuple[int, int]:
    first, dash, last = word.partition("-")
    low, high = _number(first, whole, least), _number(last if dash else first, whole, least)
    if low > high or (dash and not low):
        raise UsageError(f"--publish {whole!r:.100}: {word!r:.40} is not a range", hint=_HINT)
    return low, high


def _number(word: str, whole: str, least: int) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 5 and least <= int(word) < 1 << 16):
        raise UsageError(f"--publish {whole!r:.100}: {word!r:.40} is not a port from 1 to 65535", hint=_HINT)
    return int(word)


def check_overlaps(ports: Sequence[Port]) -> None:
    """Refuse two ports of a container at the same place of this host. Raises UsageError."""
    taken: dict[tuple[str, int], list[str]] = {}
    for port in ports:
        if not port.host_port or port.host_last:
            continue
        others = taken.setdefault((port.protocol, port.host_port), [])
        if any(_overlap(port.address, other) for other in others):
            raise UsageError(
                f"port {port.host_port}/{port.protocol} of this host is published twice",
                hint="give each port of the container another port of the host",
            )
        others.append(port.address)


def _overlap(one: str, other: str) -> bool:
    """Whether two addresses of this host have one in common; "" means all."""
    pair = {one, other}
    if "" in pair or len(pair) == 1:
        return True
    return (":" in one) == (":" in other) and bool(pair & {"0.0.0.0", "::"})


def expand_exposed(words: Iterable[str], most: int = MAX_PORTS) -> list[tuple[int, str]]:
    """The ports of ``--expose`` and of an image's ExposedPorts: (port, protocol). Values that are not ports are left
    out: an image may hold anything. At most ``most`` of them."""
    found: dict[tuple[int, str], None] = {}
    for word in words:
        numbers, _, protocol = word.partition("/")
        first, dash, last = numbers.partition("-")
        ends = [first, last if dash else first]
        if not all(one.isascii() and one.isdigit() and 0 < len(one) <= 5 for one in ends):
            continue
        if (protocol or "tcp").lower() not in PROTOCOLS or not 0 < int(ends[0]) <= int(ends[1]) < 1 << 16:
            continue
        for number in range(int(ends[0]), min(int(ends[1]), int(ends[0]) + most) + 1):
            found[number, (protocol or "tcp").lower()] = None
    return list(found)[:most]


def all_ports(wanted: ContainerOptions, exposed: Mapping[str, object] | Iterable[str]) -> tuple[Port, ...]:
    """The ports to publish: those that were asked for and, with ``--publish-all``, every exposed one that is not
    published yet, at a free port. ``exposed``: of the image. Without an address they get the default one. Raises
    UsageError (too many)."""
    found = list(wanted.ports)
    if wanted.publish_all:
        known = {(port.port, port.protocol) for port in found}
        every = expand_exposed((*exposed, *wanted.expose), MAX_PORTS + 1)
        found += [Port(port, 0, "", protocol) for port, protocol in every if (port, protocol) not in known]
        if len(found) > MAX_PORTS:
            raise UsageError(
                f"--publish-all: more than {MAX_PORTS} ports", hint="publish those that you need with -p"
            )
    return tuple(
        port
        if port.address
        else Port(port.port, port.host_port, wanted.publish_address, port.protocol, port.host_last)
        for port in found
    )
