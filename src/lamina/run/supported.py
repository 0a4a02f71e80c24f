"""Whether this host and its runtime support the options, checked before anything is made."""

from __future__ import annotations

import os

from lamina.errors import Unsupported, UsageError
from lamina.host import privileges
from lamina.light import TYPE_CHECKING
from lamina.run.options import CONTAINER, FILE, SHARED_KINDS, ContainerOptions

if TYPE_CHECKING:
    from lamina.run.runtime import Runtime

_TMPFS_OPTIONS = (
    *("rw", "ro", "exec", "noexec", "nosuid", "nodev", "relatime", "noatime"),
    *("size", "mode", "nr_inodes", "nr_blocks", "uid", "gid"),
)
_APPARMOR = "/sys/module/apparmor/parameters/enabled"


def check_flags(wanted: ContainerOptions) -> None:
    """Refuse flags that contradict each other or the host. Raises UsageError."""
    if wanted.uts == "host" and (wanted.hostname or wanted.domainname):
        raise UsageError("--hostname can't be combined with --uts host", hint="leave one of them out")
    if wanted.ipc not in ("", "shareable") and wanted.shm_size is not None:
        raise UsageError(f"--shm-size can't be combined with --ipc {wanted.ipc}", hint="leave one of them out")
    for flag, word, kind in (
        ("--cpuset-cpus", wanted.cpuset_cpus, "cpu"),
        ("--cpuset-mems", wanted.cpuset_mems, "node"),
    ):
        if word:
            _check_set(flag, word, _read(f"/sys/devices/system/{kind}/online"))
    if wanted.memory_reservation and wanted.memory and wanted.memory_reservation > wanted.memory:
        raise UsageError("--memory-reservation is more than --memory", hint="give less than --memory")
    for flag, value in (("--cpu-period", wanted.cpu_period), ("--cpu-quota", wanted.cpu_quota)):
        if wanted.cpus is not None and value is not None:
            raise UsageError(f"{flag} and --cpus exclude each other", hint="give one of them; 0 takes one away")
    if wanted.pid == "host" and wanted.userns.kind == "auto":
        raise UsageError("--pid host can't be combined with --userns auto", hint="leave one of them out")
    for kind in SHARED_KINDS:
        if getattr(wanted, kind).startswith((CONTAINER, FILE)):
            _check_shared(wanted, kind)


def _check_shared(wanted: ContainerOptions, kind: str) -> None:
    """Refuse what belongs to the namespace that the container shares with another one (pure). Raises UsageError."""
    flag = f"--{kind} {getattr(wanted, kind):.40}"
    if wanted.userns.kind and kind in ("pid", "ipc"):
        raise UsageError(
            f"{flag} can't be combined with --userns {wanted.userns.kind}: the namespace belongs to another user "
            "namespace",
            hint="leave --userns out",
        )
    given: dict[str, object] = {}
    if kind == "uts":
        given = {"--hostname": wanted.hostname, "--domainname": wanted.domainname}
    if kind == "network" and wanted.network.startswith(CONTAINER):
        given = {
            "--hostname": wanted.hostname,
            "--publish": wanted.ports,
            "--publish-all": wanted.publish_all,
            "--expose": wanted.expose,
            "--dns": wanted.dns,
            "--dns-search": wanted.dns_search,
            "--dns-option": wanted.dns_options,
            "--add-host": wanted.add_hosts,
        }
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name} can't be combined with {flag}: the other container's is used",
                hint=f"leave it out, or give {name} to the other container",
            )


def _check_set(flag: str, word: str, online: str) -> None:
    """Refuse a list of processors or memory nodes that this host lacks. ``online``: those that it has, as the
    kernel lists them; "" if that is unknown (pure). Raises UsageError."""
    there = _ranges(online)
    for first, last in _ranges(word):
        if there and not any(low <= first <= last <= high for low, high in there):
            raise UsageError(f"{flag} {word}: this host has {online.strip()}", hint="choose some of those")


def _ranges(word: str) -> list[tuple[int, int]]:
    parts = (part.partition("-") for part in word.strip().split(",") if part)
    return [(int(first), int(last or first)) for first, _, last in parts]


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def limits_as_flags(wanted: ContainerOptions) -> str:
    """The limits, as flags, that may have prevented a container from starting; "" for none (pure)."""
    words = [f"--ulimit {one.name}={one.soft}" for one in wanted.ulimits]
    words += [f"--memory {wanted.memory}"] if wanted.memory is not None else []
    words += [f"--pids-limit {wanted.pids}"] if wanted.pids is not None else []
    return ", ".join(words)


