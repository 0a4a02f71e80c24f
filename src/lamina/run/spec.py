"""The OCI runtime spec of a container (pure; runtime-spec config.md and config-linux.md): docker's defaults."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence

from lamina.errors import InvalidContent
from lamina.light import TYPE_CHECKING, Value, field
from lamina.run.capability import EVERY, capabilities
from lamina.run.options import ContainerOptions, Mount, Node, memory_and_swap
from lamina.run.user import User
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from typing import Any

    from lamina.spec.image_config import ImageConfig

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
SHM_SIZE = 64 << 20  # bytes of /dev/shm, as docker
_OPPOSITES = (("noexec", "exec"), ("nodev", "dev"), ("nosuid", "suid"))
_BIND_OPTIONS = ("nosuid", "nodev", "noexec", "rro")


class HostResources(Value):
    """What the host gives to a container. ``files``: paths of this host, by path in the container (hosts,
    hostname, resolv.conf). ``mounts``: binds with absolute sources, and tmpfs. ``devices``: a device cgroup guards
    the host's devices. ``owners``: the ids of the container's user namespace, if it has one. ``network``: "" for a
    new namespace, "host", or the path of one. ``user_namespace``: the path of the user namespace that ``network``
    belongs to, if that is the container's own. ``plain``: for a plain user. ``tty_group``: the group of terminals,
    5, exists. ``capabilities``: the bits of those that can be given away. ``nodes``: the devices that were asked
    for; with ``bind_nodes`` the host's device files are bind-mounted, because this user can't make device files.
    ``namespaces``: paths of namespaces that others have too, by kind (pid, ipc, uts). ``shm``: the directory that is
    shared as /dev/shm. ``swap``: the kernel can limit memory and swap together."""

    rootfs: str
    hostname: str
    files: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    devices: bool = True
    cgroups: bool = True
    network: str = ""
    user_namespace: str = ""
    owners: Owners = AS_STATED
    seccomp: Mapping[str, Any] | None = None
    init: str = ""
    plain: bool = False
    tty_group: bool = True
    capabilities: int = EVERY
    nodes: Sequence[Node] = ()
    bind_nodes: bool = False
    namespaces: Mapping[str, str] = field(default_factory=dict)
    shm: str = ""
    swap: bool = True


def check_words(image: str, words: Iterable[str]) -> None:
    """Refuse a NUL in what an image gives to a program: the NUL ends a word, and the rest would be another word,
    such as an option of the runtime. Raises InvalidContent."""
    for word in words:
        if "\0" in word:
            raise InvalidContent(
                f"the config of {image} holds a NUL: {word!r:.100}",
                hint="report it to the publisher of the image",
            )


def environment(wanted: ContainerOptions, image: Sequence[str], home: str, hostname: str) -> list[str]:
    """docker's order: defaults, the image's, the caller's; the last value of a name counts."""
    values = {"PATH": PATH, "HOSTNAME": hostname}
    if wanted.tty:
        values["TERM"] = "xterm"
    for item in (*image, *wanted.edits.env):
        key, _, value = item.partition("=")
        if key:  # a variable needs a name
            values[key] = value
    values.update(wanted.env)
    values.setdefault("HOME", home)
    return [f"{key}={value}" for key, value in values.items()]


def working_directory(wanted: ContainerOptions, config: ImageConfig) -> str:
    return wanted.workdir or os.path.join("/", config.working_dir or "")


def program_name(process: Mapping[str, Any]) -> str:
    """The program of a runtime spec's process, as it was given (pure)."""
    words: list[str] = process["args"]
    return words[words.index("--") + 1] if words[0] == INIT else words[0]


def program_paths(process: Mapping[str, Any]) -> list[str]:
    """The paths in the image at which the program of a runtime spec's process is looked up, in order (pure)."""
    name = program_name(process)
    if "/" in name:
        return [os.path.join(process["cwd"], name)]
    search = next((item[5:] for item in process["env"] if item.startswith("PATH=")), "")
    return [os.path.join(directory or process["cwd"], name) for directory in search.split(":")]


