"""The verb `generate` of podman: units of systemd."""

from __future__ import annotations

import os
import shutil
import sys

import click

from lamina.cli.format.output import emit_json, write
from lamina.cli.options import named_once
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group
from lamina.errors import UsageError
from lamina.run.systemd import RESTARTS


@click.group("generate", cls=Group, short_help=VERBS["generate"][2])
def generate() -> None:
    """Print units of systemd for containers.

    \b
    Example:
      lamina generate systemd --name web
    """


@generate.command("systemd", cls=Command, short_help="Print units of systemd for containers.")
@click.argument("name", required=False, metavar="[CONTAINER]")
@click.option("-a", "--all", "all_", is_flag=True, help="Print the unit that starts containers at boot.")
@click.option("-n", "--name", "by_name", is_flag=True, help="Use the name of the container instead of its ID.")
@click.option("--new", is_flag=True, help="Make a new container at each start, and remove it at the end.")
@click.option("-f", "--files", is_flag=True, help="Write files in the current directory, and print their names.")
@click.option(
    "--restart-policy",
    type=click.Choice(RESTARTS),
    default="on-failure",
    metavar="POLICY",
    help="When systemd starts it again: no, on-success, on-failure (default), always, ...",
)
@click.option("--restart-sec", type=click.IntRange(0), default=0, metavar="N", help="Seconds before that.")
@click.option("--start-timeout", type=click.IntRange(0), default=0, metavar="N", help="Seconds for a start.")
@click.option("-t", "--time", "--stop-timeout", "seconds", type=click.IntRange(0), metavar="N", help="As for `stop`.")
@click.option("--container-prefix", default="container", metavar="TEXT", help="Begins the unit's name.")
@click.option("--separator", default="-", metavar="TEXT", help="Stands in the unit's name between the two.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable in the unit.")
@click.option("--wants", multiple=True, metavar="UNIT", help="A unit that is started too.")
@click.option("--after", multiple=True, metavar="UNIT", help="A unit that is started before.")
@click.option("--requires", multiple=True, metavar="UNIT", help="A unit that must run.")
@click.option("--no-header", is_flag=True, help="Leave out the comment at the top.")
@click.option("--format", type=click.Choice(["json"]), help="Print json: the text of each unit, by its name.")
@click.pass_obj
def systemd(
    session: Session,
    name: str | None,
    all_: bool,
    by_name: bool,
    new: bool,
    files: bool,
    restart_policy: str,
    restart_sec: int,
    start_timeout: int,
    seconds: int | None,
    container_prefix: str,
    separator: str,
    env: tuple[str, ...],
    wants: tuple[str, ...],
    after: tuple[str, ...],
    requires: tuple[str, ...],
    no_header: bool,
    format: str | None,
) -> None:
    """Print a unit of systemd for a container: systemd then starts and stops it, and starts it again if it fails.
    With --all, print the unit `lamina-start.service`: at boot it starts the containers whose restart policy says so.

    \b
    Example:
      lamina generate systemd --new --files --name web
      lamina generate systemd --all > /etc/systemd/system/lamina-start.service
    """
    from lamina.run.systemd import BOOT_UNIT, Service, boot_unit, container_unit

    named_once(bool(name), all=all_)
    if all_ and new:
        raise UsageError("--new needs a container", hint="leave out --all, and name a container")
    program = _program(session)
    if all_:
        _put({BOOT_UNIT: boot_unit(program, stop_seconds=seconds or 90, header=not no_header)}, files, format)
        return
    one = session.store.containers.get(name or "")
    create: tuple[str, ...] = ()
    if new:
        from lamina.run.container.record import wanted_of

        create = wanted_of(one).create_command
        if not create:
            raise UsageError(
                f"the container {one.name} was not made by `run` or `create` of this lamina", hint="leave out --new"
            )
    shown = one.name if by_name else one.id
    unit = f"{container_prefix}{separator if container_prefix else ''}{shown}"
    if not set(unit) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.@\\"):
        raise UsageError(f"{unit!r:.100} is not the name of a unit", hint="use letters, digits, : - _ . and @")
    service = Service(
        name=unit,
        container=shown,
        program=program,
        create=create,
        restart=restart_policy,
        restart_seconds=restart_sec,
        stop_seconds=seconds if seconds is not None else one.stop_timeout or 10,
        start_seconds=start_timeout,
        wants=wants,
        after=after,
        requires=requires,
        env=env,
        root=os.path.abspath(session.settings.root),
        header=not no_header,
    )
    _put({unit: container_unit(service)}, files, format)


def _program(session: Session) -> tuple[str, ...]:
    """The words that call this lamina, on this store."""
    own = sys.argv[0]
    if os.path.basename(own) != "lamina" or not os.access(own, os.X_OK):
        own = shutil.which("lamina") or ""
    words = (os.path.abspath(own),) if own else (sys.executable, "-m", "lamina")
    if session.settings.values["root"].origin == "default":
        return words
    return (*words, "--root", os.path.abspath(session.settings.root))


def _put(units: dict[str, str], files: bool, format: str | None) -> None:
    """Print the units, or write each into a file and print its path."""
    if files:
        from lamina.host.files import replace_file, reported

        paths = {}
        for unit, text in units.items():
            paths[unit] = os.path.abspath(f"{unit}.service")
            with reported(paths[unit]):
                replace_file(paths[unit], [text.encode()], mode=0o600, lasting=False)  # its words may be secrets
        units = paths
    if format == "json":
        emit_json(units)
        return
    for text in units.values():
        write(text.removesuffix("\n"))
