"""The verb `port`: where the ports of a container are published on this host."""

from __future__ import annotations

import click

from lamina.cli.containers.several import latest_option, newest
from lamina.cli.format.output import write
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, UsageError


@command("port", "lamina port web\nlamina port web 80\nlamina port web 53/udp\nlamina port --all")
@click.argument("name", required=False, metavar="CONTAINER")
@click.argument("port", required=False, metavar="[PORT[/PROTOCOL]]")
@click.option("-a", "--all", "all_", is_flag=True, help="Show the ports of all running containers.")
@latest_option
@click.pass_obj
def port(session: Session, name: str | None, port: str | None, all_: bool, latest: bool) -> None:
    """Show the published ports of a container, one per line; or where one port of it is published. A container that
    does not run has none."""
    from lamina.run.container.ports import ports_of
    from lamina.run.inspection.listing import listed

    if all_ + latest + bool(name and not latest) != 1 or (all_ and port):
        raise UsageError("give a container, or --all, or --latest", hint="see `lamina port --help`")
    if all_:
        for one, _ in listed(session.store):
            for binding in ports_of(session.store, one).bindings:
                write(f"{one.id[:12]}\t{binding.inside} -> {binding.place}")
        return
    if latest:
        name, port = newest(session), port or name
    one = session.store.containers.get(name or "")
    bindings = ports_of(session.store, one).bindings
    if port is None:
        for binding in bindings:
            write(f"{binding.inside} -> {binding.place}")
        return
    wanted = _wanted(port)
    places = [binding.place for binding in bindings if binding.inside == wanted]
    if not places:
        raise LaminaError(f"the container {one.name} has no published port {wanted}", hint="see `lamina port NAME`")
    for place in places:
        write(place)


def _wanted(word: str) -> str:
    number, slash, protocol = word.partition("/")
    if not (number.isascii() and number.isdigit() and 0 < int(number[:6]) < 1 << 16) or (slash and not protocol):
        raise UsageError(f"{word!r:.60} is not a port", hint="write it like 80 or 53/udp")
    return f"{int(number)}/{protocol.lower() or 'tcp'}"
