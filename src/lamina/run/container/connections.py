"""`network connect` and `network disconnect`: a container that runs is changed at once, another one at its next
start."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import Conflict, NotFound, Unsupported
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run.container.record import to_json, wanted_of
from lamina.run.container.running import check_running
from lamina.run.dns import with_dns
from lamina.run.network import NAMED, host_resolver, is_namespace
from lamina.run.networks import connection, place
from lamina.run.networks.catalog import Catalog
from lamina.run.networks.listing import is_builtin
from lamina.run.networks.state import networks_in
from lamina.run.options import OWN_NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.run.networks.connection import Connected
    from lamina.run.options import ContainerOptions, NetworkEndpoint
    from lamina.store.containers import Container
    from lamina.store.store import Store


def connect(
    store: Store,
    container: Container,
    endpoint: NetworkEndpoint,
    on_warning: Callable[[str], object] = lambda text: None,
) -> None:
    """Connect the container to one more network; it stays on it when it is started again. A container that was made
    for the default network leaves that one when it is started again. Raises NotFound, Conflict (it is on it already,
    or an address is taken), Unsupported (its network can't have another one), UsageError, SystemFailure."""
    network = Catalog(store).get(endpoint.name)
    if is_builtin(network):
        raise Unsupported(
            f"a container can't be connected to {network.name} later",
            hint=f"run a new one with --network {network.name}",
        )
    endpoint = replace(endpoint, name=network.name)
    _refuse_kind(wanted_of(container), container)
    if store.containers.is_running(container):
        namespace = _namespace(store, container)
        before = connection.connected(store.containers.path(container.id))
        connection.connect(store, container, [endpoint], namespace, on_warning=on_warning)
        _rewrite(store, container, before)

    def add(wanted: ContainerOptions) -> ContainerOptions:
        if any(one.name == network.name for one in wanted.networks):
            raise Conflict(
                f"the container {container.name} is on the network {network.name} already",
                hint="choose another network",
            )
        return replace(wanted, network="", networks=(*wanted.networks, endpoint))

    _change(store, container, add)


def _refuse_kind(wanted: ContainerOptions, container: Container) -> None:
    if wanted.network == "host" or wanted.network.startswith("container:"):
        raise Unsupported(
            f"the container {container.name} can't be connected to a network: it uses that of "
            + ("this host" if wanted.network == "host" else "another container"),
            hint="run a new one with --network NAME",
        )


def disconnect(store: Store, container: Container, word: str, *, force: bool = False) -> None:
    """Take the container off a network. ``force``: also if the network was removed. Raises NotFound, Conflict (it is
    not on it), Unsupported, SystemFailure."""
    name = word
    try:
        network = Catalog(store).get(word)
        name = network.name
        if is_builtin(network):
            raise Unsupported(
                f"a container can't be taken off {name} while it exists", hint="run a new one with another --network"
            )
    except NotFound:
        if not force:
            raise
    wanted = wanted_of(container)
    directory = store.containers.path(container.id)
    is_running = store.containers.is_running(container)
    if name not in [one.name for one in wanted.networks] and not (is_running and name in networks_in(directory)):
        raise Conflict(
            f"the container {container.name} is not connected to the network {name}",
            hint=f"see `lamina inspect {container.name}`",
        )
    if is_running and name in networks_in(directory):
        before = connection.connected(directory)
        connection.disconnect(store, container, [name], _namespace(store, container))
        _rewrite(store, container, before)

    def drop(wanted: ContainerOptions) -> ContainerOptions:
        kept = tuple(one for one in wanted.networks if one.name != name)
        return replace(wanted, networks=kept, network=wanted.network if kept or not wanted.networks else "none")

    _change(store, container, drop)


def reload(store: Store, container: Container, on_warning: Callable[[str], object]) -> None:
    """Make the networks of a running container once more, with the same addresses. A container on no network with a
    name stays as it is. Raises Conflict (it does not run), NotFound, SystemFailure."""
    check_running(store, container)
    if networks_in(store.containers.path(container.id)):
        connection.reload(store, container, _namespace(store, container), on_warning)


def _change(store: Store, container: Container, change: Callable[[ContainerOptions], ContainerOptions]) -> None:
    with store.containers.changing(container.id) as now:
        wanted = {**(now.wanted or {}), **to_json(change(wanted_of(now)))}
        store.containers.write(replace(now, wanted=wanted), lasting=not now.remove)


def _namespace(store: Store, container: Container) -> str:
    """The path of the running container's network namespace. Raises Unsupported, Conflict."""
    directory = store.containers.path(container.id)
    path = os.path.join(directory, "bundle", "netns")
    mine = place.existing(store)
    if not privileges.is_root() and wanted_of(container).network in OWN_NETWORK and not networks_in(directory):
        raise Unsupported(
            f"the container {container.name} was not started on a network with a name, so it can't get one now",
            hint="stop it first: it is on the network when it is started again",
        )
    if not is_namespace(path) or mine is None:
        raise Conflict(
            f"the container {container.name} has no network namespace that can be connected",
            hint="stop it first: it is on the network when it is started again",
        )
    return path


def _rewrite(store: Store, container: Container, before: Connected) -> None:
    """Change the running container's hosts and resolv.conf, unless a program in it has changed them."""
    bundle = store.containers.path(container.id, "bundle")
    now = connection.connected(os.path.dirname(bundle))
    wanted = wanted_of(container)

    def resolv(found: Connected) -> str:
        host = "" if found.servers else host_resolver(NAMED, lambda text: None).text
        text = connection.resolv_conf(found.servers, host)
        return with_dns(text, wanted.dns, wanted.dns_search, wanted.dns_options)

    path = os.path.join(bundle, "resolv.conf")
    if not before.addresses or _read(path) == resolv(before):
        _overwrite(path, resolv(now))
    path = os.path.join(bundle, "hosts")
    lines = _read(path).splitlines()
    gone = set(before.addresses) - set(now.addresses)
    hostname = _read(os.path.join(bundle, "hostname")).strip() or container.id[:12]
    kept = [line for line in lines if line.partition("\t")[0] not in gone]
    kept += [f"{one}\t{hostname}" for one in now.addresses if one not in before.addresses]
    _overwrite(path, "".join(f"{line}\n" for line in kept))


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""


def _overwrite(path: str, text: str) -> None:
    """Write into the file: the container has it mounted. Raises SystemFailure."""
    data = text.encode("utf-8", "surrogateescape")
    with reported(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
