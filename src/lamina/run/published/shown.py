"""Published ports as docker shows them (pure)."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value
from lamina.run.published.syntax import expand_exposed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from lamina.run.options import ContainerOptions


class Binding(Value):
    """A port of a container (``port``/``protocol``) that is reached at ``host_port`` of the address ``host_ip`` of
    this host."""

    host_ip: str
    host_port: int
    port: int
    protocol: str = "tcp"

    @property
    def place(self) -> str:
        """Like 0.0.0.0:8080 or [::]:8080."""
        return f"[{self.host_ip}]:{self.host_port}" if ":" in self.host_ip else f"{self.host_ip}:{self.host_port}"

    @property
    def inside(self) -> str:
        return f"{self.port}/{self.protocol}"


def to_json(bindings: Iterable[Binding]) -> list[dict[str, Any]]:
    """The value of ``ports`` in network.json."""
    return [
        {
            "host_ip": one.host_ip,
            "host_port": one.host_port,
            "container_port": one.port,
            "protocol": one.protocol,
        }
        for one in bindings
    ]


def from_json(value: object) -> tuple[Binding, ...]:
    """What ``to_json`` was given; entries that are malformed are left out."""
    found = []
    for one in value if isinstance(value, list) else ():
        if not isinstance(one, dict):
            continue
        words = one.get("host_ip"), one.get("protocol")
        numbers = one.get("host_port"), one.get("container_port")
        if all(isinstance(word, str) for word in words) and all(type(number) is int for number in numbers):
            found.append(Binding(str(words[0]), int(numbers[0] or 0), int(numbers[1] or 0), str(words[1])))
    return tuple(found)


def port_map(bindings: Iterable[Binding], exposed: Iterable[str]) -> dict[str, Any]:
    """``NetworkSettings.Ports`` of docker's inspect. ``exposed``: of the image and of ``--expose``; those without a
    binding are null."""
    found: dict[str, Any] = {f"{port}/{protocol}": None for port, protocol in expand_exposed(exposed)}
    for one in bindings:
        places = found.get(one.inside) or []
        found[one.inside] = [*places, {"HostIp": one.host_ip, "HostPort": str(one.host_port)}]
    return dict(sorted(found.items()))


def port_bindings(wanted: ContainerOptions) -> dict[str, Any]:
    """``HostConfig.PortBindings`` of docker's inspect: what was asked for."""
    found: dict[str, Any] = {}
    for port in wanted.ports:
        host = f"{port.host_port}-{port.host_last}" if port.host_last else str(port.host_port or "")
        one = {"HostIp": port.address, "HostPort": host}
        found.setdefault(f"{port.port}/{port.protocol}", []).append(one)
    return found


def exposed_ports(wanted: ContainerOptions, exposed: Iterable[str]) -> dict[str, Any]:
    """``Config.ExposedPorts`` of docker's inspect. ``exposed``: of the image."""
    every = [f"{port}/{protocol}" for port, protocol in expand_exposed((*exposed, *wanted.expose))]
    every += [f"{port.port}/{port.protocol}" for port in wanted.ports]
    return {name: {} for name in sorted(set(every))}


def table_cell(bindings: Iterable[Binding], exposed: Iterable[str] = ()) -> str:
    """The column PORTS of docker's ps, like ``81-82/tcp, 0.0.0.0:8080->80/tcp``. Ranges are joined where the ports
    of the host and of the container are the same, as docker does. ``exposed``: as ``port_map`` takes them."""
    every = list(bindings)
    bound = {(one.port, one.protocol) for one in every}
    every += [Binding("", 0, port, name) for port, name in expand_exposed(exposed) if (port, name) not in bound]
    open_runs: dict[tuple[str, str], list[int]] = {}  # first and last port, by address and protocol
    found, mapped = [], []
    for one in sorted(every, key=_order):
        if one.host_ip and one.port != one.host_port:
            mapped.append(f"{one.place}->{one.inside}")
            continue
        place = one.place.rpartition(":")[0] if one.host_ip else ""
        run = open_runs.setdefault((place, one.protocol), [one.port, one.port])
        if one.port > run[1] + 1:
            found.append(_range_text(place, one.protocol, run))
            run[0] = one.port
        run[1] = one.port
    found += [_range_text(*place, run) for place, run in open_runs.items()]
    return ", ".join([*found, *mapped])


def _order(one: Binding) -> tuple[int, bool, str, int, str]:
    return one.port, ":" in one.host_ip, one.host_ip, one.host_port, one.protocol


def _range_text(place: str, protocol: str, run: Sequence[int]) -> str:
    ports = f"{run[0]}-{run[1]}" if run[0] != run[1] else str(run[0])
    return f"{place}:{ports}->{ports}/{protocol}" if place else f"{ports}/{protocol}"
