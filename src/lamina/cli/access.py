"""Options that say how registries are reached, in skopeo's words: for a whole call, or for one side of a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lamina.cli.options import Decorator, Switch
from lamina.cli.session import Session
from lamina.errors import UsageError

SIDES = {"src": "SOURCE", "dest": "TARGET"}
_OPTIONS = (
    # flag, metavar (None for a flag, "" for true or false), help; first those of ``options.registry_options``
    ("tls-verify", "", "As --tls-verify"),
    ("cert-dir", "DIR", "As --cert-dir"),
    ("authfile", "FILE", "As --authfile"),
    ("creds", "USER[:PASSWORD]", "As --creds"),
    ("username", "NAME", "User name for this call"),
    ("password", "TEXT", "Password for this call"),
    ("registry-token", "TOKEN", "Bearer token to send instead of a login"),
    ("no-creds", None, "Send no login, whatever is stored"),
)
_OF_REGISTRY_OPTIONS = 4
MAX_WAIT = 60.0  # as ``remote.client`` has it


def _keep(side: str, key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            ctx.ensure_object(Session).access.setdefault(side, {})[key] = str(value)

    return keep


def _option(side: str, flag: str, metavar: str | None, text: str) -> Decorator:
    name = f"--{side}-{flag}" if side else f"--{flag}"
    only = f", for {SIDES[side]} only." if side else "."
    kind: dict[str, Any] = {"cls": Switch} if not metavar else {"metavar": metavar}
    if metavar is None:
        kind = {"is_flag": True}
    keep = _keep(side, flag.replace("-", "_"))
    return click.option(name, expose_value=False, callback=keep, help=text + only, **kind)


def identity_options(function: Any) -> Any:
    """Who asks: a name and password apart, a token, nobody."""
    for option in reversed(_OPTIONS[_OF_REGISTRY_OPTIONS:]):
        function = _option("", *option)(function)
    return function


def sided_options(function: Any) -> Any:
    """Each option once for the source and once for the target."""
    for side in reversed(SIDES):
        for option in reversed(_OPTIONS):
            function = _option(side, *option)(function)
    return function


def _delay(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).access.setdefault("", {})["retry_delay"] = str(seconds(value))


def retry_options(function: Any) -> Any:
    """How often and how fast what may pass is tried again."""
    function = click.option(
        "--retry-delay",
        metavar="TIME",
        expose_value=False,
        callback=_delay,
        help="Pause between attempts, like 2s (default: growing pauses).",
    )(function)
    return click.option(
        "--retry-times",
        "--retry",
        type=click.IntRange(0, 1000),
        metavar="N",
        expose_value=False,
        callback=_keep("", "retry_times"),
        help="Attempts after the first when a registry fails or a connection breaks (default: 4).",
    )(function)


def seconds(text: str) -> float:
    """``2s``, ``1m30s``, ``500ms`` or a number of seconds. Raises UsageError."""
    from lamina.cli.config_options import duration

    found = (duration(f"{text}s" if text.isdigit() else text, "--retry-delay") or 0) / 1_000_000_000
    if found > MAX_WAIT:
        raise UsageError(f"{text!r:.60} is too long a pause", hint=f"{MAX_WAIT:.0f} seconds are the most")
    return found
