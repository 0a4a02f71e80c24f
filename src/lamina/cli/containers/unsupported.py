"""Options of other engines that lamina does not support yet, or that ask for what lamina does anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click

from lamina.errors import ContainerFailure, LaminaError

_WITHOUT = "leave it out"


class UnsupportedOption(NamedTuple):
    """An option that is refused, or accepted without effect. ``fine``: values that are accepted because they ask for
    what lamina does anyway; None: without a value; "*": any value. ``why``, ``hint``: the error for other values."""

    names: tuple[str, ...]
    why: str = ""
    hint: str = _WITHOUT
    fine: tuple[str | None, ...] = ()
    flag: bool = False


UNSUPPORTED_BY_RUN = (
    UnsupportedOption(("--link",), "links are not supported", "use --network NAME, where names are resolved"),
    UnsupportedOption(("--volume-driver",), "volume drivers are not supported", _WITHOUT, ("local",)),
    UnsupportedOption(("--storage-opt",), "a limit for the writable layer is not supported yet"),
    UnsupportedOption(
        ("--device-cgroup-rule",), "rules for devices are not supported", "use --device for each device"
    ),
    UnsupportedOption(
        ("--secret",), "lamina keeps no secrets", "mount a file: -v FILE:/run/secrets/NAME:ro, or use --env-file"
    ),
    UnsupportedOption(
        ("--rootfs",),
        "a container is made from an image, not from a directory",
        "run `lamina import DIRECTORY NAME`, then `lamina run NAME`",
        flag=True,
    ),
    UnsupportedOption(("--uidmap",), "single ids can't be mapped", "use --userns auto or keep-id"),
    UnsupportedOption(("--gidmap",), "single ids can't be mapped", "use --userns auto or keep-id"),
    # accepted with the values of ``fine``
    UnsupportedOption(("--disable-content-trust",), fine=(None,), flag=True),
    UnsupportedOption(("--log-level",), fine=("*",)),
)
UNSUPPORTED_BY_EXEC = (UnsupportedOption(("--detach-keys",), fine=("*",)),)


def unsupported_options(
    table: tuple[UnsupportedOption, ...], failure: type[LaminaError] = ContainerFailure
) -> Callable[[Any], Any]:
    """Add these options to a verb, hidden in its help. ``failure``: the error for the refused ones."""

    def decorate(function: Any) -> Any:
        for one in table:
            function = click.option(
                *one.names,
                is_flag=one.flag,
                multiple=not one.flag,
                hidden=True,
                expose_value=False,
                callback=_say(one, failure),
            )(function)
        return function

    return decorate


def _say(one: UnsupportedOption, failure: type[LaminaError]) -> Callable[[click.Context, click.Parameter, Any], None]:
    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        given = [None] if value is True else value or []
        if "*" not in one.fine and any(item not in one.fine for item in given):
            raise failure(f"{one.names[-1]}: {one.why}", hint=one.hint)

    return check
