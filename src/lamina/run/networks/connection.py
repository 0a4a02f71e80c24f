"""Containers on networks: addresses, netavark's setup and teardown, and what `network.json` says about them.

An address belongs to a container that runs: nothing else remembers it. A container's file is written before netavark
is called, and removed when it has removed everything, so that a later command can clear up after a killed one."""

from __future__ import annotations

import ipaddress
import os
from contextlib import ExitStack, suppress

from lamina.errors import Conflict, LaminaError, StoreDamaged, SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.host.process_identity import boot_id
from lamina.light import TYPE_CHECKING, Value, replace
from lamina.run.network import NetworkNamespace, is_namespace
from lamina.run.networks import addresses, links, names, place, programs, rules
from lamina.run.networks.catalog import Catalog
from lamina.run.networks.record import Network, from_json, to_json
from lamina.run.networks.state import networks_in, read_state, remove_state, state_path, write_state
from lamina.store.fault import point
from lamina.store.journal import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from lamina.run.networks.place import Place
    from lamina.run.options import NetworkEndpoint
    from lamina.store.containers import Container
    from lamina.store.store import Store


class Connected(Value):
    """What a container has got. ``hosts``: its addresses with the networks' names. ``servers``: name servers."""

    addresses: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


def connect(
    store: Store,
    container: Container,
    endpoints: Sequence[NetworkEndpoint],
    namespace: str,
    *,
    on_warning: Callable[[str], object] = lambda text: None,
) -> Connected:
    """Connect the container to networks. ``namespace``: the path of its network namespace, which every process
    reaches. Raises NotFound (no such network, no netavark), Conflict (an address is taken), UsageError,
    SystemFailure."""
    with Catalog(store).locked():
        try:
            programs.netavark()
            _connect(store, container, endpoints, namespace, on_warning)
        except BaseException:
            _end_place(store)
            raise
    return connected(store.containers.path(container.id))


def _connect(
    store: Store,
    container: Container,
    endpoints: Sequence[NetworkEndpoint],
    namespace: str,
    on_warning: Callable[[str], object],
) -> None:
    catalog, directory = Catalog(store), store.containers.path(container.id)
    with suppress(LaminaError):  # it may have another name by now
        container = replace(container, name=store.containers.get(container.id).name)
    networks = {one.name: catalog.get(one.name) for one in endpoints}
    where = place.made(store, on_warning)
    before = networks_in(directory)
    state = read_state(directory) | {"boot": boot_id(), "place": where.pid}
    new: dict[str, Any] = {}
    for endpoint in endpoints:
        network = networks[endpoint.name]
        if network.name in before:
            raise Conflict(
                f"the container {container.name} is on the network {network.name} already",
                hint="choose another network",
            )
        _check_subnets(where, network)
        new[network.name] = _endpoint(store, container, network, endpoint, {**before, **new})
    state["networks"] = {**before, **new}
    write_state(directory, state)
    point("network.written")
    try:
        names.forget(where, _members(store, dict.fromkeys(new, container.id)))
        _set_up(where, container, namespace, new)
        state["networks"] = {**before, **new}
        write_state(directory, state)
        _await_names(where, namespace, container, new, on_warning)
        for one in new.values():
            _note(store, "connect", container, one)
    except BaseException:
        _undo(store, container, where, namespace, new, before)
        raise


def _set_up(where: Place, container: Container, namespace: str, new: Mapping[str, Any]) -> None:
    """Let netavark connect the container, and note in ``new`` what it has got. Raises Conflict (it has ended),
    SystemFailure."""
    with ExitStack() as opened:
        path = opened_namespace(namespace, opened)
        if not path:
            raise Conflict(
                f"the container {container.name} has ended meanwhile", hint="start it: it is on its networks then"
            )
        answer = programs.call(where, "setup", path, netavark_input(container, new))
    point("network.set-up")
    for name, one in new.items():
        network = from_json(one["network"], name)
        if network.is_bridge:
            _finish_bridge(where, network)
    _take(new, answer)


def reload(
    store: Store, container: Container, namespace: str, on_warning: Callable[[str], object] = lambda text: None
) -> None:
    """Make the interfaces and the rules of a running container's networks once more, with the same addresses:
    something else on the host has removed rules. Raises NotFound (no netavark), SystemFailure."""
    directory = store.containers.path(container.id)
    with Catalog(store).locked():
        programs.netavark()
        networks, where = networks_in(directory), place.existing(store)
        if not networks or where is None:
            return
        _tear_down(store, container, where, namespace, networks)
        where = place.made(store, on_warning)
        _set_up(where, container, namespace, networks)
        write_state(directory, read_state(directory) | {"networks": networks})
        _await_names(where, namespace, container, networks, on_warning)