def is_same_architecture(head: bytes, own: bytes) -> bool:
    """Whether two ELF files with these first bytes are for the same machine: class, byte order and e_machine
    (pure). Most programs are for that of this Python, and need no further check."""
    return head[:4] == b"\x7fELF" and (head[:6], head[18:20]) == (own[:6], own[18:20])


def with_device_guard(spec: Mapping[str, Any], shell: str, program: str) -> dict[str, Any]:
    """The spec with a hook that mounts the root file system with nodev again: crun loses that option. ``shell``,
    ``program``: the paths of sh(1) and mount(8)."""
    options = ["remount", "bind", "nodev", *(["ro"] if spec["root"]["readonly"] else [])]
    # crun writes the container's state to the hook, and fails if the hook does not read it
    script = 'while read -r _; do :; done; exec "$0" -o "$1" "$2"'
    hook = {"path": shell, "args": ["sh", "-c", script, program, ",".join(options), spec["root"]["path"]]}
    hooks = spec.get("hooks", {})
    return {**spec, "hooks": {**hooks, "createContainer": [*hooks.get("createContainer", ()), hook]}}


def capabilities_of(wanted: ContainerOptions, devices: bool, here: int = EVERY) -> tuple[str, ...]:
    """The capabilities. Without a device cgroup MKNOD is dropped, unless the container is privileged. ``here`` as
    ``capabilities`` takes it."""
    if wanted.privileged:
        return capabilities((*wanted.cap_add, "ALL"), wanted.cap_drop, here)
    drop = wanted.cap_drop if devices else (*wanted.cap_drop, "MKNOD")
    return capabilities(wanted.cap_add, drop, here)


def runtime_spec(
    wanted: ContainerOptions, words: Sequence[str], env: Sequence[str], cwd: str, user: User, host: HostResources
) -> dict[str, Any]:
    """``config.json`` of the bundle."""
    caps = list(capabilities_of(wanted, host.devices, host.capabilities))
    # users other than root start with none; files may give them those of the bounding set
    mine = caps if user.uid == 0 else []
    process: dict[str, Any] = {
        "terminal": wanted.tty,
        "user": user_json(user),
        "args": [INIT, "--", *words] if host.init else list(words),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {"bounding": caps, "effective": mine, "permitted": mine},
        "noNewPrivileges": wanted.no_new_privileges,
        "oomScoreAdj": wanted.oom_score or 0,
    }
    if wanted.ulimits:
        process["rlimits"] = rlimits(wanted)
    if wanted.apparmor:
        process["apparmorProfile"] = wanted.apparmor
    found = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": host.rootfs, "readonly": wanted.read_only},
        "hostname": host.hostname,
        "mounts": _mounts(wanted, host),
        "linux": _linux(wanted, host),
    }
    if wanted.uts == "host" or "uts" in host.namespaces:
        del found["hostname"]  # the host's is used
    if wanted.edits.hooks:
        found["hooks"] = _hooks(wanted)
    if wanted.annotations:
        found["annotations"] = dict(wanted.annotations)
    return found


