"""The seccomp part of a runtime spec, from a profile in docker's form (pure, except that it reads a file of this
package).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from lamina.errors import InvalidDocument
from lamina.light import TYPE_CHECKING
from lamina.spec.json import read_own

if TYPE_CHECKING:
    from typing import Any

_ARCHITECTURES = {
    "386": "SCMP_ARCH_X86",
    "amd64": "SCMP_ARCH_X86_64",
    "arm": "SCMP_ARCH_ARM",
    "arm64": "SCMP_ARCH_AARCH64",
    "s390x": "SCMP_ARCH_S390X",
    "riscv64": "SCMP_ARCH_RISCV64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
}
_X32 = "SCMP_ARCH_X32"
_IN_RULES = {"386": "x86"}
"""The names of architectures in the rules of docker's profile, where they differ from Go's."""


def default_profile() -> dict[str, Any]:
    """lamina's own profile (see the file NOTICE beside it), without x32: hardly any kernel has these system calls,
    and their filter would take a third of runc's start time."""
    with open(os.path.join(os.path.dirname(__file__), "seccomp.json"), encoding="utf-8") as file:
        profile: dict[str, Any] = read_own(file.read())
    for one in profile["archMap"]:
        one["subArchitectures"] = [name for name in one["subArchitectures"] if name != _X32]
    return profile


def seccomp(profile: Mapping[str, Any], held: Collection[str], architecture: str) -> dict[str, Any]:
    """``linux.seccomp`` of the runtime spec: the rules for these capabilities and this architecture (GOARCH): the
    host's, not the image's, because the host's kernel applies the filter. Raises InvalidDocument."""
    try:
        ours = _ARCHITECTURES.get(architecture, "")
        found: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
        if "defaultErrnoRet" in profile:
            found["defaultErrnoRet"] = profile["defaultErrnoRet"]
        names = list(profile.get("architectures", ()))
        for one in profile.get("archMap", ()):
            if one["architecture"] == ours:
                names = [ours, *one.get("subArchitectures", ())]
        if names or ours:
            found["architectures"] = names or [ours]
        word = _IN_RULES.get(architecture, architecture)
        found["syscalls"] = [_rule(rule) for rule in profile.get("syscalls") or () if _applies(rule, held, word)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidDocument(
            f"the seccomp profile is malformed: {error!s:.100}", hint="write it in the format of docker's profiles"
        ) from None
    return found


def _applies(rule: Mapping[str, Any], held: Collection[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if any(name not in held for name in includes.get("caps") or ()):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if any(name in held for name in excludes.get("caps") or ()):
        return False
    return architecture not in (excludes.get("arches") or ())


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"names": list(rule["names"]), "action": rule["action"]}
    if rule.get("args"):
        found["args"] = [
            {key: one[key] for key in ("index", "value", "valueTwo", "op") if key in one} for one in rule["args"]
        ]
    if "errnoRet" in rule:
        found["errnoRet"] = rule["errnoRet"]
    return found
