"""The OCI runtime spec of a container (pure; runtime-spec config.md and config-linux.md): docker's defaults."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence

from lamina.errors import InvalidContent
from lamina.light import TYPE_CHECKING, Value, field
from lamina.run.capability import EVERY, capabilities
from lamina.run.options import Mount, Wanted
from lamina.run.user import User
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
INIT = "/run/lamina-init"
_PERIOD = 100_000  # microseconds


class Place(Value):
    """What the machine gives to a container. ``files``: of this machine, by place in the container (hosts, hostname,
    resolv.conf). ``mounts``: binds whose sources are absolute, and tmpfs. ``devices``: whether a device cgroup
    guards the machine's devices. ``owners``: the ids of the container's user namespace, if it has one of its own.
    ``network``: "" for a namespace of its own, "host", or the path of one. ``plain``: a
    plain user's: nothing of the machine is ours. ``tty_group``: whether the group of terminals, 5, is there.
    ``capabilities``: the bits of those that can be given away here."""

    rootfs: str
    hostname: str
    files: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    devices: bool = True
    cgroups: bool = True
    network: str = ""
    owners: Owners = AS_STATED
    seccomp: Mapping[str, Any] | None = None
    init: str = ""
    plain: bool = False
    tty_group: bool = True
    capabilities: int = EVERY


def check_words(image: str, words: Iterable[str]) -> None:
    """Refuse what an image wants to give to a program and no program can be given: a NUL ends a word, and what stands
    behind it would be another one, an option of the runtime's say. Raises InvalidContent."""
    for word in words:
        if "\0" in word:
            raise InvalidContent(
                f"the config of {image} holds a NUL: {word!r:.100}",
                hint="no program can be given that; it was made to mislead",
            )


def environment(wanted: Wanted, image: Sequence[str], home: str, hostname: str) -> list[str]:
    """docker's order: defaults, the image's, the caller's; the last word about a name counts."""
    values = {"PATH": PATH, "HOSTNAME": hostname}
    if wanted.tty:
        values["TERM"] = "xterm"
    for item in image:
        key, _, value = item.partition("=")
        values[key] = value
    values.update(wanted.env)
    values.setdefault("HOME", home)
    return [f"{key}={value}" for key, value in values.items()]


def name_of(process: Mapping[str, Any]) -> str:
    """The program of a runtime spec's process, as it was named (pure)."""
    words: list[str] = process["args"]
    return words[words.index("--") + 1] if words[0] == INIT else words[0]


def places(process: Mapping[str, Any]) -> list[str]:
    """Where the program of a runtime spec's process may be in the image, in the order in which it is looked for
    (pure)."""
    name = name_of(process)
    if "/" in name:
        return [os.path.join(process["cwd"], name)]
    search = next((item[5:] for item in process["env"] if item.startswith("PATH=")), "")
    return [os.path.join(directory or process["cwd"], name) for directory in search.split(":")]


def is_alike(head: bytes, own: bytes) -> bool:
    """Whether two ELF files that begin so are for the same machine: class, byte order and e_machine (pure). Most
    programs are for that of the interpreter that runs us, and need no further look."""
    return head[:4] == b"\x7fELF" and (head[:6], head[18:20]) == (own[:6], own[18:20])


def guarded(spec: Mapping[str, Any], shell: str, program: str) -> dict[str, Any]:
    """The spec with a hook that closes the root file system's devices again. crun mounts it anew, and forgets that
    they were closed. ``shell``, ``program``: sh(1) and mount(8)."""
    options = ["remount", "bind", "nodev", *(["ro"] if spec["root"]["readonly"] else [])]
    # crun writes the container's state to a hook, and takes it for a failure where nobody reads that
    script = 'while read -r _; do :; done; exec "$0" -o "$1" "$2"'
    hook = {"path": shell, "args": ["sh", "-c", script, program, ",".join(options), spec["root"]["path"]]}
    return {**spec, "hooks": {"createContainer": [hook]}}


def held(wanted: Wanted, devices: bool, here: int = EVERY) -> tuple[str, ...]:
    """The capabilities: without a device cgroup nobody makes devices. ``here``: as ``capabilities`` has it."""
    drop = wanted.cap_drop if devices else (*wanted.cap_drop, "MKNOD")
    return capabilities(wanted.cap_add, drop, here)


