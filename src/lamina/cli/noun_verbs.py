"""Verbs that exist only for compatibility: docker's `container prune` and `system prune`, podman's `exists`, skopeo's
`list-tags`."""

from __future__ import annotations

import click

from lamina.cli.access import identity_options, retry_options
from lamina.cli.format.output import ask, print_deleted
from lamina.cli.options import format_option, image_argument, platform_option, registry_options
from lamina.cli.session import Session
from lamina.cli.store.system import container_prune, system_df, system_prune
from lamina.cli.verbs import command
from lamina.errors import NotFound, UsageError

__all__ = ["container_prune", "system_df", "system_prune"]
"""docker's verbs that have a module of their own; `nouns` finds all here."""

_FORCE = click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")


@command(
    "prune",
    "lamina builder prune\nlamina builder prune -af --keep-storage 10gb",
    short_help="Delete the build cache.",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Accepted as in docker; the whole cache is always meant.")
@click.option("--filter", "filters", multiple=True, metavar="until=AGE", help="Only what is older, like until=24h.")
@click.option(
    "--keep-storage",
    "--reserved-space",
    "--max-used-space",
    "room",
    metavar="SIZE",
    help="Keep the newest steps up to this size.",
)
@click.option("--builder", hidden=True, expose_value=False)
@click.option("--verbose", is_flag=True, hidden=True, expose_value=False)
@_FORCE
@click.pass_obj
def builder_prune(session: Session, all_: bool, filters: tuple[str, ...], room: str | None, force: bool) -> None:
    """Delete the steps that builds have kept, and the cache mounts of RUN. Images stay. The next build runs these
    steps again."""
    from lamina.build.storage import prune_cache
    from lamina.run.options import parse_size
    from lamina.store.gc import Deleted

    age = max((_age(word) for word in filters), default=0.0)
    size = parse_size(room) if room is not None else None
    store = session.store_if_any
    if store is None:
        print_deleted(Deleted(), dry_run=False, format=None)
        return
    if not force:
        ask("Delete the build cache?")
    print_deleted(prune_cache(store, age=age, size=size), dry_run=False, format=None)


def _age(word: str) -> float:
    """The seconds of the filter ``until=24h`` (or ``unused-for=24h``). Raises UsageError."""
    from lamina.spec.duration import of_option

    name, _, value = word.partition("=")
    if name not in ("until", "unused-for") or not value:
        raise UsageError(f"--filter {word!r:.60} is unknown", hint="use until=24h")
    return of_option(value, "--filter until") / 1_000_000_000


@command(
    "exists", "lamina image exists debian:12 || lamina pull debian:12", short_help="Check whether an image exists."
)
@image_argument("name")
@platform_option
@click.pass_obj
def image_exists(session: Session, name: str) -> int:
    """Check whether the store has an image: exit code 0 if it has, else 1."""
    from lamina.spec.name import parse_stored

    try:
        session.image(str(parse_stored(name)))
    except NotFound:
        return 1
    return 0


@command("exists", "lamina container exists web && lamina rm web", short_help="Check whether a container exists.")
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def container_exists(session: Session, name: str) -> int:
    """Check whether a container exists: exit code 0 if it does, else 1."""
    store = session.store_if_any
    try:
        if store is not None:
            store.containers.get(name, damaged=True)
            return 0
    except NotFound:
        pass
    return 1


@command(
    "list-tags",
    "lamina list-tags docker://localhost:5000/app | jq -r '.Tags[]'",
    short_help="List the tags of a repository as JSON.",
)
@click.argument("repository", metavar="REPOSITORY")
@registry_options
@identity_options
@retry_options
@format_option
@click.pass_obj
def list_tags(session: Session, repository: str, format: str | None) -> None:
    """List the tags of a repository in its registry, as skopeo does: one JSON object with Repository and Tags.
    (`lamina tags` prints one tag per line.)"""
    from lamina.cli.registry.queries import print_tags

    print_tags(session, repository, format or "json")