def leave(store: Store) -> None:
    """End what was made for a container that could not be made. Raises SystemFailure."""
    if not privileges.is_root():
        with Catalog(store).locked():
            _end_place(store)


def _finish_bridge(where: Place, network: Network) -> None:
    """Do to a bridge what netavark leaves out."""
    gateway = next((one.gateway for one in network.subnets if one.gateway and ":" not in one.gateway), "")
    if gateway:
        place.within(where, lambda: links.fix_address(network.interface, addresses.mac_for(gateway)))
    if network.internal:
        rules.guard(where, network, closed=True)
    rules.keep_apart(where, network)


def _await_names(
    where: Place, namespace: str, container: Container, new: Mapping[str, Any], on_warning: Callable[[str], object]
) -> None:
    """Wait until the container's names are resolved. Under the lock: a name server that has just been started ends
    if the next container comes too soon."""
    named = {name: one["servers"] for name, one in new.items() if one["network"]["dns"] and one["servers"]}
    if not named:
        return
    if not programs.find("aardvark-dns"):
        on_warning("names of containers are not resolved: aardvark-dns is not installed (install that package)")
        return
    silent = names.unanswered(namespace, container.id[:12], named)
    if silent:
        names.start_again(where)
        silent = names.unanswered(namespace, container.id[:12], named)
    for name in silent:
        on_warning(f"names are not resolved on the network {name}: its name server does not answer")


def _check_subnets(where: Place, network: Network) -> None:
    """Refuse a network whose addresses something else on the host has. Raises Conflict."""
    if not network.is_bridge:
        return
    nets = [ipaddress.ip_network(one.subnet) for one in network.subnets]
    for interface, route in links.routes(where.routes):
        if interface == network.interface:
            continue
        for net in nets:
            if net.version == route.version and net.overlaps(route):
                raise Conflict(
                    f"the addresses {net} of the network {network.name} are in use on this host by {interface}",
                    hint=f"remove the network, and create it with another --subnet than {route}",
                )


