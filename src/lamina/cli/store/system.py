"""docker's `system prune` and `system df`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say
from lamina.cli.format.output import ask, emit, write
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, UsageError

if TYPE_CHECKING:
    from lamina.run.container.disk_usage import DiskUsage
    from lamina.run.container.pruning import Filters
    from lamina.spec.descriptor import Descriptor
    from lamina.store.gc import Deleted
    from lamina.store.store import Store


@command(
    "prune",
    "lamina system prune\nlamina system prune -af --volumes\nlamina system prune --filter until=24h",
    short_help="Remove what is not used: containers, networks, images, build cache.",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Also remove images without containers, and the build cache.")
@click.option("--volumes", is_flag=True, help="Also remove anonymous volumes that no container has.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Remove only matching ones: until, label, label!."
)
@click.pass_obj
def system_prune(session: Session, all_: bool, volumes: bool, force: bool, filters: tuple[str, ...]) -> None:
    """Remove all containers that do not run, networks that no container names, untagged images, and what no image
    needs. Volumes with a name stay."""
    from lamina.run.container.pruning import Filters

    chosen = Filters.parse(filters, time.time_ns())
    if volumes and chosen.until is not None:
        raise UsageError("the filter until can't be combined with --volumes", hint="leave one of them out")
    if not force:
        ask(_question(all_, volumes, filters))
    store = session.store_if_any
    freed, failed = _prune(session, store, all_, volumes, chosen, filters) if store else (0, [])
    _report(freed, failed)


@command(
    "prune",
    "lamina container prune\nlamina container prune -f --filter until=24h --filter label!=keep",
    short_help="Remove all containers that do not run.",
)
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option("--filter", "filters", multiple=True, metavar="FILTER", help="until=AGE, label=NAME or label!=NAME.")
@click.pass_obj
def container_prune(session: Session, force: bool, filters: tuple[str, ...]) -> None:
    """Remove all containers that do not run, with everything that they wrote."""
    from lamina.run.container.pruning import Filters, prune
    from lamina.run.container.user_namespace import enter

    chosen = Filters.parse(filters, time.time_ns())
    if not force:
        ask("WARNING! This will remove all stopped containers.\nAre you sure you want to continue?")
    names: list[str] = []
    freed = 0
    failed: list[LaminaError] = []
    store = session.store_if_any
    if store is not None:
        enter(store)
        freed, failed = prune(store, chosen, names.append)
    _print("Deleted Containers:", names)
    _report(freed, failed)


def _report(freed: int, failed: list[LaminaError]) -> None:
    write(f"Total reclaimed space: {human_size(freed)}")
    for more in failed[1:]:
        say(str(more))
    if failed:
        raise failed[0]


def _question(all_: bool, volumes: bool, filters: tuple[str, ...]) -> str:
    """docker's text (pure)."""
    what = ["all stopped containers", "all networks not used by at least one container"]
    if volumes:
        what.append("all anonymous volumes not used by at least one container")
    if all_:
        what += ["all images without at least one container associated to them", "all build cache"]
    else:
        what.append("all dangling images")
    lines = ["WARNING! This will remove:", *(f"  - {one}" for one in what), ""]
    if filters:
        lines += ["  Items to be pruned will be filtered with:", *(f"  - {one}" for one in map(clean, filters)), ""]
    return "\n".join([*lines, "Are you sure you want to continue?"])


def _prune(
    session: Session, store: Store, all_: bool, volumes: bool, chosen: Filters, filters: tuple[str, ...]
) -> tuple[int, list[LaminaError]]:
    """Remove everything, and print what; the freed bytes, and the errors."""
    from lamina.run.container.pruning import prune as prune_containers
    from lamina.run.container.user_namespace import enter
    from lamina.run.networks.listing import PRUNED
    from lamina.run.networks.listing import Filters as NetworkFilters
    from lamina.run.networks.removing import prune as prune_networks

    enter(store)
    names: list[str] = []
    freed, failed = prune_containers(store, chosen, names.append)
    _print("Deleted Containers:", names)
    removed, more = prune_networks(store, NetworkFilters.parse(filters, PRUNED))
    failed += more
    _print("Deleted Networks:", removed)
    if volumes:
        more_freed, more = _prune_volumes(store, filters)
        freed, failed = freed + more_freed, failed + more
    images = _prune_images(session, store, all_, chosen)
    lines = [f"untagged: {name}" for name in images.untagged] + [f"deleted: {digest}" for digest in images.deleted]
    _print("Deleted Images:", lines)
    freed += images.freed
    for text in images.notes:
        say(text)
    if all_ and not (chosen.labels or chosen.others):
        from lamina.build.storage import has_any, prune_cache

        if has_any(store):
            cached = prune_cache(store, age=max(0.0, time.time() - chosen.until) if chosen.until else 0)
            _print("Deleted build cache objects:", [str(digest) for digest in cached.deleted])
            freed += cached.freed
    return freed, failed


