"""``--network``, ``--network-alias``, ``--ip``, ``--ip6`` and ``--mac-address`` (pure): docker's and podman's
forms."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING, pattern, replace
from lamina.run.networks.addresses import parse_address, parse_mac
from lamina.run.networks.record import is_network_name
from lamina.run.options import NETWORKS, OWN_NETWORK, NetworkEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ALIAS = pattern(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?")
_HINT = "write it like front, name=front,alias=web,ip=10.89.0.9 or front:alias=web,ip=10.89.0.9"
_KEYS = {"alias": "alias", "ip": "ip", "ip6": "ip6", "mac": "mac", "mac-address": "mac", "mac_address": "mac"}


def parse_networks(
    words: Iterable[str], aliases: Sequence[str] = (), ip: str = "", ip6: str = "", mac: str = ""
) -> tuple[str, tuple[NetworkEndpoint, ...]]:
    """The kind of the network (the last one that was given), and the networks with names: one of both is empty.
    Raises UsageError."""
    kinds: list[str] = []
    found: list[NetworkEndpoint] = []
    for word in _separated(words):
        if _is_kind(word):
            kinds.append(word)
        elif _is_default(word):
            kinds.append(word.partition(":")[0])
        else:
            found += _endpoints(word)
    if kinds and found:
        raise UsageError(
            f"--network {kinds[0]!r:.80} can't be combined with another network", hint="leave one of them out"
        )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise UsageError(f"--network {max(names, key=names.count)} is given twice", hint="give each network once")
    if not found:
        _refuse_details(aliases, ip, ip6, mac)
        return (kinds[-1] if kinds else ""), ()
    if (ip or ip6 or mac) and len(found) > 1:
        raise UsageError(
            "--ip, --ip6 and --mac-address are for one network", hint="write --network NAME:ip=ADDRESS for each"
        )
    more = endpoint("", aliases, ip, ip6, mac)
    return "", tuple(
        replace(
            one,
            aliases=tuple(dict.fromkeys((*one.aliases, *more.aliases))),
            ip=one.ip or more.ip,
            ip6=one.ip6 or more.ip6,
            mac=one.mac or more.mac,
        )
        for one in found
    )


def _separated(words: Iterable[str]) -> list[str]:
    """podman's lists of names in one word, as several words."""
    found: list[str] = []
    for word in words:
        found += [word] if set(word) & set(":=") else word.split(",")
    return found


def _is_kind(word: str) -> bool:
    return word in (*NETWORKS, *OWN_NETWORK) or word.startswith(("container:", "ns:"))


def _is_default(word: str) -> bool:
    """Whether it means the default network with aliases: nobody else is in it who could use them, as in podman's
    network without name servers. podman-compose asks for that."""
    name, colon, rest = word.partition(":")
    return bool(colon) and name in OWN_NETWORK[1:] and all(item.startswith("alias=") for item in rest.split(","))


def _refuse_details(aliases: Sequence[str], ip: str, ip6: str, mac: str) -> None:
    given = {"--network-alias": aliases, "--ip": ip, "--ip6": ip6, "--mac-address": mac}
    for flag, value in given.items():
        if value:
            raise UsageError(
                f"{flag} needs a network with a name", hint="create one with `lamina network create`, and name it"
            )


def _endpoints(word: str) -> list[NetworkEndpoint]:
    if word.startswith("name=") or ",name=" in word:  # docker's long form
        pairs = _pairs(word, word)
        names = [value for key, value in pairs if key == "name"]
        return [_endpoint(names[-1], [pair for pair in pairs if pair[0] != "name"], word)]
    name, colon, rest = word.partition(":")
    if colon:
        return [_endpoint(name, _pairs(rest, word), word)]
    return [_endpoint(name, [], word)]


def _pairs(text: str, whole: str) -> list[tuple[str, str]]:
    found = []
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UsageError(f"--network {whole!r:.100}: {item!r:.60} is not KEY=VALUE", hint=_HINT)
        found.append((key, value))
    return found


def _endpoint(name: str, pairs: Sequence[tuple[str, str]], whole: str) -> NetworkEndpoint:
    if not is_network_name(name):
        raise UsageError(f"--network {whole!r:.100}: {name!r:.60} is not the name of a network", hint=_HINT)
    aliases, values = [], {"ip": "", "ip6": "", "mac": ""}
    for key, value in pairs:
        field = _KEYS.get(key)
        if field is None:
            raise UsageError(f"--network {whole!r:.100}: unknown option {key!r:.60}", hint=_HINT)
        if field == "alias":
            aliases.append(parse_alias(value))
        elif field == "mac":
            values["mac"] = parse_mac(value, f"--network {key}")
        elif field == "ip" and ":" in value:  # podman has one key for both
            values["ip6"] = value
        else:
            values[field] = value
    ip, ip6 = _addresses(values["ip"], values["ip6"])
    return NetworkEndpoint(name, tuple(aliases), ip, ip6, values["mac"])


def endpoint(name: str, aliases: Sequence[str], ip: str, ip6: str, mac: str) -> NetworkEndpoint:
    """A container on the network ``name``, as it was asked for. Raises UsageError."""
    return NetworkEndpoint(
        name, tuple(map(parse_alias, aliases)), *_addresses(ip, ip6), parse_mac(mac) if mac else ""
    )


def _addresses(ip: str, ip6: str) -> tuple[str, str]:
    found = []
    for word, flag, version in ((ip, "--ip", 4), (ip6, "--ip6", 6)):
        if word and parse_address(word, flag).version != version:
            raise UsageError(f"{flag} {word!r:.60} is not an address of IPv{version}", hint="use --ip or --ip6")
        found.append(str(parse_address(word, flag)) if word else "")
    return found[0], found[1]


def parse_alias(word: str) -> str:
    """A further name of a container on a network. Raises UsageError."""
    if not _ALIAS.fullmatch(word):
        raise UsageError(f"{word!r:.100} is not a network alias", hint="use letters, digits, _ . and -")
    return word