def _endpoint(
    store: Store, container: Container, network: Network, endpoint: NetworkEndpoint, before: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file says of one network. ``before``: the container's other networks."""
    taken = _taken(store, network.name)
    found = addresses.allocate(network, taken, (endpoint.ip, endpoint.ip6)) if network.subnets else []
    used = {one["interface"] for one in before.values()}
    interface = next(name for name in (f"eth{number}" for number in range(len(used) + 1)) if name not in used)
    first = next((one for one in found if ":" not in one), "")
    mac = endpoint.mac or (addresses.mac_for(first) if first else "")
    return {
        "network": to_json(replace(network, labels=())),  # nothing is needed of them, and they may be long
        "id": network.id,
        "called": f"{network.name}-{network.id[:12]}",
        "endpoint": os.urandom(32).hex(),
        "interface": interface,
        "addresses": found,
        "gateways": [] if network.internal else [one.gateway for one in network.subnets if one.gateway],
        "mac": mac,
        "aliases": list(endpoint.aliases),
        "names": _names(container, endpoint.aliases),
        "asked": {"ip": endpoint.ip, "ip6": endpoint.ip6, "mac": endpoint.mac},
        "servers": [],
    }


def _names(container: Container, aliases: Iterable[str]) -> list[str]:
    """The names that resolve to the container there. aardvark-dns compares with names in lower case."""
    hostname = str((container.wanted or {}).get("hostname") or "")
    names = [container.name, container.id[:12], *([hostname] if hostname else []), *aliases]
    return list(dict.fromkeys(word.lower() for word in names))


def tell_name(store: Store, container: Container) -> None:
    """Tell the networks of a running container its new name: the old one leads nowhere then. Raises SystemFailure."""
    directory = store.containers.path(container.id)
    with Catalog(store).locked():
        networks = networks_in(directory)
        if not networks:
            return
        for one in networks.values():
            one["names"] = _names(container, one.get("aliases", ()))
        write_state(directory, read_state(directory) | {"networks": networks})
        where = place.existing(store)
        if where is not None:
            names.rename(where, container.id, {_called(name, one): one["names"] for name, one in networks.items()})


def _taken(store: Store, name: str) -> set[str]:
    """The addresses of running containers on a network."""
    return {
        one.partition("/")[0]
        for _, networks in running_on(store, name)
        for one in networks[name].get("addresses", ())
    }


def running_on(store: Store, name: str = "") -> list[tuple[Container, dict[str, Any]]]:
    """The containers that run on a network (by default on any), with what their files say."""
    found = []
    for container in store.containers.every():
        directory = store.containers.path(container.id)
        if os.path.exists(state_path(directory)):
            networks = networks_in(directory)
            if (name in networks or (networks and not name)) and store.containers.is_running(container):
                found.append((container, networks))
    return found


def _called(name: str, one: Mapping[str, Any]) -> str:
    """How netavark and aardvark-dns know a network: netavark names its rules by this, and another store of this host
    may have a network of the same name."""
    return str(one.get("called") or name)


def netavark_input(container: Container, networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """netavark's JSON for these networks of the container's file (pure)."""
    records = {name: from_json(one["network"], name) for name, one in networks.items()}
    return {
        "container_id": container.id,
        "container_name": container.name,
        "port_mappings": [],  # ports are published by a process of their own
        "networks": {
            _called(name, one): {
                "interface_name": one["interface"],
                "static_ips": [word.partition("/")[0] for word in one["addresses"]],
                "static_mac": one["mac"] or None,
                "aliases": one["names"],
            }
            for name, one in networks.items()
        },
        "network_info": {
            _called(name, networks[name]): _described(one, _called(name, networks[name]))
            for name, one in records.items()
        },
    }


def _readable(container: Container, networks: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of a container's file that are not damaged: a damaged file must not keep the container."""
    found = {}
    for name, one in networks.items():
        with suppress(StoreDamaged, KeyError, TypeError, AttributeError):
            netavark_input(container, {name: one})
            found[name] = one
    return found


def _described(network: Network, called: str) -> dict[str, Any]:
    """A network as netavark takes it. Networks are closed to each other, as docker's are."""
    options = dict(network.options)
    if network.is_closed:
        options["isolate"] = "true"
    return {
        "name": called,
        "id": network.id,
        "driver": network.driver,
        "network_interface": network.interface,
        "subnets": [{"subnet": one.subnet, "gateway": one.gateway or None} for one in network.subnets],
        "ipv6_enabled": network.ipv6,
        "internal": network.internal,
        "dns_enabled": network.dns,
        "network_dns_servers": list(network.dns_servers) or None,
        "ipam_options": {"driver": "host-local"},
        "options": options,
    }


def _take(new: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Take hardware addresses and name servers from netavark's answer."""
    for name, one in new.items():
        got = answer.get(_called(name, one)) or {}
        one["servers"] = [str(word) for word in got.get("dns_server_ips") or ()]
        for interface in (got.get("interfaces") or {}).values():
            one["mac"] = str(interface.get("mac_address") or one["mac"])


def connected(directory: str) -> Connected:
    """What the container has by its file."""
    networks = networks_in(directory).values()
    found = dict.fromkeys(word.partition("/")[0] for one in networks for word in one.get("addresses", ()))
    servers = dict.fromkeys(word for one in networks for word in one.get("servers", ()))
    gateways = dict.fromkeys(word for one in networks for word in one.get("gateways", ()))
    return Connected(tuple(found), tuple(servers), tuple(gateways))


def resolv_conf(servers: Sequence[str], host: str) -> str:
    """The resolv.conf of a container on networks (pure). ``host``: the one that it gets without a name server of its
    networks. It has no search domain: within aardvark's own one, each server only knows the names of its network."""
    if not servers:
        return host
    return "".join(f"nameserver {one}\n" for one in servers)


def disconnect(store: Store, container: Container, names: Iterable[str], namespace: str) -> None:
    """Take the running container off these networks. Raises SystemFailure."""
    directory = store.containers.path(container.id)
    with Catalog(store).locked():
        state = read_state(directory)
        networks = networks_in(directory)
        gone = _readable(container, {name: networks.pop(name) for name in names if name in networks})
        where = place.existing(store)
        if gone and where is not None:
            _tear_down(store, container, where, namespace, gone)
        write_state(directory, state | {"networks": networks})


def release(store: Store, container: Container) -> None:
    """Take a container off all its networks: it has ended, or was killed. Raises SystemFailure."""
    directory = store.containers.path(container.id)
    if not os.path.exists(state_path(directory)):
        return
    with Catalog(store).locked():
        state, networks = read_state(directory), _readable(container, networks_in(directory))
        if "networks" not in state:  # it only has published ports
            return
        if networks and state.get("boot") == boot_id():
            where = place.existing(store)
            if where is not None and where.pid == state.get("place"):
                _release(store, container, where, networks)
        remove_state(directory)
        point("network.released")
        _end_place(store)


def _release(store: Store, container: Container, where: Place, networks: Mapping[str, Any]) -> None:
    """Raises SystemFailure."""
    namespace = store.containers.path(container.id, "bundle", "netns")
    if privileges.may_mount():
        _tear_down(store, container, where, namespace, networks)
        return
    # a plain user who only removes a container has no rights there: a further process gets them

    def tear_down() -> bool:
        with suppress(LaminaError):
            _tear_down(store, container, where, namespace, networks)
            return True
        return False

    if not place.in_child(lambda: place.enter(store), tear_down):
        raise SystemFailure(f"the networks of the container {container.name} were not removed", hint="try again")


def _end_place(store: Store) -> None:
    if not running_on(store):
        place.end(store)


def _undo(
    store: Store,
    container: Container,
    where: Place,
    namespace: str,
    new: Mapping[str, Any],
    before: Mapping[str, Any],
) -> None:
    """Remove what a setup that failed has made."""
    directory = store.containers.path(container.id)
    with suppress(LaminaError):
        _tear_down(store, container, where, namespace, new)
    if before:
        write_state(directory, read_state(directory) | {"networks": dict(before)})
    else:
        remove_state(directory)


def _tear_down(
    store: Store,
    container: Container,
    where: Place,
    namespace: str,
    networks: Mapping[str, Any],
) -> None:
    """Let netavark remove these networks of the container, and remove what nobody uses any more. Raises
    SystemFailure."""
    server = place.aardvark(where.directory)
    watched = os.pidfd_open(server) if server else -1
    try:
        wanted = netavark_input(container, networks)
        with ExitStack() as opened:
            path = opened_namespace(namespace, opened)
            done = False
            if path:
                with suppress(SystemFailure):
                    programs.call(where, "teardown", path, wanted)
                    done = True
        if not done:
            _tear_down_again(where, wanted)
        names.forget(where, _members(store, dict.fromkeys(networks, container.id)))
        if watched >= 0:
            names.await_end(where, watched)
    finally:
        if watched >= 0:
            os.close(watched)
    for name, one in networks.items():
        if not [found for found, _ in running_on(store, name) if found.id != container.id]:
            remove_bridge(where, from_json(one["network"], name))
        _note(store, "disconnect", container, one)


def _tear_down_again(where: Place, wanted: Mapping[str, Any]) -> None:
    """Remove the networks of a container whose namespace has ended. netavark removes its rules only together with an
    interface, so both are made once more in another namespace."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(dir=where.directory, ignore_cleanup_errors=True) as directory, ExitStack() as opened:
        namespace = NetworkNamespace(directory)
        opened.callback(namespace.close)
        path = opened_namespace(namespace.path, opened)
        for verb in ("setup", "teardown"):
            with suppress(SystemFailure):
                programs.call(where, verb, path, wanted)


def opened_namespace(path: str, opened: ExitStack) -> str:
    """A path of the network namespace of the file ``path`` that processes with other mounts reach too; "" if it has
    ended."""
    if not is_namespace(path):
        return ""
    with reported(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def remove_bridge(where: Place, network: Network) -> None:
    """Remove a bridge that no container uses, and its rules. Raises SystemFailure."""
    if not network.is_bridge:
        return
    if network.internal:
        rules.guard(where, network, closed=False)
    rules.end_apart(where, network)
    place.within(where, lambda: links.remove_link(network.interface))


def _members(store: Store, without: Mapping[str, str]) -> dict[str, set[str]]:
    """The ids of the running containers on each network, as aardvark-dns calls it. ``without``: one id to leave out,
    by network."""
    found: dict[str, set[str]] = {}
    for container, networks in running_on(store):
        for name, one in networks.items():
            if without.get(name) != container.id:
                found.setdefault(_called(name, one), set()).add(container.id)
    return found


def _note(store: Store, action: str, container: Container, one: Mapping[str, Any]) -> None:
    network = from_json(one["network"], "")
    attributes = {"container": container.id, "name": network.name, "type": network.driver}
    note(store.paths.root, "network", action, network.id, attributes)
