"""A container through bubblewrap, where there is no OCI runtime: the runtime spec in bubblewrap's words.

It knows less: no cgroups, no exec, a seccomp filter only where libseccomp is. The program lives in a user namespace
of its own, so that its root is nobody outside. bubblewrap gives up its rights with the first id that it changes: who
is to be somebody else in there is so before it starts, and has the rights that it needs in a second namespace, with
the same ids, below the first, that belongs to this user.

bubblewrap can't mount a sysfs, and the machine's shows the machine's network interfaces. A container with a network
of its own therefore gets both before bubblewrap starts: the namespace, and a sysfs of it, mounted where only
bubblewrap and the container see it.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from lamina import rights
from lamina.errors import LaminaError, SystemFailure, Unsupported, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.inside import Inside
from lamina.run.namespace import alone, become, enter, enter_network, new_mounts, new_network, owned
from lamina.run.runtime import CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND, Ended, in_memory, spawned
from lamina.run.spec import name_of, places
from lamina.view import kernel

if TYPE_CHECKING:
    from typing import Any

_SYS = "/sys"
_REAL = ("/proc", "/sys", "/dev")  # what is masked stands below them
_DEVICE_LINKS = ("fd", "stdin", "stdout", "stderr", "core")
_OTHER = "choose another target, or install runc or crun"
_SYS_ATTRIBUTES = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_PROGRAMS


def arguments(
    spec: Mapping[str, Any], kind_of: Callable[[str], str], given: Mapping[str, int], sysfs: str = _SYS
) -> list[str]:
    """bubblewrap's options for ``spec`` without the command (pure). ``kind_of``: "file", "directory" or "" for a path
    of this machine's /proc and /sys. ``given``: options whose value is a descriptor. ``sysfs``: where that of the
    container's network is mounted."""
    process = spec["process"]
    words = [word for option, number in given.items() for word in (option, str(number))]
    words += ["--die-with-parent", "--as-pid-1"]
    kinds = {one["type"] for one in spec["linux"]["namespaces"]}
    words += [f"--unshare-{kind}" for kind in ("pid", "ipc", "uts") if kind in kinds]
    words += ["--unshare-cgroup-try", "--hostname", spec["hostname"]]
    words += ["--ro-bind" if spec["root"]["readonly"] else "--bind", spec["root"]["path"], "/"]
    for mount in spec["mounts"]:
        words += ["--ro-bind", sysfs, mount["destination"]] if mount["type"] == "sysfs" else _mount(mount)
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
    return [*words, "--chdir", process["cwd"]]


def packed(words: Sequence[str]) -> bytes:
    """The words as bubblewrap reads them from a descriptor, each ended by a NUL (pure). Raises UsageError where one
    holds a NUL: it would become two, and the second an option."""
    for word in words:
        if "\0" in word:
            raise UsageError(f"a NUL in {word!r:.100}", hint="no program can be given that")
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _mount(mount: Mapping[str, Any]) -> list[str]:
    kind, target, options = mount["type"], mount["destination"], mount["options"]
    if kind == "proc":
        return ["--proc", target]
    if target == "/dev" and kind == "tmpfs":
        return ["--dev", target]
    if kind == "mqueue":
        return ["--mqueue", target]
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