def _print(title: str, lines: list[str]) -> None:
    if lines:
        write("\n".join([title, *map(clean, lines), ""]))


def _prune_volumes(store: Store, filters: tuple[str, ...]) -> tuple[int, list[LaminaError]]:
    from lamina.run.volumes.listing import PRUNED, Filters
    from lamina.run.volumes.remove import prune

    chosen = Filters.parse(filters, PRUNED, time.time())
    names: list[str] = []
    freed, failed = prune(store, lambda one: one.anonymous and chosen.accept(one, is_used=False), names.append)
    _print("Deleted Volumes:", names)
    return freed, failed


def _prune_images(session: Session, store: Store, all_: bool, chosen: Filters) -> Deleted:
    from lamina.insight.images import summaries
    from lamina.spec.image_config import parse_time
    from lamina.store.prune import of_containers, prune

    is_used = of_containers(store)
    spared: set[str] = set()
    for image in summaries(store, session.platform):
        made = parse_time(image.created)
        if not chosen.accept(image.labels, None if made is None else made.timestamp()):
            spared.add(str(image.digest))

    def spare(entry: Descriptor) -> bool:
        return str(entry.digest) in spared or (all_ and is_used(entry))

    return prune(store, all=all_, spare=spare)


@command("df", "lamina system df\nlamina system df --format '{{.Type}}: {{.Size}}'", short_help="Show disk usage.")
@click.option("-v", "--verbose", is_flag=True, help="Also list images, containers and volumes.")
@format_option
@click.pass_obj
def system_df(session: Session, verbose: bool, format: str | None) -> None:
    """Show how much disk images, containers, volumes and the build cache use, and how much of it can be reclaimed.
    (`lamina df` shows the parts of the store.)"""
    from lamina.run.container.disk_usage import KINDS, disk_usage
    from lamina.run.container.user_namespace import enter

    store = session.store_if_any
    if store is not None:
        enter(store)
    used = disk_usage(store) if store else None
    rows, json_rows = [], []
    for kind in KINDS:
        part = used.parts[kind] if used else None
        total, active, size, free = (part.total, part.active, part.size, part.reclaimable) if part else (0, 0, 0, 0)
        share = f" ({free * 100 // size}%)" if size else ""
        values: dict[str, Any] = {"Type": kind, "TotalCount": total, "Active": active}
        rows.append({**values, "Total": total, "Size": human_size(size), "Reclaimable": human_size(free) + share})
        json_rows.append({**values, "Size": size, "Reclaimable": free})
    columns = [("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE")]
    emit(rows, [*columns, ("Reclaimable", "RECLAIMABLE")], format, json_rows=json_rows)
    if verbose and format in (None, "table") and store is not None and used is not None:
        _list(store, used)


def _list(store: Store, used: DiskUsage) -> None:
    """docker's tables of `system df -v`."""
    from lamina.cli.format.output import table
    from lamina.spec.reference import Reference

    write("\nImages space usage:\n")
    rows = []
    for image in used.images.per_image:
        names = [Reference.parse(name).familiar for name in image.names] or [f"<none> {image.digest.short}"]
        sizes = [human_size(size) for size in (image.size, image.shared, image.unique)]
        rows.append([", ".join(names), *sizes, str(used.users.get(str(image.digest), 0))])
    table(rows, ["IMAGE", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"])
    write("\nContainers space usage:\n")
    every = {one.id: one for one in store.containers.every()}
    rows = [
        [one.id[:12], one.image, human_size(used.containers[one.id]), store.containers.state(one), one.name]
        for one in every.values()
        if one.id in used.containers
    ]
    table(rows, ["CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"])
    write("\nLocal Volumes space usage:\n")
    links = {name: sum(name in one.volumes for one in every.values()) for name in used.volumes}
    rows = [[name, str(links[name]), human_size(size)] for name, size in used.volumes.items()]
    table(rows, ["VOLUME NAME", "LINKS", "SIZE"])
    write(f"\nBuild cache usage: {human_size(used.images.build)}")
