"""A network: what its record in the store says (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.errors import StoreDamaged, UsageError
from lamina.light import TYPE_CHECKING, Value, as_dict, pattern

if TYPE_CHECKING:
    from typing import Any

BRIDGE, MACVLAN, IPVLAN = "bridge", "macvlan", "ipvlan"
_VERSION = 1
_NAME = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_RESERVED = (
    *("host", "none", "default", "bridge", "private", "podman", "pasta", "slirp4netns"),
    *("container", "ns", "pod", "auto", "aardvark.pid"),
)
_MAX_NAME = 200
_INTERFACE = pattern(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")
_MAX_INTERFACE = 15  # netdevice(7), IFNAMSIZ
_LATEST = 1 << 37  # seconds: some thousand years


class Subnet(Value):
    """``subnet``: like 10.89.1.0/24. ``gateway``: "" for none. ``ip_range``: as it was asked for, "" for all
    addresses; ``first``, ``last``: the addresses that containers get by themselves, "" for the subnet's."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    first: str = ""
    last: str = ""


class Network(Value):
    """``interface``: of the host: the bridge, or the parent of a macvlan. ``internal``: without a way out.
    ``dns``: names of containers are resolved. ``options``: of the driver. ``created``: seconds since 1970."""

    name: str
    id: str
    driver: str = BRIDGE
    interface: str = ""
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    ipv6: bool = False
    dns: bool = True
    dns_servers: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    created: float = 0.0

    @property
    def is_bridge(self) -> bool:
        return self.driver == BRIDGE

    @property
    def is_closed(self) -> bool:
        """Whether containers of other networks do not reach those of this one, as with docker."""
        return self.is_bridge and self.option("isolate") != "false"

    def option(self, name: str) -> str:
        return dict(self.options).get(name, "")


def parse_network_name(word: str) -> str:
    """The name of a network that can be made. Raises UsageError."""
    if word in _RESERVED:
        raise UsageError(f"{word!r} is a network of lamina's own", hint="choose another name")
    if not _NAME.fullmatch(word) or len(word) > _MAX_NAME:
        raise UsageError(f"{word!r:.100} is not a network name", hint="use letters, digits, _ . and -")
    return word


def is_network_name(word: str) -> bool:
    return bool(_NAME.fullmatch(word)) and len(word) <= _MAX_NAME and word not in _RESERVED


def to_json(network: Network) -> dict[str, Any]:
    """The record of a network, as JSON."""
    found: dict[str, Any] = {"version": _VERSION, **as_dict(network)}
    found["subnets"] = [as_dict(one) for one in network.subnets]
    return found


def from_json(value: Any, name: str) -> Network:
    """What ``to_json`` was given. ``name``: of the network, for the error. Raises StoreDamaged."""
    try:
        if value["version"] != _VERSION:
            raise ValueError("version")
        known = {key: item for key, item in value.items() if key in Network.__match_args__}
        known["subnets"] = tuple(_subnet(one) for one in known.get("subnets", ()))
        for key in ("labels", "options"):
            known[key] = tuple((str(first), str(second)) for first, second in known.get(key, ()))
        known["dns_servers"] = tuple(map(str, known.get("dns_servers", ())))
        network = Network(**known)
        _check(network)
        return network
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StoreDamaged(
            f"the record of the network {name!r:.100} is damaged",
            hint=f"remove it with `lamina network rm {name}`, and create it again",
        ) from None


def _check(network: Network) -> None:
    """Refuse what `network create` does not make: the record decides about interfaces and routes of the host. Raises
    ValueError, TypeError."""
    import ipaddress

    defaults = as_dict(Network("", ""))
    for key, default in defaults.items():
        kinds = (float, int) if key == "created" else type(default)
        if not isinstance(getattr(network, key), kinds):
            raise TypeError(key)
    if not 0 <= network.created < _LATEST:
        raise ValueError("created")
    if not is_network_name(network.name) or (network.interface and not is_interface_name(network.interface)):
        raise ValueError("name")
    texts = [network.id, network.driver, *(word for pair in (*network.labels, *network.options) for word in pair)]
    "".join(texts).encode()  # a UnicodeEncodeError is a ValueError
    for address in network.dns_servers:
        ipaddress.ip_address(address)
    for one in network.subnets:
        net = ipaddress.ip_network(one.subnet)
        for word in filter(None, (one.gateway, one.first, one.last)):
            if ipaddress.ip_address(word) not in net:
                raise ValueError("subnets")


def is_interface_name(word: str) -> bool:
    return len(word) <= _MAX_INTERFACE and bool(_INTERFACE.fullmatch(word))


def _subnet(value: Mapping[str, Any]) -> Subnet:
    found = Subnet(**{key: item for key, item in value.items() if key in Subnet.__match_args__})
    if not all(isinstance(item, str) for item in as_dict(found).values()):
        raise TypeError("subnets")
    return found