def run(
    program: str,
    bundle: str,
    spec: Mapping[str, Any],
    inside: Inside,
    *,
    interactive: bool,
    must_filter: bool,
    on_warning: Callable[[str], object],
) -> Ended:
    """Run the container until it ends. ``must_filter``: the caller asked for the seccomp filter. Raises
    SystemFailure, NotFound, Unsupported."""
    refused = _refused(spec["process"], inside)
    if refused is not None:
        return refused
    users, groups = (
        [(one["containerID"], one["hostID"], one["size"]) for one in spec["linux"].get(key, ())]
        for key in ("uidMappings", "gidMappings")
    )
    spec = {**spec, "mounts": placed(spec["mounts"], inside)}
    user = spec["process"]["user"]
    is_root = not (user["uid"] or user["gid"] or set(user["additionalGids"]) - {0})
    with ExitStack() as opened:

        def keep(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        above = keep(rights.nested(users, groups))
        given = {"--info-fd": keep(os.open(_info(bundle), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))}
        if not is_root:
            given["--userns"] = keep(owned(above, user["uid"], user["gid"]))
        data = _filter(spec["linux"].get("seccomp"), must_filter, on_warning)
        if data:
            given["--seccomp"] = keep(in_memory(data))
        network = next((one for one in spec["linux"]["namespaces"] if one["type"] == "network"), None)
        sysfs = os.path.join(bundle, "sys") if network else _SYS
        if network:
            os.makedirs(sysfs, mode=0o755, exist_ok=True)

        ours = os.getpid()

        def first() -> None:
            alone(_outer(bundle), ours)
            if network and "path" in network:  # it belongs to the namespace of users that we are in
                enter_network(network["path"])
                _own_sysfs(sysfs, spec, on_warning)
            enter(above)
            if network and "path" not in network:
                new_network()
                _own_sysfs(sysfs, spec, on_warning)
            if users or not is_root:
                become(user["uid"], user["gid"], user["additionalGids"])

        def signalled(number: int, by_terminal: bool) -> None:
            if by_terminal and spec["process"]["terminal"]:
                return  # which is the program's too
            with suppress(SystemFailure):  # not there yet, or no more
                kill(bundle, str(number))

        # not as words of the command, which everybody on this machine may read: secrets stand in the environment
        words = keep(in_memory(packed(arguments(spec, _kind_of, given, sysfs))))
        command = [program, "--args", str(words), "--", *spec["process"]["args"]]
        return Ended(spawned(command, interactive, [*given.values(), words], first, signalled))


def placed(mounts: Sequence[Mapping[str, Any]], inside: Inside) -> list[dict[str, Any]]:
    """The mounts with their targets as they are called without links. bubblewrap follows links of the image while the
    machine's root still stands beside it (at /oldroot), and makes there what is missing. Raises Unsupported where no
    target without links can be told."""
    found: list[dict[str, Any]] = []
    named: list[str] = []
    for mount in mounts:
        target = os.path.normpath(mount["destination"])
        number = _above(named, target)
        if number >= 0:  # in the image it need not be there
            place = found[number]["destination"] + target.removeprefix(named[number])
        else:
            try:
                place = inside.resolved(target)
            except OSError as error:
                raise Unsupported(f"bubblewrap can't mount at {target}: {error.strerror}", hint=_OTHER) from None
        covering = _above([one["destination"] for one in found], place)
        if place == "/" or (mount["type"] != "bind" and target in _REAL and place != target):
            raise Unsupported(f"bubblewrap can't mount at {target}: a link to {place} in the image", hint=_OTHER)
        if covering >= 0:
            above = found[covering]
            _check_below(above, place.removeprefix(above["destination"]), target)
        named.append(target)
        found.append({**mount, "destination": place})
    return found


def _above(places: Sequence[str], target: str) -> int:
    """Which of the places the target is below: the longest, the last of equal ones; -1 for none."""
    found = -1
    for number, place in enumerate(places):
        if target.startswith(place.rstrip("/") + "/") and (found < 0 or len(place) >= len(places[found])):
            found = number
    return found


def _check_below(above: Mapping[str, Any], rest: str, target: str) -> None:
    """Raises Unsupported where a mount shows, or may show, a link on the way to ``rest`` in it."""
    first = rest.split("/")[1]
    if above["type"] == "proc" or (above["destination"] == "/dev" and first in _DEVICE_LINKS):
        raise Unsupported(f"bubblewrap can't mount at {target}, which the kernel makes", hint=_OTHER)
    if above["type"] != "bind" or not os.path.isdir(above["source"]):
        return
    with Inside(above["source"]) as volume:
        at = ""
        for name in rest.split("/")[1:]:
            at += f"/{name}"
            try:
                volume.resolved(at, links=False)
            except FileNotFoundError:
                return  # bubblewrap makes it
            except OSError as error:
                raise Unsupported(f"bubblewrap can't mount at {target}: {error.strerror}", hint=_OTHER) from None


def _own_sysfs(place: str, spec: Mapping[str, Any], on_warning: Callable[[str], object]) -> None:
    """Mount a sysfs of this process's network namespace in a mount namespace that no other process has. Where the
    kernel refuses, the container's /sys is empty: the machine's is not shown."""
    try:
        new_mounts()
        kernel.mount("sysfs", (), place, attributes=_SYS_ATTRIBUTES)
    except (OSError, LaminaError) as error:
        on_warning(f"the container's /sys is empty: {error}")
        for path in spec["linux"].get("maskedPaths", ()):
            if path.startswith(_SYS + "/"):
                os.makedirs(place + path.removeprefix(_SYS), exist_ok=True)


def _filter(wanted: Mapping[str, Any] | None, must: bool, on_warning: Callable[[str], object]) -> bytes:
    """The filter for bubblewrap; b"" for none. Raises Unsupported where it was asked for and can't be made."""
    if wanted is None:
        return b""
    from lamina.run.bpf import compiled

    try:
        return compiled(wanted)
    except Unsupported as error:
        if must:
            raise
        on_warning(f"the container's system calls are not filtered: {error}")
        return b""


def kill(bundle: str, word: str) -> None:
    """Send a signal, a name or a number, to the container's first process. Raises UsageError, SystemFailure."""
    try:
        number = int(word) if word.isdecimal() else signal.Signals[f"SIG{word.upper().removeprefix('SIG')}"].value
    except KeyError:
        raise UsageError(f"no signal {word!r:.60}", hint="like TERM, or a number") from None
    try:
        process = process_of(bundle)
        held = os.pidfd_open(process)
        try:
            if process_of(bundle) != process:  # it has ended before we held it: the number may be another's
                raise ProcessLookupError(process)
            signal.pidfd_send_signal(held, number)
        finally:
            os.close(held)
    except (OSError, ValueError):
        raise SystemFailure("the container has no process yet, or none any more", hint="see `lamina ps`") from None


def _kind_of(path: str) -> str:
    return "directory" if os.path.isdir(path) else "file" if os.path.exists(path) else ""


def _info(bundle: str) -> str:
    return os.path.join(bundle, "bubblewrap.json")


def process_of(bundle: str) -> int:
    """The number of the container's first process. Raises OSError or ValueError while it has none."""
    with open(_info(bundle), "rb") as file:
        json.load(file)  # said when the process is there
    with open(_outer(bundle), "rb") as file:
        return _child_of(int(file.read()))


def _outer(bundle: str) -> str:
    return os.path.join(bundle, "pid")


def _child_of(pid: int) -> int:
    """Raises ProcessLookupError."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                    return int(name)
    raise ProcessLookupError(pid)


def _refused(process: Mapping[str, Any], inside: Inside) -> Ended | None:
    """docker's exit codes for a program that can't be started: bubblewrap has none of its own."""
    try:
        os.close(inside.open(process["cwd"], os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        return Ended(CANNOT_RUN, f"{process['cwd']}: {error.strerror}")
    there = ""
    for place in places(process):
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
    return Ended(NOT_FOUND, f"{name_of(process)}: not found in the image")
