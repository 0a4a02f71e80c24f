"""The verb `volume`: create, ls, inspect, rm, prune and exists, with docker's flags and output."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say
from lamina.cli.format.output import ask, emit, emit_json, emit_template, write
from lamina.cli.format.rows import HEADINGS, labels_text
from lamina.cli.format.template_record import NO_MAP, Record
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import format_option, named_once, short_format_option
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group
from lamina.errors import LaminaError, NotFound, UsageError

if TYPE_CHECKING:
    from lamina.store.store import Store
    from lamina.store.volumes import Volume

_HEADINGS = HEADINGS | {"Name": "VOLUME NAME"}
_UNKNOWN = dict.fromkeys(("Availability", "Group", "Links", "Size", "Status"), "N/A")


@click.group("volume", cls=Group, short_help=VERBS["volume"][2])
def volume() -> None:
    """Volumes: directories of data that outlive containers.

    \b
    Example:
      lamina volume create --label app=shop data
      lamina run --rm -v data:/data alpine touch /data/file
      lamina volume rm data
    """


@volume.command("create", cls=Command)
@click.argument("name", required=False)
@click.option("-d", "--driver", default="local", metavar="local", help="The driver; local is the only one.")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Set a label on the volume.")
@click.option(
    "-o",
    "--opt",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the driver: type, device and o, as for mount(8).",
)
@click.option("--ignore", is_flag=True, help="Accepted as in podman; a volume that exists is never an error.")
@click.option("--name", "other_name", hidden=True)
@click.pass_obj
def create(
    session: Session,
    name: str | None,
    driver: str,
    labels: tuple[str, ...],
    options: tuple[str, ...],
    ignore: bool,
    other_name: str | None,
) -> None:
    """Make a volume, and print its name. Without a name one is made up. If it exists already, nothing is changed.

    With --opt the volume is what mount(8) would mount: another directory, a tmpfs, or a file system.

    \b
    Example:
      lamina volume create data
      lamina volume create --opt type=none --opt o=bind --opt device=/srv/data data
      lamina volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=100m scratch
    """
    from lamina.run.options import parse_labels
    from lamina.run.volumes.create import create_volume

    if name and other_name:
        raise UsageError("two names for one volume", hint="leave --name out")
    made = create_volume(
        session.writable_store,
        name or other_name or "",
        parse_labels(labels),
        parse_labels(options),
        driver=driver,
    )
    write(made.name)


@volume.command("ls", cls=Command)
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Show only matching ones: dangling, driver, label, name, anonymous, until.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show names only.")
@click.option("-n", "--noheading", is_flag=True, help="Leave the headings out.")
@format_option
@click.pass_obj
def ls(session: Session, filters: tuple[str, ...], quiet: bool, noheading: bool, format: str | None) -> None:
    """List volumes.

    \b
    Example:
      lamina volume ls
      lamina volume ls -q --filter dangling=true
      lamina volume ls --format '{{.Name}} {{.Label "app"}}'
    """
    from lamina.run.volumes.listing import LISTED, Filters

    chosen = Filters.parse(filters, LISTED, time.time())
    store = session.store_if_any
    found = _chosen(store, chosen) if store else []
    if quiet and format is None:
        for one in found:
            write(clean(one.name))
        return
    if format == "json":
        emit_json([_described(store, one) for one in found] if store else [])
        return
    rows = [_row(store, one) for one in found] if store else []
    columns = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")]
    emit(rows, columns, format, header=not noheading, headings=_HEADINGS)


def _chosen(store: Store, filters: Any) -> list[Volume]:
    from lamina.run.volumes.points import is_user

    containers = store.containers.every()
    return [
        one
        for one in store.volumes.every()
        if filters.accept(one, is_used=any(is_user(other, one.name) for other in containers))
    ]


def _row(store: Store, one: Volume) -> Record:
    labels = dict(one.labels)
    fields = {
        "Driver": one.driver,
        "Labels": clean(labels_text(labels)),
        "Mountpoint": store.volumes.path(one.name),
        "Name": one.name,
        "Scope": "local",
        **_UNKNOWN,
    }
    own = {"CreatedAt": _time(one.created), "Anonymous": one.anonymous, "Options": dict(one.options)}
    return Record(dict(sorted(fields.items())), own, {"Label": lambda name: labels.get(str(name), "")})


def _described(store: Store, one: Volume) -> Record:
    """A volume in docker's form, with podman's ``Anonymous`` where it is true."""
    absent: dict[str, str] | None = (
        None if one.container else {}
    )  # as docker shows volumes that `run` has made, or `volume create`
    found = {
        "CreatedAt": _time(one.created),
        "Driver": one.driver,
        "Labels": dict(one.labels) or absent,
        "Mountpoint": store.volumes.path(one.name),
        "Name": one.name,
        "Options": dict(one.options) or absent,
        "Scope": "local",
    }
    own = {"Labels": NO_MAP, "Options": NO_MAP, "Status": NO_MAP, "Anonymous": one.anonymous, "UsageData": None}
    return Record(found, own)


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "0001-01-01T00:00:00Z"


@volume.command("inspect", cls=Command)
@click.argument("names", nargs=-1, metavar="[VOLUME]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Show all volumes.")
@short_format_option
@click.pass_obj
def inspect(session: Session, names: tuple[str, ...], all_: bool, format: str | None) -> None:
    """Show details of volumes as JSON, with docker's field names. What was found is printed also if another name was
    not found; the exit code is then that of the failure.

    \b
    Example:
      lamina volume inspect data
      lamina volume inspect --format '{{.Mountpoint}}' data
    """
    named_once(bool(names), "volumes", all=all_)
    store = session.store_if_any
    found: list[Record] = []
    failed: list[LaminaError] = []
    for name in [one.name for one in store.volumes.every()] if all_ and store else names:
        try:
            if store is None:
                raise NotFound(f"no volume {name!r:.100}", hint="see `lamina volume ls`")
            found.append(_described(store, store.volumes.get(name)))
        except LaminaError as error:
            failed.append(error)
    if format in (None, "json", "table"):
        emit_json(found)
    elif found:
        emit_template(found, {}, format or "")
    sys.stdout.flush()
    _fail(failed)


@volume.command("rm", cls=Command)
@click.argument("names", nargs=-1, metavar="[VOLUME]...")
@click.option("-f", "--force", is_flag=True, help="Do not fail if a volume does not exist.")
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all volumes.")
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], force: bool, all_: bool) -> None:
    """Remove volumes with their data. A volume that a container has, running or not, is not removed.

    \b
    Example:
      lamina volume rm data
      lamina volume rm $(lamina volume ls -q --filter dangling=true)
    """
    from lamina.run.volumes.remove import remove_volume

    named_once(bool(names), "volumes", all=all_)
    store = session.store_if_any
    failed: list[LaminaError] = []
    for name in [one.name for one in store.volumes.every()] if all_ and store else names:
        try:
            if store is None:
                raise NotFound(f"no volume {name!r:.100}", hint="see `lamina volume ls`")
            remove_volume(store, name)
        except NotFound as error:
            if not force:
                failed.append(error)
                continue
        except LaminaError as error:
            failed.append(error)
            continue
        write(clean(name))
    _fail(failed)


@volume.command("prune", cls=Command)
@click.option("-a", "--all", "all_", is_flag=True, help="Also remove volumes with a name.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only matching ones: label, label!, until, all."
)
@click.pass_obj
def prune(session: Session, all_: bool, force: bool, filters: tuple[str, ...]) -> None:
    """Remove the anonymous volumes that no container has; with --all also those with a name. (docker before 23 and
    podman remove both without --all.)

    \b
    Example:
      lamina volume prune
      lamina volume prune --all --force --filter label!=keep
    """
    from lamina.run.volumes.listing import PRUNED, Filters
    from lamina.run.volumes.remove import prune as remove_unused

    chosen = Filters.parse(filters, PRUNED, time.time())
    both = all_ or bool(chosen.flag("all"))
    store = session.store_if_any
    if not force:
        ask(
            "Remove all volumes that no container has?" if both else "Remove anonymous volumes that no container has?"
        )
    names: list[str] = []
    freed, failed = 0, list[LaminaError]()
    if store is not None:
        freed, failed = remove_unused(
            store, lambda one: (both or one.anonymous) and chosen.accept(one, is_used=False), names.append
        )
    if names:
        write("Deleted Volumes:\n" + "\n".join(map(clean, names)) + "\n")
    write(f"Total reclaimed space: {human_size(freed)}")
    _fail(failed)


@volume.command("exists", cls=Command)
@click.argument("name", metavar="VOLUME")
@click.pass_obj
def exists(session: Session, name: str) -> int:
    """Check whether a volume exists: exit code 0 if it does, else 1.

    \b
    Example:
      lamina volume exists data || lamina volume create data
    """
    store = session.store_if_any
    try:
        if store is not None:
            store.volumes.get(name)
            return 0
    except NotFound:
        pass
    return 1


def _fail(errors: Sequence[LaminaError]) -> None:
    """Print all errors but the first, then raise the first."""
    for more in errors[1:]:
        say(str(more))
    if errors:
        raise errors[0]