def user_json(user: User) -> dict[str, Any]:
    """The ``user`` of a runtime spec's process."""
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _hooks(wanted: ContainerOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in wanted.edits.hooks:
        hook: dict[str, Any] = {"path": one.path}
        if one.args:
            hook["args"] = list(one.args)
        if one.env:
            hook["env"] = list(one.env)
        if one.timeout is not None:
            hook["timeout"] = one.timeout
        found.setdefault(one.name, []).append(hook)
    return found


def _mounts(wanted: ContainerOptions, host: HostResources) -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    pts = [*quiet[:2], "newinstance", "ptmxmode=0666", "mode=0620"]
    found = [
        _proc(wanted, host),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", [*pts, "gid=5"] if host.tty_group else pts),
        *_shared(wanted, host, quiet),
        _sys(wanted, host),
    ]
    if host.cgroups:
        more = [] if wanted.privileged else ["ro"]
        found.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", [*quiet, "relatime", *more]))
    if host.bind_nodes:
        found += [_mount(one.path, "bind", one.source, ["bind", "nosuid", "noexec", "dev"]) for one in host.nodes]
    given = {posixpath.normpath(mount.target) for mount in host.mounts}
    for target, source in host.files.items():
        if target not in given:
            more = ["ro"] if wanted.read_only else []
            found.append(_mount(target, "bind", source, ["rbind", "rprivate", *more]))
    if host.init:
        found.append(_mount(INIT, "bind", host.init, ["bind", "ro"]))
    for mount in sorted(host.mounts, key=lambda mount: posixpath.normpath(mount.target).count("/")):
        if mount.kind == "tmpfs":
            options = tmpfs_options(mount.options)
            found.append(_mount(mount.target, "tmpfs", "tmpfs", options))
        else:
            more = ["ro"] if mount.read_only else ["rw"]
            more += [option for option in mount.options if option in _BIND_OPTIONS]
            # a device file in a volume would work; in a user namespace the kernel forbids that
            if not (host.devices or host.plain or wanted.privileged or "nodev" in more):
                more.append("nodev")
            depth = "bind" if "bind" in mount.options else "rbind"
            found.append(_mount(mount.target, "bind", mount.source, [depth, mount.propagation, *more]))
    return found


def tmpfs_options(given: Sequence[str]) -> list[str]:
    """The options with docker's defaults. Of contradicting ones only the last is kept: crun does not let a later one
    count."""
    for pair in _OPPOSITES:
        words = [option for option in given if option in pair]
        given = [option for option in given if option not in pair]
        given = [*(pair[:1] if words[-1:] != [pair[1]] else ()), *given]
    return list(given)


def _proc(wanted: ContainerOptions, host: HostResources) -> dict[str, Any]:
    """A procfs needs a new pid namespace: without one a user namespace may only bind-mount the host's."""
    if wanted.pid == "host" and (host.plain or host.owners):
        return _mount("/proc", "bind", "/proc", ["rbind", "nosuid", "noexec", "nodev"])
    return _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"])


def _shared(wanted: ContainerOptions, host: HostResources, quiet: list[str]) -> list[dict[str, Any]]:
    """The mounts for shared memory and message queues."""
    if wanted.ipc == "host":
        return [_mount(path, "bind", path, ["rbind", *quiet]) for path in ("/dev/shm", "/dev/mqueue")]
    found = [_mount("/dev/mqueue", "mqueue", "mqueue", quiet)]
    if host.shm:
        found.insert(0, _mount("/dev/shm", "bind", host.shm, ["rbind", "rw", *quiet]))
    elif wanted.ipc != "none":
        size = "65536k" if wanted.shm_size is None else str(wanted.shm_size)
        found.insert(0, _mount("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", f"size={size}"]))
    return found