def check_supported(wanted: ContainerOptions, runtime: Runtime) -> None:
    """Raises UsageError, Unsupported."""
    check_flags(wanted)
    if runtime.is_machine:
        from lamina.run.machine.supported import check_supported as check_machine

        check_machine(wanted)
        return
    if os.path.basename(runtime.program) == "crun" and _read("/sys/fs/cgroup/unified/cgroup.controllers").strip():
        raise Unsupported(
            "crun can't run here: this host's cgroups are of both versions, with controllers in version 2",
            hint="use --runtime runc or --runtime bwrap",
        )
    if not runtime.cgroups and wanted.limited:
        raise Unsupported(
            "memory, processors and processes can't be limited here: there is no cgroup for this user",
            hint="leave --memory, --cpus, --pids-limit and their like out",
        )
    if wanted.limited:
        _check_controllers(wanted)
    if not runtime.cgroups and wanted.cgroupns == "host":
        raise Unsupported(
            "--cgroupns: the container has no cgroup of its own on this host", hint="leave --cgroupns out"
        )
    if wanted.sysctls:
        from lamina.run.limits import check_sysctls

        check_sysctls(wanted, wanted.network)
    if runtime.is_bubblewrap:
        flag = first_unsupported(wanted)
        if flag:
            raise Unsupported(f"bubblewrap can't do {flag}", hint="leave it out, or install runc or crun")
    if wanted.apparmor and not _has_apparmor():
        raise Unsupported("this host has no AppArmor", hint="leave --security-opt apparmor= out")
    if not privileges.is_root():
        _check_plain(wanted)


def _check_controllers(wanted: ContainerOptions) -> None:
    """Refuse limits that the kernel's cgroups can't set: a host may lack a controller. Raises Unsupported."""
    from lamina.run.cgroups import lacking

    flags = {
        "memory": ("--memory", (wanted.memory, wanted.memory_swap, wanted.memory_reservation)),
        "cpu": ("--cpus, --cpu-shares", (wanted.cpus, wanted.cpu_shares)),
        "pids": ("--pids-limit", (wanted.pids,)),
        "cpuset": ("--cpuset-cpus, --cpuset-mems", (wanted.cpuset_cpus or None, wanted.cpuset_mems or None)),
    }
    asked = {name for name, (_, values) in flags.items() if any(value is not None for value in values)}
    for name in lacking(asked):
        raise Unsupported(
            f"{flags[name][0]}: the cgroups of this host have no controller {name}",
            hint="leave the limit out, or enable the controller in the kernel's command line",
        )


def first_unsupported(wanted: ContainerOptions) -> str:
    """The first flag that bubblewrap has no option for, "" if there is none (pure)."""
    asked = {
        "--pid host": wanted.pid == "host",
        "--pid container:": wanted.pid.startswith((CONTAINER, FILE)),
        "--sysctl": wanted.sysctls,
        "--domainname": wanted.domainname,
        "--cgroupns host": wanted.cgroupns == "host",
        "--cpu-shares": wanted.cpu_shares is not None,
        "--cpuset-cpus": wanted.cpuset_cpus,
        "--cpuset-mems": wanted.cpuset_mems,
        "--memory-swap": wanted.memory_swap is not None,
        "--memory-reservation": wanted.memory_reservation is not None,
        "the hooks of a CDI device": wanted.edits.hooks,
        "--security-opt apparmor=": wanted.apparmor,
    }
    for mount in wanted.mounts:
        asked[f"the propagation {mount.propagation}"] = mount.propagation.removeprefix("r") != "private"
        asked[f"a mount of {mount.source} alone, without what is mounted below it"] = "bind" in mount.options
        asked[f"noexec for {mount.target}"] = mount.kind != "tmpfs" and "noexec" in mount.options
        for option in mount.options if mount.kind == "tmpfs" else ():
            asked[f"the option {option} of a tmpfs"] = option.partition("=")[0] not in _TMPFS_OPTIONS
    return next((flag for flag, given in asked.items() if given), "")


def _check_plain(wanted: ContainerOptions) -> None:
    """Refuse what a plain user may not have. Raises Unsupported."""
    if wanted.oom_score is not None and wanted.oom_score < _own_score():
        raise Unsupported(
            f"--oom-score-adj {wanted.oom_score}: only root may go below this process's own, {_own_score()}",
            hint="give a higher number, or leave it out",
        )
    if wanted.ulimits:
        import resource

        for one in wanted.ulimits:
            number = getattr(resource, f"RLIMIT_{one.name.upper()}", None)
            most = -1 if number is None else resource.getrlimit(number)[1]
            if most != resource.RLIM_INFINITY and one.hard > most:
                raise Unsupported(
                    f"--ulimit {one.name}: only root may go above this user's own hard limit, {most}",
                    hint="give a lower number",
                )


def _own_score() -> int:
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _has_apparmor() -> bool:
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            return file.read().strip() == "Y" and os.path.isdir("/sys/kernel/security/apparmor")
    except OSError:
        return False