def runtime_spec(
    wanted: Wanted, words: Sequence[str], env: Sequence[str], cwd: str, user: User, place: Place
) -> dict[str, Any]:
    """``config.json`` of the bundle."""
    caps = list(held(wanted, place.devices, place.capabilities))
    # a user other than root starts with none, and gets those that files give within the bounding set
    mine = caps if user.uid == 0 else []
    process: dict[str, Any] = {
        "terminal": wanted.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": [INIT, "--", *words] if place.init else list(words),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {"bounding": caps, "effective": mine, "permitted": mine},
        "noNewPrivileges": wanted.no_new_privileges,
        "oomScoreAdj": 0,
    }
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": place.rootfs, "readonly": wanted.read_only},
        "hostname": place.hostname,
        "mounts": _mounts(wanted, place),
        "linux": _linux(wanted, place),
    }


def _mounts(wanted: Wanted, place: Place) -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    pts = [*quiet[:2], "newinstance", "ptmxmode=0666", "mode=0620"]
    found = [
        _mount("/proc", "proc", "proc", quiet),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", [*pts, "gid=5"] if place.tty_group else pts),
        _mount("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", quiet),
        _sys(place),
    ]
    if place.cgroups:
        found.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", [*quiet, "relatime", "ro"]))
    given = {posixpath.normpath(mount.target) for mount in place.mounts}
    for target, source in place.files.items():
        if target not in given:
            more = ["ro"] if wanted.read_only else []
            found.append(_mount(target, "bind", source, ["rbind", "rprivate", *more]))
    if place.init:
        found.append(_mount(INIT, "bind", place.init, ["bind", "ro"]))
    for mount in sorted(place.mounts, key=lambda mount: posixpath.normpath(mount.target).count("/")):
        if mount.kind == "tmpfs":
            options = ["nosuid", "nodev", "noexec", *mount.options]
            found.append(_mount(mount.target, "tmpfs", "tmpfs", options))
        else:
            more = ["ro"] if mount.read_only else ["rw"]
            if not (place.devices or place.plain):  # a device in a volume would work: a plain user's are the kernel's
                more.append("nodev")
            found.append(_mount(mount.target, "bind", mount.source, ["rbind", "rprivate", *more]))
    return found


def _sys(place: Place) -> dict[str, Any]:
    """sysfs belongs to a network namespace: without one of its own a user namespace may only bind it."""
    theirs = place.network == "host" or (place.network and place.owners)
    if theirs and (place.plain or place.owners):
        return _mount("/sys", "bind", "/sys", ["rbind", "nosuid", "noexec", "nodev", "ro"])
    return _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"])


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _linux(wanted: Wanted, place: Place) -> dict[str, Any]:
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    if place.network != "host":
        namespaces.append({"type": "network", **({"path": place.network} if place.network else {})})
    found: dict[str, Any] = {"namespaces": namespaces}
    if place.owners:
        namespaces.append({"type": "user"})
        for key, ranges in (("uidMappings", place.owners.users), ("gidMappings", place.owners.groups)):
            found[key] = [
                {"containerID": inside, "hostID": outside, "size": count} for inside, outside, count in ranges
            ]
    if place.cgroups:
        namespaces.append({"type": "cgroup"})
        found["resources"] = _resources(wanted, place)
    if not wanted.unmask:
        found |= {"maskedPaths": list(MASKED), "readonlyPaths": list(READ_ONLY)}
    if place.seccomp is not None:
        found["seccomp"] = dict(place.seccomp)
    return found


def _resources(wanted: Wanted, place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if place.devices:
        found["devices"] = [{"allow": False, "access": "rwm"}]  # the runtime adds null, zero, tty and their like
    if wanted.memory is not None:
        found["memory"] = {"limit": wanted.memory}
    if wanted.cpus is not None:
        found["cpu"] = {"period": _PERIOD, "quota": int(wanted.cpus * _PERIOD)}
    if wanted.pids is not None:
        found["pids"] = {"limit": wanted.pids}
    return found
