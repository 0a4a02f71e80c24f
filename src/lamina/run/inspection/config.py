"""``Config`` of docker's inspect: what was asked for, and what the image says (pure)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lamina.run.container.health import healthcheck_of

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions
    from lamina.spec.image_config import ImageConfig
    from lamina.store.containers import Container


def container_config(
    wanted: ContainerOptions, container: Container, config: ImageConfig | None, ports: Mapping[str, Any]
) -> dict[str, Any]:
    """``config``: of the image; None if it can't be read. ``ports``: ``ExposedPorts``."""
    streams = _streams(wanted)
    found: dict[str, Any] = {
        "Hostname": hostname(wanted, container),
        "Domainname": wanted.domainname,
        "User": wanted.user or (config.user if config else ""),
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Tty": wanted.tty,
        "OpenStdin": wanted.interactive,
        "StdinOnce": wanted.interactive and "stdin" in streams,
        "Env": _environment(wanted, config) or None,
        "Cmd": _command(wanted, config),
        "Image": container.image,
        "Volumes": _volumes(wanted, config) or None,
        "WorkingDir": wanted.workdir or (config.working_dir if config else ""),
        "Entrypoint": _entrypoint(wanted, config),
        "OnBuild": None,
        "Labels": dict(sorted(container.labels)),
    }
    more = {
        "ExposedPorts": dict(ports),
        "Healthcheck": healthcheck_of(config, wanted),
        "StopSignal": container.stop_signal or (config.stop_signal if config else ""),
        "StopTimeout": container.stop_timeout,
        "MacAddress": next((one.mac for one in wanted.networks if one.mac), ""),
        "Annotations": dict(sorted(wanted.annotations)),
    }
    return found | {key: value for key, value in more.items() if value not in (None, "", {})}


def _streams(wanted: ContainerOptions) -> set[str]:
    """Those that the `run` or `create` that made the container is connected to."""
    if wanted.detached:
        return set()
    default = {"stdout", "stderr", *(("stdin",) if wanted.interactive else ())}
    return {word.lower() for word in wanted.attach} or default


def hostname(wanted: ContainerOptions, container: Container) -> str:
    is_hosts = wanted.network == "host" or wanted.uts == "host"
    return wanted.hostname or (os.uname().nodename if is_hosts else container.id[:12])


def _environment(wanted: ContainerOptions, config: ImageConfig | None) -> list[str]:
    """docker's order: first what was given."""
    given = [f"{name}={value}" for name, value in dict(wanted.env).items()]
    names = {name for name, _ in wanted.env}
    of_image = config.env if config else ()
    return given + [item for item in of_image if item.partition("=")[0] not in names]


def _entrypoint(wanted: ContainerOptions, config: ImageConfig | None) -> list[str] | None:
    if wanted.entrypoint is not None:
        words = wanted.entrypoint
        return ([words] if isinstance(words, str) else list(words)) if words else None
    return list(config.entrypoint) or None if config else None


def _command(wanted: ContainerOptions, config: ImageConfig | None) -> list[str] | None:
    if wanted.command or wanted.entrypoint is not None or config is None:
        return list(wanted.command) or None
    return list(config.cmd) or None


def _volumes(wanted: ContainerOptions, config: ImageConfig | None) -> dict[str, Any]:
    anonymous = [
        mount.target
        for mount in wanted.mounts
        if mount.kind == "volume" and not mount.source and mount.mode is not None
    ]
    return {target: {} for target in sorted({*anonymous, *(config.volumes if config else ())})}
