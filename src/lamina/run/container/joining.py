"""Namespaces that a container shares with another container, or that exist as files: ``--network``, ``--pid``,
``--ipc`` and ``--uts`` with ``container:NAME`` or ``ns:PATH``.

The other container must run when this one starts. Its network, and its files about names, are then this one's: hosts,
hostname and resolv.conf. If it is started again it has new namespaces, and this one is to be started again as well.
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, NotFound, SystemFailure, Unsupported
from lamina.light import TYPE_CHECKING, Value, replace
from lamina.run.bundle import SHM, Joined
from lamina.run.container.running import check_running, process_of
from lamina.run.options import CONTAINER, FILE, SHARED_KINDS, other_container
from lamina.run.runtime import MACHINE

if TYPE_CHECKING:
    from typing import Any

    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store

_IN_PROC = {"network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts"}
_FLAGS = {kind: f"--{kind}" for kind in SHARED_KINDS}
_NETWORK_FILES = ("hosts", "hostname", "resolv.conf")


class Shared(Value):
    """``network``: the path of the network namespace, "" for its own. ``joined``: all other things."""

    network: str = ""
    joined: Joined = Joined()


def resolved(store: Store, wanted: ContainerOptions) -> ContainerOptions:
    """The options with the IDs of the other containers in the place of their names. Raises NotFound, Conflict."""
    changes = {}
    for kind in SHARED_KINDS:
        name = other_container(wanted, kind)
        if name:
            changes[kind] = CONTAINER + store.containers.get(name).id
    return replace(wanted, **changes) if changes else wanted


def shared(store: Store, wanted: ContainerOptions) -> Shared:
    """What the container gets from others. Raises NotFound, Conflict (the other one does not run, or does not share),
    SystemFailure."""
    network, joined = "", Joined()
    for kind in SHARED_KINDS:
        word = getattr(wanted, kind)
        more: dict[str, Any] = {}
        name = other_container(wanted, kind)
        if name:
            path, more = _theirs(store, name, kind)
        elif word.startswith(FILE):
            path = _file(word.removeprefix(FILE), kind)
        else:
            continue
        if kind == "network":
            network = path
        else:
            more["namespaces"] = {**joined.namespaces, kind: path}
        joined = replace(joined, **more)
    return Shared(network, joined)


def _theirs(store: Store, name: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The path of the other container's namespace, and further fields of ``Joined``."""
    other = _running(store, name, kind)
    if other.runtime == MACHINE:  # its process is outside of it
        raise Unsupported(
            f"{_FLAGS[kind]} container:{other.name}: that is a virtual machine", hint=f"leave {_FLAGS[kind]} out"
        )
    pid = process_of(store, other)
    path = f"/proc/{pid}/ns/{_IN_PROC[kind]}"
    bundle = store.containers.path(other.id, "bundle")
    more: dict[str, Any] = {}
    if kind == "network":
        kept = os.path.join(bundle, "netns")
        if "," not in kept and _is_same(kept, path):
            path = kept  # it stays when the program is started again
        files = {one: os.path.join(bundle, one) for one in _NETWORK_FILES}
        more["files"] = {one: place for one, place in files.items() if os.path.isfile(place)}
        more["hostname"] = _read(files["hostname"])
    if kind == "ipc":
        shm = os.path.join(bundle, SHM)
        if not os.path.ismount(shm):
            raise Conflict(
                f"--ipc container:{other.name}: that container does not share its IPC namespace",
                hint="start it with --ipc shareable",
            )
        more["shm"] = shm
    if not os.path.exists(path):
        raise SystemFailure(f"the container {other.name} has just ended", hint="start it again")
    return path, more


def _running(store: Store, name: str, kind: str) -> Container:
    try:
        other = store.containers.get(name)
    except NotFound:
        raise NotFound(
            f"{_FLAGS[kind]}: the container {name[:12]} does not exist any more",
            hint="remove this container, and create it again",
        ) from None
    if not store.containers.is_running(other):
        raise Conflict(
            f"{_FLAGS[kind]} container:{other.name}: that container does not run",
            hint=f"start it with `lamina start {other.name}`",
        )
    check_running(store, other)
    return other


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _file(path: str, kind: str) -> str:
    """A namespace that exists as a file. Raises Unsupported, NotFound."""
    if not path.startswith("/"):
        raise Unsupported(f"{_FLAGS[kind]} ns:{path!r:.100} is not an absolute path", hint="give the whole path")
    try:
        if os.stat(path).st_dev != os.stat("/proc/self/ns/net").st_dev:
            raise Unsupported(f"{_FLAGS[kind]} ns:{path}: this file is not a namespace", hint="see `lsns`")
    except OSError as error:
        raise NotFound(f"{_FLAGS[kind]} ns:{path}: {error.strerror}", hint="give the path of a namespace") from None
    return path
