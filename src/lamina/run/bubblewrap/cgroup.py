"""Limits of memory, processors and processes without an OCI runtime: a cgroup for the container, in version 1 (a
hierarchy for each controller) or version 2.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping

from lamina.errors import Unsupported
from lamina.host.files import failure
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

TOP = "/sys/fs/cgroup"
_OURS = "lamina"
_PROCESSES = "cgroup.procs"
_CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD = 100_000  # microseconds, of the kernel
_MONITORS = 1  # for bubblewrap itself, which is in the cgroup
_ATTEMPTS, _PAUSE = 50, 0.02  # a process leaves its cgroup shortly after its end is reported


def refusal(top: str = TOP) -> str:
    """Why no limits can be set here; "" if they can."""
    if _is_unified(top):
        lacking = sorted({*_CONTROLLERS} - _controllers(top))
        if lacking:
            return f"the kernel's cgroups at {top} have no controller {', '.join(lacking)}"
        places = [top, os.path.join(top, "cgroup.subtree_control")]
    else:
        places = [os.path.join(top, name) for name in _CONTROLLERS]
    for place in places:
        if not os.path.exists(place):
            return f"there is no {place}"
        if not os.access(place, os.W_OK):
            return f"{place} is not writable"
    return ""


def values(resources: Mapping[str, Any], *, unified: bool) -> dict[str, list[tuple[str, str]]]:
    """The text for each file, by controller, for ``linux.resources`` of a runtime spec (pure)."""
    found: dict[str, list[tuple[str, str]]] = {}
    if "limit" in resources.get("memory", {}):
        name = "memory.max" if unified else "memory.limit_in_bytes"
        found["memory"] = [(name, str(resources["memory"]["limit"]))]
    cpu = resources.get("cpu", {})
    if "quota" in cpu or "period" in cpu:
        quota, period = cpu.get("quota", -1), cpu.get("period", _PERIOD)
        version_1 = [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", str(quota))]
        found["cpu"] = [("cpu.max", _unlimited(f"{quota} {period}"))] if unified else version_1
    if "limit" in resources.get("pids", {}):
        limit = resources["pids"]["limit"]
        found["pids"] = [("pids.max", "max" if limit < 0 else str(limit + _MONITORS))]
    return found


def make(identity: str, resources: Mapping[str, Any], top: str = TOP) -> None:
    """Make the container's cgroup with these limits, if there are any. Raises Unsupported."""
    unified = _is_unified(top)
    wanted = values(resources, unified=unified)
    if not wanted:
        return
    try:
        if unified:
            _enable(top, wanted)
        for controller, files in wanted.items():
            place = _place(identity, top, "" if unified else controller)
            os.makedirs(place, exist_ok=True)
            for name, value in files:
                with open(os.path.join(place, name), "w", encoding="ascii") as file:
                    file.write(value)
    except OSError as error:
        remove(identity, top)
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise Unsupported(
            f"{', '.join(wanted)} can't be limited here: {why}", hint="leave --memory, --cpus and --pids-limit out"
        ) from None


def change(identity: str, resources: Mapping[str, Any], top: str = TOP) -> None:
    """Change the limits of a running container. ``resources``: as in a runtime spec, with -1 for no limit. Raises
    Unsupported (it was started without a limit of this kind, and so without a cgroup for it)."""
    unified = _is_unified(top)
    for controller, files in values(resources, unified=unified).items():
        place = _place(identity, top, "" if unified else controller)
        for name, value in files:
            path = os.path.join(place, name)
            if not os.path.exists(path):
                raise Unsupported(
                    f"the container was started without a limit of {controller}, and bubblewrap can't add one",
                    hint="stop it, change the limits, and start it again",
                )
            try:
                with open(path, "w", encoding="ascii") as file:
                    file.write(_unlimited(value) if unified else value)
            except OSError as error:
                raise failure(error, path) from error


def _unlimited(value: str) -> str:
    """A value with version 2's word for no limit."""
    first, *rest = value.split()
    return " ".join(["max" if first == "-1" else first, *rest])


def _enable(top: str, controllers: Mapping[str, object]) -> None:
    """Enable these controllers in the cgroups below this one. Raises OSError."""
    for place in (top, os.path.join(top, _OURS)):
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "cgroup.subtree_control"), "w", encoding="ascii") as file:
            file.write(" ".join(f"+{name}" for name in controllers))


def opened(identity: str, top: str = TOP) -> list[int]:
    """Descriptors of the files to which a process writes "0" to join the container's cgroup. Raises SystemFailure."""
    found: list[int] = []
    for place in _places(identity, top):
        path = os.path.join(place, _PROCESSES)
        try:
            found.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for one in found:
                os.close(one)
            raise failure(error, path) from error
    return found


def remove(identity: str, top: str = TOP) -> None:
    """Remove the container's cgroup, if it has one and no process is left in it."""
    for place in _places(identity, top):
        for attempt in range(_ATTEMPTS):
            try:
                os.rmdir(place)
            except OSError as error:
                if error.errno == errno.EBUSY and attempt < _ATTEMPTS - 1:
                    time.sleep(_PAUSE)
                    continue
            break


def _places(identity: str, top: str) -> Iterator[str]:
    for controller in ("",) if _is_unified(top) else _CONTROLLERS:
        place = _place(identity, top, controller)
        if os.path.isdir(place):
            yield place


def _place(identity: str, top: str, controller: str) -> str:
    return os.path.join(top, controller, _OURS, identity)


def _controllers(top: str) -> set[str]:
    try:
        with open(os.path.join(top, "cgroup.controllers"), encoding="ascii") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _is_unified(top: str) -> bool:
    return os.path.exists(os.path.join(top, "cgroup.controllers"))
