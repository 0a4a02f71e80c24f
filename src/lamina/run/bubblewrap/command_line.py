"""A runtime spec as the command line of bubblewrap (pure)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

SYS = "/sys"


def arguments(
    spec: Mapping[str, Any],
    kind_of: Callable[[str], str],
    given: Mapping[str, int],
    sysfs: str = SYS,
    *,
    init: bool = False,
) -> list[str]:
    """bubblewrap's options for ``spec``, without the command (pure). ``kind_of`` returns "file", "directory" or ""
    for a path of the host's /proc and /sys. ``given``: options whose values are descriptors. ``sysfs``: where the
    sysfs of the container's network is mounted. ``init``: bubblewrap's own process is the first one, and reaps
    orphans."""
    process = spec["process"]
    words = [word for option, number in given.items() for word in (option, str(number))]
    words += ["--die-with-parent", *([] if init else ["--as-pid-1"])]
    kinds = {one["type"] for one in spec["linux"]["namespaces"] if "path" not in one}
    words += [f"--unshare-{kind}" for kind in ("pid", "ipc", "uts") if kind in kinds]
    words.append("--unshare-cgroup-try")
    if "hostname" in spec:
        words += ["--hostname", spec["hostname"]]
    words += ["--ro-bind" if spec["root"]["readonly"] else "--bind", spec["root"]["path"], "/"]
    for mount in spec["mounts"]:
        if mount["type"] == "mqueue" and "ipc" not in kinds:
            continue  # only who owns the namespace may mount its message queues
        words += ["--ro-bind", sysfs, mount["destination"]] if mount["type"] == "sysfs" else _mount(mount)
    words += _hidden(spec["linux"], kind_of)
    for mount in spec["mounts"]:
        if mount["type"] == "tmpfs" and "ro" in mount["options"]:  # all mount points in it are made by now
            words += ["--remount-ro", mount["destination"]]
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


def _hidden(linux: Mapping[str, Any], kind_of: Callable[[str], str]) -> list[str]:
    """Options for the paths that are masked or read-only."""
    words: list[str] = []
    for path in linux.get("maskedPaths", ()):
        kind = kind_of(path)
        if kind:
            words += ["--tmpfs", path] if kind == "directory" else ["--ro-bind", "/dev/null", path]
    for path in linux.get("readonlyPaths", ()):
        if kind_of(path):
            words += ["--ro-bind", path, path]
    return words


def packed(words: Sequence[str]) -> bytes:
    """The words as bubblewrap reads them from a descriptor, each followed by a NUL (pure). Raises UsageError if a
    word holds a NUL: it would become two words, and the second could be an option."""
    for word in words:
        if "\0" in word:
            raise UsageError(f"{word!r:.100} has a NUL character", hint="remove it")
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
        return ["--bind", mount["source"], target]  # bind-mounted from ``source``
    if kind == "bind" and "dev" in options:
        return ["--dev-bind", mount["source"], target]
    if kind == "bind":
        return ["--ro-bind" if "ro" in options else "--bind", mount["source"], target]
    return []  # devpts (--dev has one), cgroups
