"""Verbs for containers that live on: create, start, restart, wait, attach."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import ended_in_order, warn
from lamina.cli.containers import run_command
from lamina.cli.containers.several import (
    chosen,
    cidfile_option,
    each,
    filter_option,
    for_container,
    latest_option,
    one_name,
)
from lamina.cli.containers.unsupported import UNSUPPORTED_BY_RUN, unsupported_options
from lamina.cli.containers.verbs import end, time_option
from lamina.cli.format.output import write
from lamina.cli.options import named_once, options_of, platform_option, registry_options, view_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import Conflict, ContainerFailure, LaminaError, UsageError
from lamina.light import replace
from lamina.run.container.events import note_event

if TYPE_CHECKING:
    from lamina.store.containers import Container

_keys_option = click.option(
    "--detach-keys", default="", metavar="KEYS", help="Keys that detach (default: ctrl-p,ctrl-q, or as created)."
)
_proxy_option = click.option(
    "--sig-proxy", default="true", metavar="BOOL", help="Pass signals on to the program (default: true)."
)


@command("create", "lamina create --name web -p 8080:80 nginx\nlamina start web")
@options_of(run_command.OPTIONS)
@unsupported_options(UNSUPPORTED_BY_RUN)
@view_option
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def create(session: Session, /, image: str, words: tuple[str, ...], **given: Any) -> None:
    """Make a container, and print its ID. `start` runs it. The options are those of `run`."""
    try:
        write(run_command.create_container(session, image, words, given).id)
    except ContainerFailure:
        raise
    except LaminaError as error:
        raise ContainerFailure(error.message, hint=error.hint) from error


create.allow_interspersed_args = False
create.context_settings["help_option_names"] = ["--help"]


@command("start", "lamina start web\nlamina start -ai shell\nlamina start --all --filter restart-policy=always")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--attach", is_flag=True, help="Connect its output, pass signals on, and exit with its code.")
@click.option("-i", "--interactive", is_flag=True, help="Connect standard input.")
@click.option("--all", "all_", is_flag=True, help="Start all containers that do not run.")
@filter_option
@latest_option
@_keys_option
@_proxy_option
@click.pass_obj
def start(
    session: Session,
    names: tuple[str, ...],
    attach: bool,
    interactive: bool,
    all_: bool,
    filters: tuple[str, ...],
    latest: bool,
    detach_keys: str,
    sig_proxy: str,
) -> int:
    """Start containers that were created, or have ended. A container that runs already stays as it is."""
    wanted = chosen(session, names, all_=all_, latest=latest, filters=filters)
    if (all_ or filters) and session.store_if_any is None:
        return 0
    store = session.store
    if attach or interactive:
        if wanted is None or len(wanted) != 1:
            raise UsageError("only one container can be attached", hint="give one name")
        return _start_attached(session, store.containers.get(wanted[0]), interactive, detach_keys, sig_proxy)

    def start_one(one: Container, said: str = "") -> None:
        if one.paused and store.containers.is_running(one):
            raise Conflict(f"the container {one.name} is paused", hint=f"run `lamina unpause {one.name}`")
        try:
            if not store.containers.is_running(one):
                start_behind(session, one)
        except Conflict:
            if not store.containers.is_running(one):  # else another command has started it meanwhile
                raise
        write(said or one.name)

    if wanted is None or filters:
        names = tuple(one.id for one in store.containers) if wanted is None else wanted
        every = [store.containers.get(name) for name in names]
        each([one for one in every if not store.containers.is_running(one)], start_one)
    else:
        from lamina.cli.containers.monitored import told_to_systemd

        with told_to_systemd(store, wanted[0]):
            each(wanted, lambda name: start_one(store.containers.get(name), "" if latest else name))
    return 0


def start_behind(session: Session, one: Container) -> None:
    """Start a container in the background."""
    from lamina.run.container.background import start
    from lamina.run.container.record import stack_of, wanted_of
    from lamina.run.container.user_namespace import enter_for

    store = session.store
    stack = stack_of(store, one)
    enter_for(store, wanted_of(one), on_warning=warn)
    with ended_in_order(once=True):
        start(store, stack, one, runtime=_runtime(session, one), on_warning=warn)


def _runtime(session: Session, one: Container) -> str:
    return one.runtime or session.settings.runtime


def _start_attached(session: Session, one: Container, interactive: bool, keys: str, forward: str) -> int:
    from lamina.cli.containers import monitored
    from lamina.run.container.record import stack_of, wanted_of
    from lamina.run.container.user_namespace import enter_for

    store = session.store
    if store.containers.is_running(one):
        return attach_to(session, one, stdin=interactive, keys=keys, forward=forward)
    wanted = wanted_of(one)
    wanted = replace(wanted, interactive=wanted.interactive and interactive, detach_keys=keys or wanted.detach_keys)
    run_command.check_terminal({"tty": wanted.tty, "interactive": wanted.interactive})
    stack = stack_of(store, one)
    enter_for(store, wanted, on_warning=warn)
    return monitored.run_in_front(store, stack, one, _runtime(session, one), wanted, forward=forward)


@command("restart", "lamina restart web\nlamina restart --time 2 web db")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Restart all containers.")
@click.option("--running", is_flag=True, help="Restart all running containers.")
@time_option
@cidfile_option
@filter_option
@latest_option
@click.pass_obj
def restart(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    running: bool,
    seconds: float | None,
    cidfiles: tuple[str, ...],
    filters: tuple[str, ...],
    latest: bool,
) -> None:
    """Stop containers, if they run, and start them again."""
    if running:
        named_once(bool(names), running=True)
    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_ or running, latest=latest, filters=filters)
    store = session.store_if_any if all_ or running or filters else session.store
    if store is None:
        return

    def restart_one(one: Container, said: str) -> None:
        with store.containers.owning(one) if one.remove else nullcontext():  # its end does not remove it
            end(session, one, None, seconds)
            start_behind(session, store.containers.get(one.id))
        note_event(store.paths.root, one, "restart")
        write(said)

    by_option = wanted is None or latest or bool(filters)

    def restart_named(name: str) -> None:
        one = store.containers.get(name)
        if not running or store.containers.is_running(one):
            restart_one(one, one.name if by_option else name)

    each([one.id for one in store.containers] if wanted is None else wanted, restart_named)


@command(
    "wait",
    "lamina wait web\nlamina run -d --name job app:1 && lamina wait job\nlamina wait --condition healthy db",
)
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="STATE",
    help="Wait for one of these instead: created, running, paused, exited, healthy, unhealthy.",
)
@click.option("--ignore", is_flag=True, help="Do not fail if a container does not exist.")
@click.option(
    "-i",
    "--interval",
    metavar="TIME",
    help="Time between two looks at a condition, a number alone in milliseconds (default: 100ms).",
)
@latest_option
@click.pass_obj
def wait(
    session: Session,
    names: tuple[str, ...],
    conditions: tuple[str, ...],
    ignore: bool,
    interval: str | None,
    latest: bool,
) -> None:
    """Wait until containers have ended, and print their exit codes. It is 0 for one that was never started, 255
    if nobody knows it, and -1, after a --condition, for one that runs."""
    from lamina.run.container.conditions import INTERVAL, parse_condition, wait_for
    from lamina.run.container.ending import shown_code
    from lamina.run.container.waiting import wait_end
    from lamina.spec.duration import of_option
    from lamina.store.containers import PAUSED, RESTARTING, RUNNING

    names = chosen(session, names, latest=latest) or ()
    wanted = [parse_condition(word) for word in conditions]
    if interval and interval.isascii() and interval.isdigit():
        interval = f"{interval}ms"  # podman's unit
    pause = of_option(interval, "--interval") / 1_000_000_000 if interval else INTERVAL
    store = session.store_if_any if ignore else session.store
    if store is None:
        return

    def wait_one(one: Container) -> None:
        found = wait_for(store, one, wanted, pause) if wanted else wait_end(store, one)
        # by its record, not by its monitor, which may live on for a moment after it wrote the end there
        is_up = wanted and store.containers.state(found) in (PAUSED, RESTARTING, RUNNING)
        write("-1" if is_up else str(shown_code(store, found, found.status)))

    each(names, lambda name: for_container(session, name, ignore, wait_one))


@command("attach", "lamina attach web\nlamina attach --no-stdin --detach-keys ctrl-c web")
@click.argument("name", required=False, metavar="CONTAINER")
@latest_option
@click.option("--no-stdin", is_flag=True, help="Do not connect standard input.")
@_keys_option
@_proxy_option
@click.pass_obj
def attach(session: Session, name: str | None, latest: bool, no_stdin: bool, detach_keys: str, sig_proxy: str) -> int:
    """Connect this terminal to a running container, and exit with its code."""
    name = one_name(session, name, latest)
    one = session.store.containers.get(name)
    return attach_to(session, one, stdin=not no_stdin, keys=detach_keys, forward=sig_proxy)


def attach_to(session: Session, one: Container, *, stdin: bool, keys: str, forward: str) -> int:
    """Raises Conflict, ContainerFailure."""
    from lamina.cli.containers import monitored
    from lamina.run.container.record import wanted_of
    from lamina.run.monitor import client
    from lamina.run.monitor.streams import parse_keys

    store = session.store
    if not store.containers.is_running(one):
        raise Conflict(f"the container {one.name} does not run", hint=f"start it first: lamina start {one.name}")
    if one.paused:
        raise Conflict(f"the container {one.name} is paused", hint=f"run `lamina unpause {one.name}` first")
    wanted = wanted_of(one)
    attached = client.Client(
        client.connect(store.containers.path(one.id), one.name),
        interactive=wanted.interactive and stdin,
        terminal=wanted.tty,
        keys=parse_keys(keys or wanted.detach_keys),
        forward=monitored.is_true(forward),
    )
    attached.attach()
    note_event(store.paths.root, one, "attach")
    return monitored.exit_code(store, attached.run(), one)
