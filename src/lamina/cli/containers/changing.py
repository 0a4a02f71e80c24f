"""Verbs that change a container, running or not: pause, unpause, rename."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from lamina.cli.containers.several import chosen, cidfile_option, each, filter_option, latest_option
from lamina.cli.format.output import write
from lamina.cli.session import Session
from lamina.cli.verbs import command

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


@command("pause", "lamina pause web\nlamina pause --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Pause all running containers.")
@cidfile_option
@filter_option
@latest_option
@click.pass_obj
def pause(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    cidfiles: tuple[str, ...],
    filters: tuple[str, ...],
    latest: bool,
) -> None:
    """Freeze all programs of containers: they use no processor time until `lamina unpause`. A container needs a
    cgroup for that, so only root may pause; a machine needs nothing."""
    from lamina.run.container.pause import pause as freeze
    from lamina.store.containers import RUNNING

    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_, latest=latest, filters=filters)
    _on_each(session, wanted, freeze, RUNNING if all_ or filters else "")


@command("unpause", "lamina unpause web\nlamina unpause --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Let all paused containers go on.")
@cidfile_option
@filter_option
@latest_option
@click.pass_obj
def unpause(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    cidfiles: tuple[str, ...],
    filters: tuple[str, ...],
    latest: bool,
) -> None:
    """Let paused containers go on."""
    from lamina.run.container.pause import unpause as release
    from lamina.store.containers import PAUSED

    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_, latest=latest, filters=filters)
    _on_each(session, wanted, release, PAUSED if all_ or filters else "")


def _on_each(
    session: Session, wanted: tuple[str, ...] | None, work: Callable[[Store, Container], None], state: str
) -> None:
    """Call ``work`` with each container. ``wanted``: as ``chosen`` returns it. ``state``: leave out containers in
    another state, if it is not ""."""
    store = session.store if wanted is not None else session.store_if_any
    if store is None:
        return

    def work_on(name: str) -> None:
        one = store.containers.get(name)
        if not state or store.containers.state(one) == state:
            work(store, one)
            write(one.name if state else name)

    each([one.id for one in store.containers] if wanted is None else wanted, work_on)


@command("rename", "lamina rename web old-web")
@click.argument("container", metavar="CONTAINER")
@click.argument("name", metavar="NAME")
@click.pass_obj
def rename(session: Session, container: str, name: str) -> None:
    """Give a container another name. It may be running."""
    from lamina.run.container.renaming import rename as give_name

    store = session.store
    give_name(store, store.containers.get(container), name)
