"""A container in the form of docker's inspect: from its record and its runtime spec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError
from lamina.run.capability import DEFAULT
from lamina.run.container.record import stack_of
from lamina.run.container.running import first_process
from lamina.spec.json import read_own
from lamina.store.containers import CREATED, DAMAGED, PAUSED, RESTARTING, RUNNING

if TYPE_CHECKING:
    from lamina.spec.image_config import ImageConfig
    from lamina.store.containers import Container
    from lamina.store.store import Store

_NEVER = "0001-01-01T00:00:00Z"
_OWN = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/passwd", "/etc/group")
_SYSTEM = ("/proc", "/dev", "/sys", "/run/lamina-init")
_MAX_SPEC = 16 << 20


def describe(store: Store, container: Container) -> dict[str, Any]:
    """docker's fields, as far as lamina has values for them. Fields from the image or the runtime spec are left
    out if those can't be read. Raises SystemFailure."""
    spec = _spec(store, container)
    config = None
    with suppress(LaminaError):
        config = stack_of(store, container).config
    process = spec.get("process") or {}
    words = list(process.get("args") or container.command)
    state = store.containers.state(container)
    mounts = list(_mounts(store, container, spec.get("mounts") or ()))
    return {
        "Id": container.id,
        "Created": _time(container.created),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": _state(store, container, state),
        "Image": str(config.descriptor.digest) if config else "",
        "ImageDigest": container.manifest,
        "ImageName": container.image,
        "Name": "/" + container.name,
        "RestartCount": container.restarts,
        "Driver": container.view,
        "Platform": "linux",
        "HostConfig": _host(container, spec, mounts),
        "Mounts": mounts,
        "Config": _config(container, process, spec, config),
        "NetworkSettings": {
            "Ports": {},
            "IPAddress": "",
            "Gateway": "",
            "MacAddress": "",
            "Networks": _networks(spec),
        },
    }


def sizes(store: Store, container: Container) -> dict[str, int]:
    """The size of the container's changes, and with its image, in bytes. Raises SystemFailure."""
    from lamina.run.container import listing

    written, image = listing.sizes(store, container)
    return {"SizeRw": written, "SizeRootFs": written + image}


def _spec(store: Store, container: Container) -> dict[str, Any]:
    """The runtime spec; {} if the container was never run."""
    path = store.containers.path(container.id, "bundle", "config.json")
    try:
        with open(path, "rb") as file:
            found = read_own(file.read(_MAX_SPEC).decode())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _NEVER
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return _NEVER


def _state(store: Store, container: Container, state: str) -> dict[str, Any]:
    is_alive = state in (RUNNING, PAUSED)
    started = container.since or (container.created if state not in (CREATED, DAMAGED) else None)
    return {
        "Status": state,
        "Running": is_alive or state == RESTARTING,
        "Paused": state == PAUSED,
        "Restarting": state == RESTARTING,
        "OOMKilled": container.oom,
        "Dead": state == DAMAGED,
        "Pid": first_process(store, container) if is_alive else 0,
        "ExitCode": (container.exit_code or 0) if not is_alive else 0,
        "Error": container.error,
        "StartedAt": _time(started),
        "FinishedAt": _time(container.finished),
    }


def _mounts(store: Store, container: Container, in_spec: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The mounts that the user or the image asked for, without those of every container."""
    named = os.path.join(store.paths.root, "volumes") + os.sep
    anonymous = store.containers.path(container.id, "volumes") + os.sep
    for mount in in_spec:
        target, source, options = mount["destination"], mount["source"], mount["options"]
        if mount["type"] not in ("bind", "tmpfs") or target in _OWN:
            continue
        if target in _SYSTEM or (mount["type"] == "tmpfs" and target == "/dev/shm"):
            continue
        found = {
            "Type": mount["type"],
            "Source": "" if mount["type"] == "tmpfs" else source,
            "Destination": target,
            "Mode": "",
            "RW": "ro" not in options,
            "Propagation": "rprivate" if "rprivate" in options else "",
        }
        for top in (named, anonymous):
            if source.startswith(top):
                found |= {"Type": "volume", "Name": source.removeprefix(top).split(os.sep)[0], "Driver": "local"}
        yield found


def _networks(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {_network(spec): {}} if spec else {}


def _network(spec: Mapping[str, Any]) -> str:
    namespaces = {one["type"]: one.get("path", "") for one in (spec.get("linux") or {}).get("namespaces") or ()}
    if "network" not in namespaces:
        return "host"
    return "pasta" if namespaces["network"] else "none"


def _host(container: Container, spec: Mapping[str, Any], mounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    resources = (spec.get("linux") or {}).get("resources") or {}
    cpu = resources.get("cpu") or {}
    process = spec.get("process") or {}
    held = (process.get("capabilities") or {}).get("bounding")
    binds = [
        f"{one.get('Name') or one['Source']}:{one['Destination']}" + ("" if one["RW"] else ":ro")
        for one in mounts
        if one["Type"] != "tmpfs"
    ]
    return {
        "Binds": binds or None,
        "NetworkMode": _network(spec) if spec else "",
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": bool(container.remove),
        "CapAdd": sorted(set(held) - set(DEFAULT)) or None if held is not None else None,
        "CapDrop": sorted(set(DEFAULT) - set(held)) or None if held is not None else None,
        "Privileged": False,
        "ReadonlyRootfs": bool((spec.get("root") or {}).get("readonly")),
        "SecurityOpt": ["no-new-privileges"] if process.get("noNewPrivileges") else None,
        "Tmpfs": {one["Destination"]: "" for one in mounts if one["Type"] == "tmpfs"} or None,
        "UsernsMode": "private" if container.users else "",
        "Runtime": os.path.basename(container.runtime),
        "Memory": (resources.get("memory") or {}).get("limit", 0),
        "NanoCpus": cpu["quota"] * 1_000_000_000 // cpu["period"] if cpu.get("quota", 0) > 0 else 0,
        "PidsLimit": (resources.get("pids") or {}).get("limit"),
        "Init": "/run/lamina-init" in [mount["destination"] for mount in spec.get("mounts") or ()],
    }


def _config(
    container: Container, process: Mapping[str, Any], spec: Mapping[str, Any], config: ImageConfig | None
) -> dict[str, Any]:
    run: Mapping[str, Any] = (config.json.get("config") if config else None) or {}
    user = process.get("user") or {}
    stated = f"{user['uid']}:{user['gid']}" if user.get("uid") else str(run.get("User") or "")
    return {
        "Hostname": spec.get("hostname", ""),
        "Domainname": "",
        "User": stated,
        "Tty": bool(process.get("terminal")),
        "Env": list(process.get("env") or (config.env if config else ())),
        "Cmd": list(container.command),
        "Image": container.image,
        "Volumes": run.get("Volumes"),
        "WorkingDir": process.get("cwd") or str(run.get("WorkingDir") or ""),
        "Entrypoint": None,
        "Labels": {**(config.labels if config else {}), **dict(container.labels)},
        "StopSignal": container.stop_signal or (config.stop_signal if config else ""),
    }
