"""`update`: change the limits, the restart policy and the variables of a container, running or not.

The kernel gets new limits first: what it refuses is not written into the record. The spec in the bundle gets them
too, because the monitor starts the program from there again. The monitor reads the restart policy from the record.
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, Unsupported, UsageError
from lamina.host.files import replace_file, reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.cgroups import counts_swap
from lamina.run.container.events import note_event
from lamina.run.container.record import sandbox_of, to_json, wanted_of
from lamina.run.container.running import check_running
from lamina.run.restart import NEVER
from lamina.run.runtime import MACHINE
from lamina.run.spec import limits, rlimits
from lamina.run.supported import check_flags, check_supported
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lamina.run.options import ContainerOptions
    from lamina.run.runtime import Runtime
    from lamina.store.containers import Container
    from lamina.store.store import Store

_NO_LIMITS = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "shares": 1024}, "pids": {"limit": -1}}
"""What the runtime is told for a limit that was taken away."""
_RESTART = "restart"
_OF_PROCESS = ("env", "ulimits")
"""Fields that the next program gets: at a restart, or by `exec`."""


def update(store: Store, container: Container, changes: Mapping[str, Any], runtime: Runtime) -> None:
    """Change these fields of the container's options: limits, and the restart policy. ``runtime``: the one that would
    run it. Raises UsageError, Conflict, Unsupported, SystemFailure."""
    with store.containers.changing(container.id) as now:
        before = wanted_of(now)
        changes = {**changes, **_added(before, changes)}
        wanted = replace(before, **changes)
        check(wanted, changes)
        limited = [name for name in changes if name != _RESTART]
        if limited:
            check_supported(wanted, runtime)
        if limited and store.containers.is_running(now):
            check_running(store, now)
            if now.runtime == MACHINE:
                raise Unsupported(
                    f"the virtual machine {now.name} can't be changed while it runs",
                    hint=f"stop it first with `lamina stop {now.name}`",
                )
            if any(name not in _OF_PROCESS for name in limited):
                sandbox_of(store, now).limit(_resources(wanted, before))
            _write_spec(store.containers.path(now.id, "bundle", "config.json"), wanted, changes)
        changed = to_json(wanted)
        kept = {**(now.wanted or {}), **{name: changed[name] for name in changes}}
        store.containers.write(replace(now, wanted=kept), lasting=not now.remove)
    note_event(store.paths.root, now, "update")


def check(wanted: ContainerOptions, changes: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other (pure). ``wanted``: with the changes. Raises UsageError, Conflict."""
    if wanted.memory and wanted.memory_swap and 0 < wanted.memory_swap < wanted.memory:
        raise UsageError(
            "--memory is more than --memory-swap, which is memory and swap together",
            hint="change --memory-swap at the same time",
        )
    if wanted.memory_swap is not None and wanted.memory is None and "memory_swap" in changes:
        raise UsageError("--memory-swap needs --memory", hint="give both: it is memory and swap together")
    if _RESTART in changes and wanted.remove and wanted.restart.name != NEVER:
        raise Conflict(
            "the restart policy can't be changed: the container is removed when it ends",
            hint="run it without --rm",
        )
    check_flags(wanted)


def _resources(wanted: ContainerOptions, before: ContainerOptions) -> dict[str, Any]:
    """``linux.resources`` for the running container: the limits, and -1 for those that it had before."""
    found, had = (limits(one, swap=counts_swap()) for one in (wanted, before))
    for controller, none in _NO_LIMITS.items():
        for name, value in none.items():
            if name in had.get(controller, {}) and name not in found.get(controller, {}):
                found.setdefault(controller, {})[name] = value
    if "quota" in found.get("cpu", {}):
        found["cpu"].setdefault("period", 100_000)  # the kernel's
    return found


def _added(before: ContainerOptions, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The whole values of fields of which ``changes`` has only what is new (pure)."""
    found: dict[str, Any] = {}
    if "env" in changes:
        found["env"] = tuple({**dict(before.env), **dict(changes["env"])}.items())
    if "ulimits" in changes:
        found["ulimits"] = tuple({one.name: one for one in (*before.ulimits, *changes["ulimits"])}.values())
    return found


def _write_spec(path: str, wanted: ContainerOptions, changes: Mapping[str, Any]) -> None:
    """Write the limits into the runtime spec, and what the next programs get. Raises SystemFailure."""
    new = limits(wanted, swap=counts_swap())
    with reported(path), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        spec = read_own(file.read().decode())
    linux = spec.setdefault("linux", {})
    rest = {key: value for key, value in (linux.get("resources") or {}).items() if key not in _NO_LIMITS}
    linux["resources"] = {**rest, **new}
    process = spec["process"]
    if "env" in changes:
        names = dict(wanted.env)
        process["env"] = [one for one in process["env"] if one.partition("=")[0] not in names]
        process["env"] += [f"{name}={value}" for name, value in names.items()]
    if "ulimits" in changes:
        process["rlimits"] = rlimits(wanted)
    replace_file(path, [write_own(spec).encode()], mode=mode, lasting=False)
