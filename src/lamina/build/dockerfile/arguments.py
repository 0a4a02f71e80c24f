"""The arguments that stand before the first FROM, and those of the platforms (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lamina.build.dockerfile.words import expand
from lamina.build.instructions import Arg

if TYPE_CHECKING:
    from lamina.build.instructions import Dockerfile
    from lamina.spec.platform import Platform

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
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


def unused_arguments(dockerfile: Dockerfile, given: Iterable[str], declared: Collection[str]) -> Iterator[str]:
    """Yield the arguments of the call that nothing can read, such as a misspelled name. An ARG of any stage counts,
    also of one that is not built. ``declared``: those that were met, ONBUILD of a base included."""
    names = {
        name
        for stage in dockerfile.stages
        for instruction in stage.instructions
        if isinstance(instruction, Arg)
        for name, _ in instruction.items
    }
    names |= {name for arg in dockerfile.arguments for name, _ in arg.items}
    for name in given:
        is_known = name.lower() in PROXIES or name.startswith("BUILDKIT_") or name == "SOURCE_DATE_EPOCH"
        if not is_known and name not in names and name not in declared:
            yield name
