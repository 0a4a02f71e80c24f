"""``HostConfig`` of docker's inspect: the options of `run` that concern the host (pure)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lamina.run.limits import UNLIMITED
from lamina.run.options import memory_and_swap, parse_size
from lamina.run.spec import MASKED, READ_ONLY

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions, Mount, Userns
    from lamina.store.containers import Container

_SHM_SIZE = 64 << 20
_PREFIX = "CAP_"


def host_config(
    wanted: ContainerOptions, container: Container, ports: dict[str, Any], log_driver: str, *, swap: bool
) -> dict[str, Any]:
    """``ports``: ``PortBindings``. ``log_driver``: the one that writes the log. ``swap``: the kernel can limit it."""
    found: dict[str, Any] = {
        "Binds": [_bind(mount) for mount in wanted.mounts if mount.mode is not None and mount.source] or None,
        "ContainerIDFile": wanted.cidfile,
        "LogConfig": {"Type": log_driver, "Config": dict(sorted(wanted.log_options))},
        "NetworkMode": network_mode(wanted),
        "PortBindings": ports,
        "RestartPolicy": {"Name": wanted.restart.name, "MaximumRetryCount": wanted.restart.retries},
        "AutoRemove": bool(container.remove),
        "VolumeDriver": "",
        "VolumesFrom": list(wanted.volumes_from) or None,
        "CapAdd": _capabilities(wanted.cap_add),
        "CapDrop": _capabilities(wanted.cap_drop),
        "CgroupnsMode": wanted.cgroupns or "private",
        "Dns": list(wanted.dns),
        "DnsOptions": list(wanted.dns_options),
        "DnsSearch": list(wanted.dns_search),
        "ExtraHosts": [f"{name}:{address}" for name, address in wanted.add_hosts] or None,
        "GroupAdd": list(wanted.groups) or None,
        "IpcMode": wanted.ipc or "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": wanted.oom_score or 0,
        "PidMode": wanted.pid,
        "Privileged": wanted.privileged,
        "PublishAllPorts": wanted.publish_all,
        "ReadonlyRootfs": wanted.read_only,
        "SecurityOpt": _security(wanted) or ([] if wanted.unmask else None),
        "UTSMode": wanted.uts,
        "UsernsMode": _userns(wanted.userns),
        "ShmSize": _SHM_SIZE if wanted.shm_size is None else wanted.shm_size,
        "Runtime": os.path.basename(container.runtime),
        "ConsoleSize": [0, 0],
        "Isolation": "",
        **_resources(wanted, swap=swap),
        **_masks(wanted),
    }
    tmpfs = {mount.target: mount.mode for mount in wanted.mounts if mount.kind == "tmpfs" and mount.mode is not None}
    for key, value in (
        ("Mounts", [_mount(mount) for mount in wanted.mounts if mount.mode is None]),
        ("Tmpfs", dict(sorted(tmpfs.items()))),
        ("Sysctls", dict(sorted(wanted.sysctls))),
        ("Annotations", dict(sorted(wanted.annotations))),
        ("Init", wanted.init),
    ):
        if value:
            found[key] = value
    return found


def network_mode(wanted: ContainerOptions) -> str:
    """The network that was asked for, as docker calls it."""
    if wanted.networks:
        return wanted.networks[0].name
    return wanted.network or "default"


def _bind(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}" + (f":{mount.mode}" if mount.mode else "")


def _mount(mount: Mount) -> dict[str, Any]:
    """What --mount has asked for, in docker's form."""
    found: dict[str, Any] = {"Type": mount.kind, "Source": mount.source, "Target": mount.target}
    found["ReadOnly"] = mount.read_only
    if mount.kind == "bind" and mount.propagation != "rprivate":
        found["BindOptions"] = {"Propagation": mount.propagation}
    if mount.kind == "volume" and (
        mount.labels or "nocopy" in mount.options or mount.subpath or mount.driver_options
    ):
        volume = {"NoCopy": "nocopy" in mount.options, "Labels": dict(mount.labels), "Subpath": mount.subpath}
        driver = {"DriverConfig": {"Options": dict(mount.driver_options)} if mount.driver_options else {}}
        found["VolumeOptions"] = {key: value for key, value in volume.items() if value} | driver
    if mount.kind == "tmpfs":
        found["TmpfsOptions"] = _tmpfs(mount)
    return {key: value for key, value in found.items() if value}


def _tmpfs(mount: Mount) -> dict[str, int]:
    values = dict(word.split("=", 1) for word in mount.options if "=" in word)
    size, mode = values.get("size", ""), values.get("mode", "")
    found = {
        "SizeBytes": 0 if not size or size.endswith("%") else parse_size(size),
        "Mode": int(mode, 8) if mode else 0,
    }
    return {key: value for key, value in found.items() if value}


def _capabilities(names: tuple[str, ...]) -> list[str] | None:
    upper = [name.upper() for name in names]
    return [name if name == "ALL" or name.startswith(_PREFIX) else _PREFIX + name for name in upper] or None


def _security(wanted: ContainerOptions) -> list[str]:
    found = ["no-new-privileges"] if wanted.no_new_privileges else []
    found += [f"seccomp={wanted.seccomp}"] if wanted.seccomp else []
    found += [f"apparmor={wanted.apparmor}"] if wanted.apparmor else []
    found += [f"mask={':'.join(wanted.masked)}"] if wanted.masked else []
    found += [f"unmask={':'.join(wanted.unmasked)}"] if wanted.unmasked else []
    return found


def _userns(userns: Userns) -> str:
    ids = [f"{name}={number}" for name, number in (("uid", userns.uid), ("gid", userns.gid)) if number is not None]
    return userns.kind + (f":{','.join(ids)}" if ids else "")


def _resources(wanted: ContainerOptions, *, swap: bool) -> dict[str, Any]:
    return {
        "CpuShares": wanted.cpu_shares or 0,
        "Memory": wanted.memory or 0,
        "NanoCpus": round((wanted.cpus or 0) * 1_000_000_000),
        "CgroupParent": "",
        "BlkioWeight": 0,
        **{f"BlkioDevice{name}": None for name in ("ReadBps", "WriteBps", "ReadIOps", "WriteIOps")},
        "BlkioWeightDevice": [],
        "CpuPeriod": wanted.cpu_period or 0,
        "CpuQuota": wanted.cpu_quota or 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": wanted.cpuset_cpus,
        "CpusetMems": wanted.cpuset_mems,
        "Devices": [
            {"PathOnHost": one.source, "PathInContainer": one.target, "CgroupPermissions": one.access}
            for one in wanted.devices
        ],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
        "MemoryReservation": wanted.memory_reservation or 0,
        "MemorySwap": (memory_and_swap(wanted) if swap else wanted.memory_swap) or 0,
        "MemorySwappiness": None,
        "OomKillDisable": False,
        "PidsLimit": wanted.pids,
        "Ulimits": [{"Name": one.name, "Hard": _limit(one.hard), "Soft": _limit(one.soft)} for one in wanted.ulimits]
        or None,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    }


def _limit(number: int) -> int:
    return -1 if number == UNLIMITED else number


def _masks(wanted: ContainerOptions) -> dict[str, Any]:
    if wanted.unmask or wanted.privileged:
        none: list[str] | None = [] if wanted.unmask else None
        return {"MaskedPaths": list(wanted.masked) or none, "ReadonlyPaths": none}
    return {
        "MaskedPaths": [*(path for path in MASKED if path not in wanted.unmasked), *wanted.masked],
        "ReadonlyPaths": [path for path in READ_ONLY if path not in wanted.unmasked],
    }
