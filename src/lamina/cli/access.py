"""Options for the access to registries, named as in skopeo: for the whole call, or for one side of a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lamina.cli.options import Decorator, Switch
from lamina.cli.session import Session
from lamina.errors import UsageError

SIDES = {"src": "SOURCE", "dest": "TARGET"}
_OPTIONS = (
    # name, metavar (None: a flag, "": true or false), help; those of ``options.registry_options`` come first
    ("tls-verify", "", "Like --tls-verify"),
    ("cert-dir", "DIR", "Like --cert-dir"),
    ("authfile", "FILE", "Like --authfile"),
    ("creds", "USER[:PASSWORD]", "Like --creds"),
    ("username", "NAME", "User name for this call"),
    ("password", "TEXT", "Password for this call"),
    ("registry-token", "TOKEN", "Send this bearer token instead of a login"),
    ("no-creds", None, "Send no login, even if one is stored"),
)
_OF_REGISTRY_OPTIONS = 4
MAX_WAIT = 60.0  # the same as in ``remote.client``


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
    """Add the options for the identity: user name and password, a token, or no login."""
    for option in reversed(_OPTIONS[_OF_REGISTRY_OPTIONS:]):
        function = _option("", *option)(function)
    return function


def sided_options(function: Any) -> Any:
    """Add each option twice: for the source and for the target."""
    for side in reversed(SIDES):
        for option in reversed(_OPTIONS):
            function = _option(side, *option)(function)
    return function


def _delay(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).access.setdefault("", {})["retry_delay"] = str(seconds(value))


def retry_options(function: Any) -> Any:
    """Add the options for retries: how often, and how long to wait."""
    function = click.option(
        "--retry-delay",
        metavar="TIME",
        expose_value=False,
        callback=_delay,
        help="Wait this long between attempts, like 2s (default: growing pauses).",
    )(function)
    return click.option(
        "--retry-times",
        "--retry",
        type=click.IntRange(0, 1000),
        metavar="N",
        expose_value=False,
        callback=_keep("", "retry_times"),
        help="Try again this often if a registry fails or a connection breaks (default: 4).",
    )(function)


def seconds(text: str) -> float:
    """Return the seconds of ``2s``, ``1m30s``, ``500ms`` or a plain number. Raises UsageError."""
    from lamina.spec.duration import of_option

    found = of_option(f"{text}s" if text.isdigit() else text, "--retry-delay") / 1_000_000_000
    if found > MAX_WAIT:
        raise UsageError(f"--retry-delay {text!r:.60} is too long", hint=f"give at most {MAX_WAIT:.0f} seconds")
    return found
