"""A container's record: what was asked of it, as JSON, and what follows from it: its image, its ids, its sandbox.

What was asked (``run.options.ContainerOptions``) is kept whole, so that a container can be started again. Unknown
fields are ignored when it is read, and survive when the record is written (``store.containers``)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from lamina.errors import LaminaError, Unsupported
from lamina.light import TYPE_CHECKING, Value, as_dict
from lamina.run.options import (
    ContainerOptions,
    Device,
    Edits,
    HealthCheck,
    Hook,
    Mount,
    NetworkEndpoint,
    Node,
    Port,
    RestartPolicy,
    Ulimit,
    Userns,
    argv,
    parse_name,
)
from lamina.run.sandbox import Directories, Sandbox, states_of
from lamina.spec.platform import Platform
from lamina.store.containers import Container, damage
from lamina.view.owners import Owners

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.runtime import Runtime
    from lamina.source.stack import Stack
    from lamina.store.store import Store

_VERSION = 1
_KINDS: dict[type[Value], dict[str, type[Value]]] = {
    ContainerOptions: {
        "mounts": Mount,
        "userns": Userns,
        "ulimits": Ulimit,
        "devices": Device,
        "edits": Edits,
        "restart": RestartPolicy,
        "health": HealthCheck,
        "ports": Port,
        "networks": NetworkEndpoint,
    },
    Edits: {"nodes": Node, "mounts": Mount, "hooks": Hook},
}
"""The fields that hold values, or tuples of values."""


def new_record(stack: Stack, wanted: ContainerOptions, *, identity: str, top: str = "") -> Container:
    """The record of a new container. ``top`` as
    ``writable.choose`` returns it. Raises UsageError (the name), NotFound (no command)."""
    config = stack.config
    return Container(
        id=identity,
        name=parse_name(wanted.name) if wanted.name else identity[:12],
        image=stack.name,
        manifest=str(stack.manifest.descriptor.digest),
        media_type=stack.manifest.descriptor.media_type,
        size=stack.manifest.descriptor.size,
        layers=tuple(map(str, stack.diff_ids)),
        created=time.time(),
        command=argv(wanted, config.entrypoint, config.cmd),
        top=top,
        remove=wanted.remove,
        labels=tuple({**config.labels, **wanted.labels}.items()),
        stop_signal=wanted.stop_signal,
        stop_timeout=wanted.stop_timeout,
        wanted=to_json(wanted),
    )


def wanted_of(container: Container) -> ContainerOptions:
    """What was asked of the container. Raises Unsupported (its record does not say so: an older lamina made it, or a
    newer one that writes it differently), StoreDamaged."""
    if container.wanted is None:
        raise Unsupported(
            f"the container {container.name} can't be started again: its record does not hold its options",
            hint="run a new one",
        )
    if container.wanted.get("version") != _VERSION:
        raise Unsupported(
            f"the container {container.name} was made by another version of lamina", hint="update lamina"
        )
    try:
        return from_json(container.wanted)
    except (TypeError, ValueError, AttributeError):
        raise damage(container) from None


def asked(container: Container) -> ContainerOptions:
    """The options of the container; of a container of another lamina, or one with a damaged record, as far as its
    record tells them."""
    try:
        return wanted_of(container)
    except LaminaError:
        pass
    return ContainerOptions(
        command=container.command, entrypoint="", name=container.name, labels=dict(container.labels)
    )


def to_json(wanted: ContainerOptions) -> dict[str, Any]:
    """All fields, as JSON, with the version of this form (pure)."""
    return {"version": _VERSION, **_plain(wanted)}


def from_json(value: Mapping[str, Any]) -> ContainerOptions:
    """What ``to_json`` was given (pure). Raises TypeError, ValueError, AttributeError (it is malformed)."""
    found = _valued(ContainerOptions, value)
    assert isinstance(found, ContainerOptions)
    for name, default in as_dict(ContainerOptions()).items():
        given = getattr(found, name)
        if default is None:
            if not isinstance(given, (str, int, float, type(None))):
                raise TypeError(name)
        elif not isinstance(given, type(default)):
            raise TypeError(name)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return {name: _plain(item) for name, item in as_dict(value).items()}
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _valued(kind: type[Value], value: Mapping[str, Any]) -> Value:
    kinds = _KINDS.get(kind, {})
    return kind(**{name: _of(item, kinds.get(name)) for name, item in value.items() if name in kind.__match_args__})


def _of(value: Any, kind: type[Value] | None) -> Any:
    if isinstance(value, list):
        return tuple(_of(item, kind) for item in value)
    return value if kind is None else _valued(kind, value)


def stack_of(store: Store, container: Container) -> Stack:
    """The image that the container was made from, whether or not it still has a name. Raises BlobNotFound."""
    return store.stack_at(container.descriptor, Platform.host(), container.image)


def owners_of(container: Container) -> Owners:
    """The ids of the container's user namespace."""
    return Owners(container.users, container.groups)


def owner_of(container: Container) -> tuple[int, int]:
    """The uid and gid outside of the container's root."""
    return owners_of(container).root


def sandbox_of(store: Store, container: Container, runtime: Runtime | str = "") -> Sandbox:
    """``runtime``: the one that is to run it, by default the one that has run it."""
    path = store.containers.path(container.id)
    rootfs, bundle, mounts = (os.path.join(path, name) for name in ("rootfs", "bundle", "mounts"))
    directories = Directories(rootfs, bundle, states_of(store), mounts)
    return Sandbox(container.id, directories, runtime=runtime or container.runtime, owners=owners_of(container))
