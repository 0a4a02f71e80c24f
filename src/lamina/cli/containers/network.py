"""The verb `network`: create, ls, inspect, rm, prune, connect, disconnect and exists, with docker's flags and
output."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say, warn
from lamina.cli.containers.several import chosen, each, latest_option
from lamina.cli.format.output import ask, emit, emit_json, emit_template, write
from lamina.cli.format.rows import HEADINGS, labels_text, moment_text
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import clean
from lamina.cli.options import format_option, no_trunc_option, short_format_option
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group
from lamina.errors import LaminaError, NotFound, UsageError

if TYPE_CHECKING:
    from lamina.run.networks.record import Network

_HEADINGS = HEADINGS | {"ID": "NETWORK ID", "Name": "NAME"}


@click.group("network", cls=Group, short_help=VERBS["network"][2])
def network() -> None:
    """Networks: containers on the same one reach each other by name. They need netavark, and aardvark-dns for names.

    \b
    Example:
      lamina network create front
      lamina run -d --name db --network front postgres:16
      lamina run --rm --network front app:1 psql -h db
    """


_many: dict[str, Any] = {"multiple": True}


@network.command("create", cls=Command)
@click.argument("name", metavar="NETWORK")
@click.option("-d", "--driver", default="bridge", metavar="DRIVER", help="bridge (the default), macvlan or ipvlan.")
@click.option("--subnet", "subnets", metavar="CIDR", help="Subnet, like 10.5.0.0/16 (default: a free one).", **_many)
@click.option("--gateway", "gateways", metavar="ADDRESS", help="Address of the bridge (default: the first).", **_many)
@click.option("--ip-range", "ranges", metavar="CIDR|FIRST-LAST", help="Addresses that containers get.", **_many)
@click.option("--internal", is_flag=True, help="Without a way out of the network.")
@click.option("--ipv6", is_flag=True, help="With addresses of IPv6 too.")
@click.option("-o", "--opt", "options", metavar="NAME=VALUE", help="Option of the driver, like mtu=1400.", **_many)
@click.option("--label", "labels", metavar="NAME[=VALUE]", help="Set a label on the network.", **_many)
@click.option("--disable-dns", is_flag=True, help="Names of containers are not resolved.")
@click.option("--dns", "servers", metavar="ADDRESS", help="Name server for names from outside.", **_many)
@click.option("--interface-name", default="", metavar="NAME", help="Interface of this host (default: a new name).")
@click.option("--ignore", is_flag=True, help="Do nothing if the network exists.")
@click.option("--attachable", is_flag=True, hidden=True)
@click.option("--ipam-driver", default="default", hidden=True)
@click.option("--scope", default="local", hidden=True)
@click.pass_obj
def create(session: Session, /, name: str, options: tuple[str, ...], labels: tuple[str, ...], **given: Any) -> None:
    """Make a network, and print its ID. Networks are closed to each other (`-o isolate=false` opens one to those that
    are open too).

    \b
    Example:
      lamina network create front
      lamina network create --internal --subnet 10.5.0.0/24 back
      lamina network create -d macvlan -o parent=eth0 --subnet 192.0.2.0/24 --gateway 192.0.2.1 lan
    """
    from lamina.run.dns import parse_server
    from lamina.run.networks import making
    from lamina.run.networks.catalog import Catalog
    from lamina.run.options import parse_labels

    if given["ipam_driver"] not in ("default", "host-local"):
        raise UsageError(f"unknown IPAM driver {given['ipam_driver']!r:.60}", hint="leave --ipam-driver out")
    store = session.writable_store
    if given["ignore"] and name in Catalog(store).names():
        write(Catalog(store).get(name).id)
        return
    wanted = making.Wanted(
        name,
        given["driver"],
        given["subnets"],
        given["gateways"],
        given["ranges"],
        given["internal"],
        given["ipv6"],
        not given["disable_dns"],
        tuple(map(parse_server, given["servers"])),
        given["interface_name"],
        parse_labels(labels),
        parse_labels(options),
    )
    write(making.create(store, wanted).id)


@network.command("ls", cls=Command)
@click.option(
    "-f",
    "--filter",
    "filters",
    metavar="KEY=VALUE",
    help="Show only matching ones: dangling, driver, id, label, name, scope, type, until.",
    **_many,
)
@click.option("-q", "--quiet", is_flag=True, help="Show IDs only.")
@click.option("-n", "--noheading", is_flag=True, help="Leave the headings out.")
@no_trunc_option
@format_option
@click.pass_obj
def ls(
    session: Session, filters: tuple[str, ...], quiet: bool, noheading: bool, no_trunc: bool, format: str | None
) -> None:
    """List networks: lamina's own (bridge, host and none) and those that were created.

    \b
    Example:
      lamina network ls
      lamina network ls -q --filter type=custom
      lamina network ls --format '{{.Name}} {{.Driver}}'
    """
    from lamina.run.networks.catalog import builtin
    from lamina.run.networks.listing import LISTED, Filters, described, every, used_names

    chosen = Filters.parse(filters, LISTED)
    store = session.store_if_any
    used = used_names(store) if store and any(key == "dangling" for key, _ in chosen.given) else set()
    found = [one for one in (every(store) if store else builtin()) if chosen.accept(one, is_used=one.name in used)]
    if quiet and format is None:
        for one in found:
            write(one.id if no_trunc else one.id[:12])
        return
    if format == "json":
        emit_json([described(store, one) for one in found] if store else [])
        return
    columns = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")]
    emit([_row(one, no_trunc) for one in found], columns, format, header=not noheading, headings=_HEADINGS)


def _row(one: Network, no_trunc: bool) -> Record:
    labels = dict(one.labels)
    fields = {
        "CreatedAt": moment_text(one.created),
        "Driver": one.driver,
        "ID": one.id if no_trunc else one.id[:12],
        "IPv6": str(one.ipv6).lower(),
        "Internal": str(one.internal).lower(),
        "Labels": clean(labels_text(labels)),
        "Name": one.name,
        "Scope": "local",
    }
    return Record(fields, {}, {"Label": lambda name: labels.get(str(name), "")})


@network.command("inspect", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@short_format_option
@click.pass_obj
def inspect(session: Session, names: tuple[str, ...], verbose: bool, format: str | None) -> None:
    """Show details of networks as JSON, with docker's field names, and the containers that run on them. What was
    found is printed also if another name was not found.

    \b
    Example:
      lamina network inspect front
      lamina network inspect --format '{{(index .IPAM.Config 0).Subnet}}' front
    """
    from lamina.run.networks.catalog import Catalog
    from lamina.run.networks.listing import described

    store = session.store
    found, failed = [], list[LaminaError]()
    for name in names:
        try:
            found.append(described(store, Catalog(store).get(name)))
        except LaminaError as error:
            failed.append(error)
    if format is None or format == "json":
        emit_json(found)
    else:
        emit_template([Record(one) for one in found], {}, format)
    _fail(failed)


@network.command("rm", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--force", is_flag=True, help="Do not fail if a network does not exist.")
@click.option("-t", "--time", hidden=True)
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], force: bool, time: str | None) -> None:
    """Remove networks. A network on which a container runs stays, also with --force.

    \b
    Example:
      lamina network rm front
      lamina network rm $(lamina network ls -q --filter dangling=true)
    """
    from lamina.run.container.user_namespace import enter
    from lamina.run.networks.removing import remove

    store = session.store_if_any

    def remove_one(name: str) -> None:
        if store is None:
            raise NotFound(f"network {name:.100} not found", hint="see `lamina network ls`")
        remove(store, name)
        write(clean(name))

    def ignoring(name: str) -> None:
        try:
            remove_one(name)
        except NotFound:
            pass

    if store is not None:
        enter(store)
    each(names, ignoring if force else remove_one)


@network.command("prune", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option("--filter", "filters", metavar="KEY=VALUE", help="Only matching ones: label, label!, until.", **_many)
@click.pass_obj
def prune(session: Session, force: bool, filters: tuple[str, ...]) -> None:
    """Remove the networks that no container names, running or not.

    \b
    Example:
      lamina network prune
      lamina network prune --force --filter label=project=shop
    """
    from lamina.run.container.ending import clear
    from lamina.run.container.user_namespace import enter
    from lamina.run.networks.listing import PRUNED, Filters
    from lamina.run.networks.removing import prune as remove_unused

    chosen = Filters.parse(filters, PRUNED)
    if not force:
        ask("Remove all networks that no container names?")
    store = session.store_if_any
    if store is None:
        return
    enter(store)
    failed = clear(store)
    removed, more = remove_unused(store, chosen)
    if removed:
        write("Deleted Networks:\n" + "\n".join(map(clean, removed)) + "\n")
    _fail([*failed, *more])


@network.command("connect", cls=Command)
@click.argument("name", metavar="NETWORK")
@click.argument("container", metavar="CONTAINER")
@click.option("--alias", "aliases", metavar="NAME", help="Further name of the container on the network.", **_many)
@click.option("--ip", default="", metavar="ADDRESS", help="Its address.")
@click.option("--ip6", default="", metavar="ADDRESS", help="Its address of IPv6.")
@click.option("--mac-address", default="", metavar="ADDRESS", help="Its hardware address.")
@click.pass_obj
def connect(
    session: Session, name: str, container: str, aliases: tuple[str, ...], ip: str, ip6: str, mac_address: str
) -> None:
    """Connect a container to one more network: at once if it runs, and whenever it is started.

    \b
    Example:
      lamina network connect back web
      lamina network connect --alias database --ip 10.5.0.9 back db
    """
    from lamina.run.container.connections import connect as connect_container
    from lamina.run.container.user_namespace import enter
    from lamina.run.networks.catalog import Catalog
    from lamina.run.networks.syntax import endpoint

    store = session.store
    one = store.containers.get(container)
    wanted = endpoint(Catalog(store).get(name).name, aliases, ip, ip6, mac_address)
    enter(store, one)
    connect_container(store, one, wanted, warn)


@network.command("disconnect", cls=Command)
@click.argument("name", metavar="NETWORK")
@click.argument("container", metavar="CONTAINER")
@click.option("-f", "--force", is_flag=True, help="Also if the network was removed.")
@click.pass_obj
def disconnect(session: Session, name: str, container: str, force: bool) -> None:
    """Take a container off a network, at once and for good.

    \b
    Example:
      lamina network disconnect back web
    """
    from lamina.run.container.connections import disconnect as disconnect_container
    from lamina.run.container.user_namespace import enter

    store = session.store
    one = store.containers.get(container)
    enter(store, one)
    disconnect_container(store, one, name, force=force)


@network.command("reload", cls=Command)
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="All running containers.")
@latest_option
@click.pass_obj
def reload(session: Session, names: tuple[str, ...], all_: bool, latest: bool) -> None:
    """Make the interfaces, rules and names of running containers on their networks once more: a firewall was loaded
    anew, for example. Addresses stay; connections break.

    \b
    Example:
      lamina network reload --all
    """
    from lamina.run.container.connections import reload as reload_networks
    from lamina.run.container.user_namespace import enter

    wanted = chosen(session, names, all_=all_, latest=latest)
    store = session.store if wanted is not None else session.store_if_any
    if store is None:
        return
    if wanted is None:
        wanted = tuple(one.id for one in store.containers if store.containers.is_running(one))

    alone = len(wanted) == 1

    def reload_one(name: str) -> None:
        one = store.containers.get(name)

        def work() -> None:
            enter(store, one)
            reload_networks(store, one, warn)

        if alone:
            work()
        else:
            _in_child(work, one.name)
        write(one.id)

    each(wanted, reload_one)


def _in_child(work: Callable[[], object], name: str) -> None:
    """Call ``work`` in a forked process. A plain user needs one for each container: each has its own mounts, which
    can be entered once. Raises LaminaError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except LaminaError as error:
            say(str(error))
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise LaminaError(f"the networks of the container {name} were not made once more", hint="see the line above")


@network.command("exists", cls=Command)
@click.argument("name", metavar="NETWORK")
@click.pass_obj
def exists(session: Session, name: str) -> int:
    """Check whether a network exists: exit code 0 if it does, else 1.

    \b
    Example:
      lamina network exists front || lamina network create front
    """
    from lamina.run.networks.removing import exists as network_exists

    store = session.store_if_any
    return 0 if store is not None and network_exists(store, name) else 1


def _fail(errors: Sequence[LaminaError]) -> None:
    """Print all errors but the first, then raise the first."""
    for more in errors[1:]:
        say(str(more))
    if errors:
        raise errors[0]
