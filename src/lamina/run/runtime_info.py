"""What runs containers on this machine, and what they lack with it: for `info`."""

from __future__ import annotations

import os

from lamina import rights
from lamina.errors import LaminaError
from lamina.light import TYPE_CHECKING
from lamina.run import cgroup, network
from lamina.run.runtime import Runtime, asked, find_runtime

if TYPE_CHECKING:
    from typing import Any


def described() -> dict[str, Any]:
    """The runtime: ``name``, ``version``, ``program`` (its path), and ``missing``: a line for each thing that can't
    be had with it here. Raises NotFound."""
    runtime = find_runtime()
    return {
        "name": os.path.basename(runtime.program),
        "version": version(runtime.program),
        "program": runtime.program,
        "missing": missing(runtime),
    }


def version(program: str) -> str:
    """As the program tells it; "" where it does not."""
    try:
        code, said = asked([program, "--version"])
    except LaminaError:
        return ""
    words = said.partition("\n")[0].split()
    return words[-1] if words and not code else ""


def missing(runtime: Runtime) -> list[str]:
    found = []
    reason = cgroup.refusal() if rights.is_root() else "a plain user has no cgroup of its own"
    if reason or not (runtime.cgroups or runtime.is_bubblewrap):
        found.append(f"no limits (--memory, --cpus, --pids-limit): {reason or 'it can keep no cgroup here'}")
    if runtime.is_bubblewrap:
        from lamina.run.bpf import load

        try:
            load()
        except LaminaError as error:
            found.append(f"no filter of system calls: {error.hint}")
        found.append("no set-user-ID programs: bubblewrap lets no program gain rights")
        if rights.is_root():
            found.append("no user ids of its own (--userns auto): install runc or crun")
    if reason := network.refusal():
        found.append(f"no network but the machine's (--network host): {reason}")
    return found
