"""A container through bubblewrap, where there is no OCI runtime: the runtime spec in bubblewrap's words.

It knows less: no cgroups, no seccomp filter, no exec, no user but root (it gives up its rights before it can make
more ids known). The program lives in a user namespace of its own, so that its root is nobody outside.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Mapping

from lamina import rights
from lamina.errors import NotFound, SystemFailure, Unsupported, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.runtime import NOT_EXECUTABLE, NOT_FOUND, Ended, find_program, spawned

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.inside import Inside

_USER_FD, _INFO_FD = 10, 11


def arguments(spec: Mapping[str, Any], kind_of: Callable[[str], str]) -> list[str]:
    """bubblewrap's options for ``spec`` with the command (pure). ``kind_of``: "file", "directory" or "" for a path of
    this machine's /proc and /sys. Raises Unsupported."""
    process = spec["process"]
    user = process["user"]
    if user["uid"] or user["gid"] or user["additionalGids"]:
        raise Unsupported(
            f"bubblewrap runs programs as root of the image only, not as {user['uid']}:{user['gid']}",
            hint="give --user 0:0, or install runc or crun",
        )
    words = ["--userns", str(_USER_FD)]
    words += ["--info-fd", str(_INFO_FD), "--die-with-parent", "--as-pid-1"]
    kinds = {one["type"] for one in spec["linux"]["namespaces"]}
    words += [f"--unshare-{kind}" for kind in ("pid", "ipc", "uts") if kind in kinds]
    words += ["--unshare-cgroup-try", "--hostname", spec["hostname"]]
    if any(one == {"type": "network"} for one in spec["linux"]["namespaces"]):
        words.append("--unshare-net")
    words += ["--ro-bind" if spec["root"]["readonly"] else "--bind", spec["root"]["path"], "/"]
    for mount in spec["mounts"]:
        words += _mount(mount)
    for path in spec["linux"].get("maskedPaths", ()):
        kind = kind_of(path)
        if kind:
            words += ["--tmpfs", path] if kind == "directory" else ["--ro-bind", "/dev/null", path]
    for path in spec["linux"].get("readonlyPaths", ()):
        if kind_of(path):
            words += ["--ro-bind", path, path]
    words += ["--cap-drop", "ALL"]
    for name in process["capabilities"]["effective"]:
        words += ["--cap-add", name]
    if not process["terminal"]:
        words.append("--new-session")
    words.append("--clearenv")
    for item in process["env"]:
        key, _, value = item.partition("=")
        words += ["--setenv", key, value]
    return [*words, "--chdir", process["cwd"], "--", *process["args"]]


def _mount(mount: Mapping[str, Any]) -> list[str]:
    kind, target, options = mount["type"], mount["destination"], mount["options"]
    if kind == "proc":
        return ["--proc", target]
    if target == "/dev" and kind == "tmpfs":
        return ["--dev", target]
    if kind == "mqueue":
        return ["--mqueue", target]
    if kind == "sysfs":
        return ["--ro-bind", "/sys", target]
    if kind == "tmpfs":
        words = []
        for option in options:
            key, _, value = option.partition("=")
            if key == "mode":
                words += ["--perms", value.rjust(4, "0")]
            elif key == "size":
                words += ["--size", str(_size(value))]
        return [*words, "--tmpfs", target]
    if kind == "bind":
        return ["--ro-bind" if "ro" in options else "--bind", mount["source"], target]
    return []  # a terminal's place (--dev has one), cgroups


def _size(text: str) -> int:
    from lamina.run.options import parse_size

    return parse_size(text)


def run(program: str, bundle: str, spec: Mapping[str, Any], inside: Inside, *, interactive: bool) -> Ended:
    """Run the container until it ends. Raises SystemFailure, NotFound, Unsupported."""
    refused = _refused(spec["process"], inside)
    if refused is not None:
        return refused
    command = [program, *arguments(spec, _kind_of)]
    for one in spec["linux"]["namespaces"]:
        if one["type"] == "network" and "path" in one:
            enter = find_program("nsenter")
            if not enter:
                raise NotFound("nsenter is not installed", hint="install util-linux, or take --network none or host")
            command = [enter, f"--net={one['path']}", *command]
    told = os.open(_info(bundle), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        namespace = rights.nested()
        try:
            return Ended(spawned(command, interactive, {_USER_FD: namespace, _INFO_FD: told}))
        finally:
            os.close(namespace)
    finally:
        os.close(told)


def kill(bundle: str, word: str) -> None:
    """Send a signal, a name or a number, to the container's first process. Raises UsageError, SystemFailure."""
    try:
        number = int(word) if word.isdigit() else signal.Signals[f"SIG{word.upper().removeprefix('SIG')}"].value
    except KeyError:
        raise UsageError(f"no signal {word!r:.60}", hint="like TERM, or a number") from None
    try:
        with open(_info(bundle), "rb") as file:
            os.kill(int(json.load(file)["child-pid"]), number)
    except (OSError, ValueError, KeyError, TypeError):
        raise SystemFailure("the container has no process yet, or none any more", hint="see `lamina ps`") from None


def _kind_of(path: str) -> str:
    return "directory" if os.path.isdir(path) else "file" if os.path.exists(path) else ""


def _info(bundle: str) -> str:
    return os.path.join(bundle, "bubblewrap.json")


def _refused(process: Mapping[str, Any], inside: Inside) -> Ended | None:
    """docker's exit codes for a program that can't be started: bubblewrap has none of its own."""
    name = process["args"][0]
    places = [name]
    if "/" not in name:
        search = next((item[5:] for item in process["env"] if item.startswith("PATH=")), "")
        places = [os.path.join(directory or process["cwd"], name) for directory in search.split(":")]
    elif not name.startswith("/"):
        places = [os.path.join(process["cwd"], name)]
    there = ""
    for place in places:
        try:
            descriptor = inside.open(place, os.O_PATH)
        except OSError:
            continue
        state = os.fstat(descriptor)
        os.close(descriptor)
        if stat.S_ISREG(state.st_mode) and state.st_mode & 0o111:
            return None
        there = place
    if there:
        return Ended(NOT_EXECUTABLE, f"{there}: permission denied")
    return Ended(NOT_FOUND, f"{name}: not found in the image")
