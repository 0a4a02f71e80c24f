"""Verbs that change a container, running or not: pause, unpause, rename."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from lamina.cli.containers.several import cidfile_option, each, with_files
from lamina.cli.format.output import write
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store


@command("pause", "lamina pause web\nlamina pause --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Pause all running containers.")
@cidfile_option
@click.pass_obj
def pause(session: Session, names: tuple[str, ...], all_: bool, cidfiles: tuple[str, ...]) -> None:
    """Freeze all programs of containers: they use no processor time until `lamina unpause`. A container needs a
    cgroup for that, so only root may pause."""
    from lamina.run.container.pause import pause as freeze
    from lamina.store.containers import RUNNING

    _on_each(session, names, cidfiles, freeze, RUNNING if all_ else "")


@command("unpause", "lamina unpause web\nlamina unpause --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Let all paused containers go on.")
@cidfile_option
@click.pass_obj
def unpause(session: Session, names: tuple[str, ...], all_: bool, cidfiles: tuple[str, ...]) -> None:
    """Let paused containers go on."""
    from lamina.run.container.pause import unpause as release
    from lamina.store.containers import PAUSED

    _on_each(session, names, cidfiles, release, PAUSED if all_ else "")


def _on_each(
    session: Session,
    names: tuple[str, ...],
    cidfiles: tuple[str, ...],
    work: Callable[[Store, Container], None],
    state: str,
) -> None:
    """Call ``work`` with each container that is named or, if ``state`` is given, with each in this state."""
    names = with_files(names, cidfiles, ignore=False)
    if bool(state) == bool(names):
        raise UsageError("no containers given, or both names and --all", hint="give names or IDs, or --all alone")
    if state:
        store = session.store_if_any
        if store is None:
            return
        names = tuple(one.name for one in store.containers if store.containers.state(one) == state)

    def work_on(name: str) -> None:
        work(session.store, session.store.containers.get(name))
        write(name)

    each(names, work_on)


@command("rename", "lamina rename web old-web")
@click.argument("container", metavar="CONTAINER")
@click.argument("name", metavar="NAME")
@click.pass_obj
def rename(session: Session, container: str, name: str) -> None:
    """Give a container another name. It may be running."""
    from lamina.run.container.renaming import rename as give_name

    store = session.store
    give_name(store, store.containers.get(container), name)
