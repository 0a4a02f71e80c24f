"""Networks as docker shows them: filters, and the document of `network inspect`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.errors import UsageError
from lamina.light import Value
from lamina.run.networks.catalog import Catalog, builtin
from lamina.run.networks.connection import running_on
from lamina.spec.moment import parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.run.networks.record import Network
    from lamina.store.containers import Container
    from lamina.store.store import Store

LISTED = ("dangling", "driver", "id", "label", "name", "scope", "type", "until")
PRUNED = ("label", "label!", "until")
_NEVER = "0001-01-01T00:00:00Z"


class Filters(Value):
    """``given``: (key, value) each. Values of one key are alternatives, but all labels must match."""

    given: tuple[tuple[str, str], ...] = ()
    before: float | None = None

    @staticmethod
    def parse(words: Iterable[str], known: Sequence[str]) -> Filters:
        """Raises UsageError."""
        found, before = [], None
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise UsageError(f"--filter {word!r:.60} is not KEY=VALUE", hint="use " + ", ".join(known))
            if key not in known:
                raise UsageError(f"unknown filter {key!r:.60}", hint="use " + ", ".join(known))
            if key == "until":
                before = parse_moment(value, time.time_ns()) / 1e9
            elif (key == "dangling" and value not in ("true", "false", "1", "0")) or (
                key == "type" and value not in ("custom", "builtin")
            ):
                raise UsageError(f"--filter {word!r:.60} is unknown", hint="use dangling=true or type=custom")
            else:
                found.append((key, value))
        return Filters(tuple(found), before)

    def accept(self, network: Network, *, is_used: bool) -> bool:
        if self.before is not None and not network.created < self.before:
            return False
        labels = dict(network.labels)
        for key in dict(self.given):
            values = [value for one, value in self.given if one == key]
            if key == "label":
                if not all(_has(labels, value) for value in values):
                    return False
            elif key == "label!":
                if any(_has(labels, value) for value in values):
                    return False
            elif not any(_matches(network, key, value, is_used) for value in values):
                return False
        return True


def _has(labels: Mapping[str, str], word: str) -> bool:
    name, equals, value = word.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _matches(network: Network, key: str, value: str, is_used: bool) -> bool:
    if key == "name":
        try:
            return bool(re.search(value, network.name))
        except re.error:
            return value in network.name
    if key == "id":
        return network.id.startswith(value)
    if key == "driver":
        return network.driver == value
    if key == "type":
        return (value == "builtin") == is_builtin(network)
    if key == "dangling":
        return (value in ("true", "1")) == (not is_used and not is_builtin(network))
    return value == "local"  # scope


def is_builtin(network: Network) -> bool:
    return network.name in [one.name for one in builtin()]


def used_names(store: Store) -> set[str]:
    """The networks that containers name, running or not."""
    found = {name for _, networks in running_on(store) for name in networks}
    for container in store.containers.every():
        found |= set(asked_names(container))
    return found


def asked_names(container: Container) -> list[str]:
    """The networks with names that the container is to be on."""
    return [str(one["name"]) for one in _asked(container)]


def _asked(container: Container) -> list[Mapping[str, Any]]:
    found = (container.wanted or {}).get("networks")
    return [one for one in found if isinstance(one, dict) and "name" in one] if isinstance(found, list) else []


def every(store: Store) -> list[Network]:
    """lamina's own networks and those that people made, by name."""
    return sorted([*builtin(), *Catalog(store).every()], key=lambda one: one.name)


def described(store: Store, network: Network) -> dict[str, Any]:
    """docker's document of a network."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": _time(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": None if is_builtin(network) else {},
            "Config": [
                {
                    "Subnet": one.subnet,
                    **({"IPRange": one.ip_range} if one.ip_range else {}),
                    **({"Gateway": one.gateway} if one.gateway else {}),
                }
                for one in network.subnets
            ],
        },
        "Internal": network.internal and not is_builtin(network),
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            container.id: _member(container, networks[network.name])
            for container, networks in running_on(store, network.name)
        },
        "Options": {
            **dict(network.options),
            **({"com.docker.network.bridge.name": network.interface} if network.is_bridge else {}),
        },
        "Labels": dict(network.labels),
    }


def _member(container: Container, one: Mapping[str, Any]) -> dict[str, Any]:
    addresses = [str(word) for word in one.get("addresses", ())]
    return {
        "Name": container.name,
        "EndpointID": str(one.get("endpoint", "")),
        "MacAddress": str(one.get("mac", "")),
        "IPv4Address": next((word for word in addresses if ":" not in word), ""),
        "IPv6Address": next((word for word in addresses if ":" in word), ""),
    }


def _time(seconds: float) -> str:
    if not seconds:
        return _NEVER
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return _NEVER
