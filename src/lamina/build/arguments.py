"""The arguments that stand before the first FROM, and those of the platforms (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.build.words import expand

if TYPE_CHECKING:
    from lamina.build.instructions import Arg, Dockerfile
    from lamina.spec.platform import Platform

_DEFAULT = "default"


def platform_arguments(
    dockerfile: Dockerfile, target: str, platform: Platform, build_platform: Platform, given: Mapping[str, str]
) -> dict[str, str]:
    """``TARGETPLATFORM``, ``BUILDARCH`` and the others. ``target``: what `--target` names. ``given``: the arguments
    of the call, which win."""
    found = {
        "BUILDPLATFORM": str(build_platform),
        "BUILDOS": build_platform.os,
        "BUILDOSVERSION": build_platform.os_version,
        "BUILDARCH": build_platform.architecture,
        "BUILDVARIANT": build_platform.variant,
        "TARGETPLATFORM": str(platform),
        "TARGETOS": platform.os,
        "TARGETOSVERSION": platform.os_version,
        "TARGETARCH": platform.architecture,
        "TARGETVARIANT": platform.variant,
        "TARGETSTAGE": target or dockerfile.stages[-1].base.name or _DEFAULT,
    }
    return {name: given.get(name, value) for name, value in found.items()}


def declare(found: dict[str, str], arg: Arg, given: Mapping[str, str], escape: str) -> None:
    """Add what an ARG before the first FROM declares. Raises UsageError."""
    for name, default in arg.items:
        if name in given:
            found[name] = given[name]
        elif default is not None:
            found[name] = expand(default, found.get, escape)
