"""The runtimes of this host, and what containers can't have with them: for `info`."""

from __future__ import annotations

import os

from lamina.errors import LaminaError
from lamina.host import privileges
from lamina.light import TYPE_CHECKING
from lamina.run import network
from lamina.run.bubblewrap import cgroup
from lamina.run.child import output_of
from lamina.run.runtime import BUBBLEWRAP, NAMES, Runtime, find_program, find_runtime, is_hybrid

if TYPE_CHECKING:
    from typing import Any


def runtime_facts(wanted: str = "") -> dict[str, Any]:
    """The runtime: ``name``, ``version``, ``program`` (its path), ``missing`` (a line for each feature that
    containers lack with it on this host) and ``others`` (as the function returns them). ``wanted``: its name or
    path. Raises NotFound."""
    runtime = find_runtime(wanted)
    return {
        "name": os.path.basename(runtime.program),
        "version": version(runtime.program),
        "program": runtime.program,
        "missing": missing(runtime),
        "others": others(runtime),
    }


def others(taken: Runtime) -> list[dict[str, str]]:
    """The other installed runtimes: ``name``, ``program``, and ``why`` they are not used."""
    found = []
    for name in (*NAMES, BUBBLEWRAP):
        program = find_program(name)
        if not program or program == taken.program:
            continue
        if name == BUBBLEWRAP:
            why = "it lacks what an OCI runtime has, so it is the last choice"
        elif name == "crun" and is_hybrid():
            why = "it can't use the cgroups of this host, which are of both versions (hybrid)"
        else:
            why = f"{os.path.basename(taken.program)} starts a container in less time"
        found.append({"name": name, "program": program, "why": why})
    return found


def version(program: str) -> str:
    """As the program prints it; "" if it prints none."""
    try:
        code, said = output_of([program, "--version"])
    except LaminaError:
        return ""
    words = said.partition("\n")[0].split()
    return words[-1] if words and not code else ""


def missing(runtime: Runtime) -> list[str]:
    found = []
    reason = cgroup.refusal() if privileges.is_root() else "a plain user has no cgroup of its own"
    if reason or not (runtime.cgroups or runtime.is_bubblewrap):
        found.append(f"no limits (--memory, --cpus, --pids-limit): {reason or 'it can keep no cgroup here'}")
    if runtime.is_bubblewrap:
        from lamina.run.bubblewrap.bpf import load

        try:
            load()
        except LaminaError as error:
            found.append(f"no filter of system calls: {error.hint}")
        found.append("no set-user-ID programs: bubblewrap lets no program gain rights")
        if privileges.is_root():
            found.append("no separate IDs (--userns auto): install runc or crun")
    if reason := network.refusal():
        found.append(f"no network but the host's (--network host): {reason}")
    return found