def _sys(wanted: ContainerOptions, host: HostResources) -> dict[str, Any]:
    """A sysfs needs a network namespace that belongs to the user namespace, which otherwise may only bind-mount the
    host's."""
    theirs = host.network == "host" or (host.network and host.owners and not host.user_namespace)
    options = ["nosuid", "noexec", "nodev", *([] if wanted.privileged else ["ro"])]
    if theirs and (host.plain or host.owners):
        return _mount("/sys", "bind", "/sys", ["rbind", *options])
    return _mount("/sys", "sysfs", "sysfs", options)


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _linux(wanted: ContainerOptions, host: HostResources) -> dict[str, Any]:
    shared = {kind for kind in ("pid", "ipc", "uts") if getattr(wanted, kind) == "host"}
    namespaces: list[dict[str, str]] = [
        {"type": kind, **({"path": host.namespaces[kind]} if kind in host.namespaces else {})}
        for kind in ("pid", "ipc", "uts", "mount")
        if kind not in shared
    ]
    if host.network != "host":
        namespaces.append({"type": "network", **({"path": host.network} if host.network else {})})
    found: dict[str, Any] = {"namespaces": namespaces}
    if host.owners:
        namespaces.append({"type": "user", **({"path": host.user_namespace} if host.user_namespace else {})})
        for key, ranges in (("uidMappings", host.owners.users), ("gidMappings", host.owners.groups)):
            found[key] = [
                {"containerID": inside, "hostID": outside, "size": count} for inside, outside, count in ranges
            ]
    if host.cgroups:
        if wanted.cgroupns != "host":
            namespaces.append({"type": "cgroup"})
        found["resources"] = _resources(wanted, host)
    if not (wanted.unmask or wanted.privileged):
        found |= {
            "maskedPaths": [*(path for path in MASKED if path not in wanted.unmasked), *wanted.masked],
            "readonlyPaths": [path for path in READ_ONLY if path not in wanted.unmasked],
        }
    elif wanted.masked:
        found["maskedPaths"] = list(wanted.masked)
    if host.nodes and not host.bind_nodes:
        found["devices"] = [_device(one) for one in host.nodes]
    sysctls = dict(wanted.sysctls)
    if wanted.domainname:
        sysctls["kernel.domainname"] = wanted.domainname
    if sysctls:
        found["sysctl"] = sysctls
    propagations = {mount.propagation.removeprefix("r") for mount in host.mounts if mount.kind == "bind"}
    for kind in ("shared", "slave"):
        if kind in propagations:  # mounts only propagate into the container if its root allows it
            found["rootfsPropagation"] = f"r{kind}"
            break
    if host.seccomp is not None:
        found["seccomp"] = dict(host.seccomp)
    return found


def _device(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"path": node.path, "type": node.kind, "major": node.major, "minor": node.minor}
    for key, value in (("fileMode", node.mode), ("uid", node.uid), ("gid", node.gid)):
        if value is not None:
            found[key] = value
    return found


def _resources(wanted: ContainerOptions, host: HostResources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.devices and wanted.privileged:
        found["devices"] = [{"allow": True, "access": "rwm"}]
    elif host.devices:
        found["devices"] = [
            {"allow": False, "access": "rwm"}
        ]  # the runtime allows null, zero, tty and similar devices
        found["devices"] += [
            {"allow": True, "type": one.kind, "major": one.major, "minor": one.minor, "access": one.access}
            for one in host.nodes
            if one.kind in "bc"
        ]
    return found | limits(wanted, swap=host.swap)


def rlimits(wanted: ContainerOptions) -> list[dict[str, Any]]:
    """``process.rlimits``; of one limit that was given twice the last one counts."""
    return [
        {"type": f"RLIMIT_{one.name.upper()}", "soft": one.soft, "hard": one.hard}
        for one in {one.name: one for one in wanted.ulimits}.values()
    ]


def limits(wanted: ContainerOptions, *, swap: bool) -> dict[str, Any]:
    """The limits of memory, processors and processes in ``linux.resources``. ``swap``: the kernel can limit it."""
    found: dict[str, Any] = {}
    memory = {
        "limit": wanted.memory,
        "swap": memory_and_swap(wanted) if swap else wanted.memory_swap,
        "reservation": wanted.memory_reservation,
    }
    cpu = {
        "period": wanted.cpu_period if wanted.cpus is None else _PERIOD,
        "quota": wanted.cpu_quota if wanted.cpus is None else int(wanted.cpus * _PERIOD),
        "shares": wanted.cpu_shares,
        "cpus": wanted.cpuset_cpus or None,
        "mems": wanted.cpuset_mems or None,
    }
    for name, values in (("memory", memory), ("cpu", cpu), ("pids", {"limit": wanted.pids})):
        said = {key: value for key, value in values.items() if value is not None}
        if said:
            found[name] = said
    return found
