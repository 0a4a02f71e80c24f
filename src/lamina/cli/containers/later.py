"""Options of other engines that lamina has not yet, or that ask for what happens anyway: one line says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

from lamina.errors import ContainerFailure

_BACKGROUND = "containers in the background are not there yet"
_NETWORKS = "networks with names and addresses are not there yet"
_HEALTH = "health checks need a container in the background, which is not there yet"
_LOGS = "a container in the foreground has no log: what it says goes to this terminal"
_FOREGROUND = "run it in the foreground: put & behind the command, or use another terminal"
_WITHOUT = "leave it out"


class Later(NamedTuple):
    """``fine``: values that are accepted, since they ask for what happens anyway; None in it: without a value."""

    names: tuple[str, ...]
    why: str = ""
    hint: str = _WITHOUT
    fine: tuple[str | None, ...] = ()
    flag: bool = False


OF_RUN = (
    Later(("-d", "--detach"), _BACKGROUND, _FOREGROUND, flag=True),
    Later(("-P", "--publish-all"), "ports can't be published yet", "take --network host", flag=True),
    Later(("--restart",), _BACKGROUND, _WITHOUT, ("no", "")),
    Later(("--network-alias",), _NETWORKS),
    Later(("--ip",), _NETWORKS),
    Later(("--ip6",), _NETWORKS),
    Later(("--mac-address",), _NETWORKS),
    Later(("--link",), _NETWORKS, "take --network host, or --add-host"),
    Later(("--pod",), "pods are not there"),
    Later(("--health-cmd",), _HEALTH),
    Later(("--health-interval",), _HEALTH),
    Later(("--health-retries",), _HEALTH),
    Later(("--health-start-period",), _HEALTH),
    Later(("--health-timeout",), _HEALTH),
    Later(("--log-driver",), _LOGS, _WITHOUT, ("none", "passthrough")),
    Later(("--log-opt",), _LOGS),
    Later(("--volumes-from",), "containers can't share volumes yet", "take a named volume: -v NAME:PATH"),
    Later(("--volume-driver",), "volumes have no drivers", _WITHOUT, ("local",)),
    Later(("--storage-opt",), "the size of what a container writes can't be limited yet"),
    Later(("--device-cgroup-rule",), "devices are given one by one", "take --device"),
    Later(("--annotation",), "containers have labels, and no annotations", "take --label"),
    Later(("--secret",), "secrets are not there yet", "take -v FILE:PATH:ro, or --env-file"),
    # these ask for what happens anyway
    Later(
        ("-a", "--attach"), "only all streams can be connected", _WITHOUT, ("stdout", "stderr", "STDOUT", "STDERR")
    ),
    Later(("--sig-proxy",), "signals are always passed on", _WITHOUT, ("true", "1")),
    Later(("--detach-keys",), fine=("*",)),
    Later(("--no-healthcheck",), fine=(None,), flag=True),
    Later(("--disable-content-trust",), fine=(None,), flag=True),
    Later(("--log-level",), fine=("*",)),
)
OF_EXEC = (
    Later(("-d", "--detach"), "programs in the background are not there yet", _FOREGROUND, flag=True),
    Later(("--detach-keys",), fine=("*",)),
)


def refused(table: tuple[Later, ...]) -> Callable[[Any], Any]:
    """Options that are not shown in the help, and say why they can't be had."""

    def decorate(function: Any) -> Any:
        for one in table:
            function = click.option(
                *one.names,
                is_flag=one.flag,
                multiple=not one.flag,
                hidden=True,
                expose_value=False,
                callback=_say(one),
            )(function)
        return function

    return decorate


def _say(one: Later) -> Callable[[click.Context, click.Parameter, Any], None]:
    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        given = [None] if value is True else value or []
        if "*" not in one.fine and any(item not in one.fine for item in given):
            raise ContainerFailure(f"{one.names[-1]}: {one.why}", hint=one.hint)

    return check
