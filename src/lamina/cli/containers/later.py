"""Options of other engines that lamina does not support yet, or that ask for what lamina does anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

from lamina.errors import ContainerFailure

_BACKGROUND = "containers in the background are not supported yet"
_NETWORKS = "networks with names and addresses are not supported yet"
_HEALTH = "health checks need containers in the background, which are not supported yet"
_LOGS = "a container in the foreground has no log: its output goes to this terminal"
_FOREGROUND = "run it in the foreground, with & at the end of the command or in another terminal"
_WITHOUT = "leave it out"


class Later(NamedTuple):
    """An option that is refused, or accepted without effect. ``fine``: values that are accepted because they ask for
    what lamina does anyway; None: without a value; "*": any value. ``why``, ``hint``: the error for other values."""

    names: tuple[str, ...]
    why: str = ""
    hint: str = _WITHOUT
    fine: tuple[str | None, ...] = ()
    flag: bool = False


OF_RUN = (
    Later(("-d", "--detach"), _BACKGROUND, _FOREGROUND, flag=True),
    Later(("-P", "--publish-all"), "publishing ports is not supported yet", "use --network host", flag=True),
    Later(("--restart",), _BACKGROUND, _WITHOUT, ("no", "")),
    Later(("--network-alias",), _NETWORKS),
    Later(("--ip",), _NETWORKS),
    Later(("--ip6",), _NETWORKS),
    Later(("--mac-address",), _NETWORKS),
    Later(("--link",), _NETWORKS, "use --network host, or --add-host"),
    Later(("--pod",), "pods are not supported"),
    Later(("--health-cmd",), _HEALTH),
    Later(("--health-interval",), _HEALTH),
    Later(("--health-retries",), _HEALTH),
    Later(("--health-start-period",), _HEALTH),
    Later(("--health-timeout",), _HEALTH),
    Later(("--log-driver",), _LOGS, _WITHOUT, ("none", "passthrough")),
    Later(("--log-opt",), _LOGS),
    Later(
        ("--volumes-from",),
        "taking the volumes of another container is not supported yet",
        "use a named volume: -v NAME:PATH",
    ),
    Later(("--volume-driver",), "volume drivers are not supported", _WITHOUT, ("local",)),
    Later(("--storage-opt",), "a limit for the writable layer is not supported yet"),
    Later(("--device-cgroup-rule",), "rules for devices are not supported", "use --device for each device"),
    Later(("--annotation",), "annotations are not supported", "use --label"),
    Later(("--secret",), "secrets are not supported yet", "use -v FILE:PATH:ro, or --env-file"),
    # accepted with the values of ``fine``
    Later(
        ("-a", "--attach"),
        "connecting single streams is not supported",
        _WITHOUT,
        ("stdout", "stderr", "STDOUT", "STDERR"),
    ),
    Later(("--sig-proxy",), "signals are always forwarded", _WITHOUT, ("true", "1")),
    Later(("--detach-keys",), fine=("*",)),
    Later(("--no-healthcheck",), fine=(None,), flag=True),
    Later(("--disable-content-trust",), fine=(None,), flag=True),
    Later(("--log-level",), fine=("*",)),
)
OF_EXEC = (
    Later(("-d", "--detach"), "programs in the background are not supported yet", _FOREGROUND, flag=True),
    Later(("--detach-keys",), fine=("*",)),
)


def refused(table: tuple[Later, ...]) -> Callable[[Any], Any]:
    """Add these options to a verb, hidden in its help."""

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
