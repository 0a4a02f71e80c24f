"""The options of a container that lives on by itself, from Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from lamina.errors import UsageError
from lamina.light import replace

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions, HealthCheck

Ports = Mapping[int | str, "int | str | tuple[str, int] | None"] | Sequence[str | int]
Health = str | Sequence[str] | Mapping[str, Any] | bool | None
"""True: no other check than the image's."""
_HEALTH_TIMES = ("interval", "timeout", "start_period", "start_interval")


class LivingArguments(TypedDict):
    """The arguments of ``Image.start`` that ``Image.run`` does not have."""

    ports: Ports
    restart: str
    health: Health
    networks: Sequence[str]
    labels: Mapping[str, str]
    tty: bool
    log_driver: str
    default_log_driver: str
    log_options: Mapping[str, str]
    pod: str
    stop_signal: str
    stop_timeout: int | None


def living(wanted: ContainerOptions, **given: Unpack[LivingArguments]) -> ContainerOptions:
    """``wanted`` with these options too. Raises UsageError."""
    from lamina.run import options
    from lamina.run.logs.drivers import chosen, parse_driver, parse_options
    from lamina.run.restart import parse_policy

    labels = [f"{name}={value}" for name, value in given["labels"].items()]
    return chosen(
        replace(
            wanted,
            restart=parse_policy(given["restart"], removed=wanted.remove),
            health=wanted.health if given["health"] is None else _health(given["health"]),
            labels=options.parse_labels(labels),
            tty=given["tty"],
            pod=given["pod"],
            log_driver=parse_driver(given["log_driver"]) if given["log_driver"] else "",
            log_options=parse_options(f"{name}={value}" for name, value in given["log_options"].items()),
            **_ports(given["ports"]),
            **_networks(given["networks"]),
            **_end(given["stop_signal"], given["stop_timeout"]),
        ),
        given["default_log_driver"],
    )


def _health(given: str | Sequence[str] | Mapping[str, Any] | bool) -> HealthCheck:
    """``False``: no check, also if the image has one. A text is for the shell, a list is a command; a mapping has
    such a ``test``, times in seconds, and ``retries``."""
    from lamina.run.health import NONE, parse_test
    from lamina.run.options import HealthCheck

    if isinstance(given, bool):
        return HealthCheck() if given else HealthCheck(test=NONE)
    if not isinstance(given, Mapping):
        given = {"test": given}
    unknown = set(given) - {"test", "retries", *_HEALTH_TIMES}
    if unknown:
        hint = f"use test, retries, {', '.join(_HEALTH_TIMES)}"
        raise UsageError(f"unknown field of a health check: {min(map(str, unknown))!r:.60}", hint=hint)
    test = given.get("test", ())
    times: dict[str, Any] = {name: _seconds(given.get(name), name) for name in _HEALTH_TIMES}
    retries = given.get("retries")
    if retries is not None and (not isinstance(retries, int) or retries < 0):
        raise UsageError(f"{retries!r:.60} is not a number of retries", hint="give a number like 3")
    words = parse_test(test) if isinstance(test, str) and test else ("CMD", *test) if test else ()
    return HealthCheck(test=words, retries=retries or None, **times)


def _seconds(given: object, name: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1e9:
        raise UsageError(f"{name}: {given!r:.60} is not a time", hint="give a number of seconds")
    return float(given) or None


def _ports(given: Ports) -> dict[str, Any]:
    if not given:
        return {}
    if isinstance(given, (str, bytes)):
        raise UsageError(f"ports is a string, not a list: {given!r:.100}", hint='give a list, like ["8080:80"]')
    from lamina.run.published.syntax import parse_published

    if isinstance(given, Mapping):
        words = [_published(inside, outside) for inside, outside in given.items()]
    else:
        words = [str(word) for word in given]
    return {"ports": parse_published(words)}


def _published(inside: object, outside: object) -> str:
    """The word for -p. ``outside``: a port of this host, an address and a port, or None for any free port."""
    if outside is None:
        return f"0:{inside}"
    if isinstance(outside, tuple):
        address, port = outside
        shown = f"[{address}]" if ":" in str(address) else address
        return f"{shown}:{port or 0}:{inside}"
    return f"{outside}:{inside}"


def _networks(given: Sequence[str]) -> dict[str, Any]:
    if not given:
        return {}
    if isinstance(given, (str, bytes)):
        raise UsageError(f"networks is a string, not a list: {given!r:.100}", hint='give a list, like ["front"]')
    from lamina.run.networks.syntax import parse_networks

    kind, networks = parse_networks(given)
    return {"network": kind, "networks": networks}


def _end(signal: str, seconds: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if signal:
        from lamina.run.signals import parse_signal

        parse_signal(signal)
        found["stop_signal"] = signal
    if seconds is not None:
        from lamina.run.limits import parse_stop_timeout

        found["stop_timeout"] = parse_stop_timeout(str(seconds))
    return found
