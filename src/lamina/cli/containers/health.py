"""The verb `healthcheck` of podman."""

from __future__ import annotations

import click

from lamina.cli.format.output import write
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group


@click.group("healthcheck", cls=Group, short_help=VERBS["healthcheck"][2])
def healthcheck() -> None:
    """Check the health of containers, as `run --health-cmd` or HEALTHCHECK of the image says.

    \b
    Example:
      lamina healthcheck run web
    """


@healthcheck.command("run", cls=Command, short_help="Run the health check of a container now.")
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def run(session: Session, name: str) -> int:
    """Run the health check of a container now, besides those that its monitor runs; the result counts as theirs. The
    exit code is 0 if the check succeeds, else 1.

    \b
    Example:
      lamina healthcheck run web || lamina inspect -f '{{json .State.Health}}' web
    """
    from lamina.run.container.health import check_now
    from lamina.run.container.user_namespace import enter

    store = session.store
    one = store.containers.get(name)
    enter(store, one)
    result, health = check_now(store, one)
    if result.code == 0:
        return 0
    write(health.status)
    return 1
