"""What a command hands over to a monitor, as JSON (pure)."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value, as_dict
from lamina.run.options import RestartPolicy
from lamina.run.runtime import Runtime
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Plan(Value):
    """``root``: of the store. ``directory``: the container's. ``states``: the runtime's. ``terminal``,
    ``interactive``: as in ``run.options``. ``size``: rows and columns of the terminal, () if they are not known.
    ``stdin_once``: the program's input ends with that of the command that is attached to it. ``init``,
    ``must_filter``: as ``Sandbox.start`` takes them. ``attributes``: of the container's events. ``log_driver``,
    ``log_options``: as ``run.logs`` takes them. ``pidfile``: "" for none. ``health``: the health check, as
    ``run.health`` writes it; None for none."""

    root: str
    identity: str
    name: str
    image: str
    directory: str
    states: str
    runtime: Runtime
    terminal: bool = False
    size: tuple[int, ...] = ()
    interactive: bool = False
    stdin_once: bool = False
    init: bool = False
    must_filter: bool = False
    remove: bool = False
    restart: RestartPolicy = RestartPolicy()
    log_driver: str = ""
    log_options: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    pidfile: str = ""
    health: Mapping[str, Any] | None = None


def to_json(plan: Plan) -> bytes:
    return write_own({**as_dict(plan), "runtime": as_dict(plan.runtime), "restart": as_dict(plan.restart)}).encode()


def from_json(data: bytes) -> Plan:
    value = read_own(data.decode())
    runtime = {**value["runtime"], "options": tuple(value["runtime"]["options"])}
    pairs: dict[str, Any] = {key: tuple(map(tuple, value[key])) for key in ("log_options", "attributes")}
    pairs["size"] = tuple(value["size"])
    return Plan(**{**value, **pairs, "runtime": Runtime(**runtime), "restart": RestartPolicy(**value["restart"])})
