"""A container as docker's inspect shows it."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError
from lamina.host.process_identity import start_time
from lamina.run import writable
from lamina.run.cgroups import counts_swap
from lamina.run.container.ending import shown_code
from lamina.run.container.health import health_of
from lamina.run.container.ports import ports_of
from lamina.run.container.record import asked, stack_of
from lamina.run.container.running import first_process
from lamina.run.health import health_json
from lamina.run.inspection.config import container_config
from lamina.run.inspection.host_config import host_config
from lamina.run.inspection.mounts import mounts_of
from lamina.run.inspection.networks import network_settings
from lamina.run.logs.drivers import DEFAULT, log_path
from lamina.run.networks.listing import every
from lamina.run.networks.state import networks_in
from lamina.run.options import other_container
from lamina.run.published.shown import exposed_ports, port_bindings
from lamina.run.runtime import EXECUTED, MACHINE
from lamina.store.containers import CREATED, DAMAGED, PAUSED, RESTARTING, RUNNING

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store

_NEVER = "0001-01-01T00:00:00Z"


def describe(store: Store, container: Container) -> dict[str, Any]:
    """docker's fields. Those from the image are empty if its config can't be read. Raises SystemFailure."""
    config = None
    with suppress(LaminaError):
        config = stack_of(store, container).config
    wanted = asked(container)
    words = list(container.command)
    state = store.containers.state(container)
    exposed = config.exposed_ports if config else ()
    networks = networks_in(store.containers.path(container.id)) if container.may_run else {}
    pid = first_process(store, container) if state in (RUNNING, PAUSED) else 0
    was_started = container.since is not None or state not in (CREATED, DAMAGED)
    return {
        "Id": container.id,
        "Created": _time(container.created),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": _state(store, container, state, pid),
        "Image": str(config.descriptor.digest) if config else "",
        "ImageDigest": container.manifest,
        "ImageName": container.image,
        "Pod": wanted.pod,
        **_files(store, container, wanted, was_started=was_started),
        "Name": "/" + container.name,
        "RestartCount": container.restarts,
        "Driver": container.view,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": wanted.apparmor,
        "ExecIDs": _executed(store, container) or None,
        "HostConfig": host_config(
            wanted, container, port_bindings(wanted), wanted.log_driver or DEFAULT, swap=counts_swap()
        ),
        "GraphDriver": {"Data": _directories(store, container), "Name": container.view},
        "Mounts": mounts_of(store, container, wanted, config.volumes if config else ()),
        "Config": container_config(wanted, container, config, exposed_ports(wanted, exposed)),
        "NetworkSettings": network_settings(
            container.id,
            wanted,
            networks,
            ports_of(store, container).map,
            ids={one.name: one.id for one in every(store)} if was_started else {},
            pid=0 if container.runtime == MACHINE else pid,  # its process is outside
        ),
    }


def sizes(store: Store, container: Container) -> dict[str, int]:
    """The size of the container's changes, and with its image, in bytes. Raises SystemFailure."""
    from lamina.run.inspection import listing

    written, image = listing.sizes(store, container)
    return {"SizeRw": written, "SizeRootFs": written + image}


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _NEVER
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return _NEVER


def _state(store: Store, container: Container, state: str, pid: int) -> dict[str, Any]:
    is_alive = state in (RUNNING, PAUSED)
    started = container.since or (container.created if state not in (CREATED, DAMAGED) else None)
    found = {
        "Status": state,
        "Running": is_alive or state == RESTARTING,
        "Paused": state == PAUSED,
        "Restarting": state == RESTARTING,
        "OOMKilled": container.oom,
        "Dead": state == DAMAGED,
        "Pid": pid,
        "ExitCode": 0 if is_alive else shown_code(store, container, state),
        "Error": container.error,
        "StartedAt": _time(started),
        "FinishedAt": _time(container.finished),
    }
    health = health_of(store, container)
    return found | ({"Health": health_json(health)} if health else {})


def _files(store: Store, container: Container, wanted: ContainerOptions, *, was_started: bool) -> dict[str, str]:
    """Paths of this host: the files that the container sees in /etc, and its log."""
    found = {}
    owner = (other_container(wanted, "network") if was_started else "") or container.id
    for field, name in (("ResolvConfPath", "resolv.conf"), ("HostnamePath", "hostname"), ("HostsPath", "hosts")):
        path = store.containers.path(owner, "bundle", name)
        found[field] = path if os.path.exists(path) else ""
    directory = store.containers.path(container.id, "log")
    log = log_path(directory, wanted.log_driver or DEFAULT, wanted.log_options, container.id)
    return {**found, "LogPath": log if was_started else ""}


def _directories(store: Store, container: Container) -> dict[str, str]:
    rootfs = store.containers.path(container.id, "rootfs")
    places = {"UpperDir": writable.UPPER, "WorkDir": writable.WORK}
    found = {"MergedDir": rootfs} if os.path.ismount(rootfs) else {}
    with suppress(LaminaError):
        found |= {key: writable.path(store, container, name) for key, name in places.items()}
    return found


def _executed(store: Store, container: Container) -> list[str]:
    """The identifiers of programs that `exec` runs. A killed command leaves its file."""
    bundle = store.containers.path(container.id, "bundle")
    found = []
    with suppress(OSError):
        for name in os.listdir(bundle):
            if name.startswith(EXECUTED):
                with suppress(OSError, ValueError), open(os.path.join(bundle, name), "rb") as file:
                    if start_time(int(file.read(20))) is not None:
                        found.append(name.removeprefix(EXECUTED))
    return sorted(found)
