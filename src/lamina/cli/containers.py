"""Verbs for containers: run, ps, rm, stop, kill, exec, cp, commit; and `diff` of one container."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from lamina.cli import launch, say, warn
from lamina.cli.app import command
from lamina.cli.make import config_changes, config_options, epoch
from lamina.cli.options import (
    TEXT,
    format_option,
    options_of,
    platform_option,
    quiet_option,
    registry_options,
    view_option,
)
from lamina.cli.output import emit, emit_json, emit_template, write
from lamina.cli.session import Session
from lamina.cli.text import clean
from lamina.errors import Cancelled, LaminaError, SystemFailure, UsageError
from lamina.store.containers import Container

_Thing = TypeVar("_Thing")


@command(
    "run",
    "lamina run --rm -it debian:12 bash\n"
    "lamina run --name web -v ./site:/srv:ro --network host nginx\n"
    "lamina run --rm -m 512m --cpus 1 --read-only --tmpfs /tmp app:1 ./test",
)
@options_of(launch.OPTIONS)
@view_option
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def run(session: Session, /, image: str, words: tuple[str, ...], **given: Any) -> int:
    """Run a program in a new container of an image: the image's layers below, read-only and shared, a writable layer
    on top that takes all changes. The exit code is the program's own; 125 where the container can't be made, 126
    where the program can't be started, 127 where it is not there."""
    return launch.launch(session, image, words, **given)


run.allow_interspersed_args = False


@command("ps", "lamina ps\nlamina ps -a --format json\nlamina rm $(lamina ps -aq)")
@click.option("-a", "--all", "all_", is_flag=True, help="Those that have ended too.")
@quiet_option
@format_option
@click.pass_obj
def ps(session: Session, all_: bool, quiet: bool, format: str | None) -> None:
    """List containers: those that run, or all. Those with a damaged record are always listed; `lamina rm ID` removes
    them."""
    containers = session.store.containers
    states = [(one, containers.state(one)) for one in containers.every()[::-1]]
    found = [(one, state) for one, state in states if all_ or state in ("running", "damaged")]
    if quiet and format is None:
        for one, _ in found:
            write(one.id)
        return
    rows = [
        {
            "ID": one.id[:12],
            "Image": clean(one.image),
            "Command": clean(" ".join(one.command))[:40],
            "Status": _status(state, one.exit_code),
            "Created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created)),
            "Name": one.name,
            "Names": one.name,
        }
        for one, state in found
    ]
    json_rows = [
        {
            "id": one.id,
            "name": one.name,
            "image": one.image,
            "manifest": one.manifest,
            "command": list(one.command),
            "state": state,
            "exit_code": one.exit_code,
            "created": one.created,
            "finished": one.finished,
            "view": one.view,
        }
        for one, state in found
    ]
    columns = [(key, key.upper()) for key in ("ID", "Image", "Command", "Created", "Status", "Name")]
    emit(rows, columns, format, json_rows=json_rows)


def _status(state: str, code: int | None) -> str:
    return f"exited ({'?' if code is None else code})" if state == "exited" else state


@command("rm", "lamina rm web\nlamina rm --force web\nlamina rm --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-f", "--force", is_flag=True, help="Those that run too: they are killed.")
@click.option("-a", "--all", "all_", is_flag=True, help="All that have ended (with --force: all).")
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], force: bool, all_: bool) -> None:
    """Remove containers with all that they wrote, however little of them is left. Named volumes stay. Where one
    can't be removed, the others are, and the exit code is that of the first failure."""
    from lamina.run.ending import clear, remove

    if bool(names) == all_:
        raise UsageError("say which containers", hint="names or IDs, or --all")
    store = session.store

    def remove_one(one: Container) -> None:
        remove(store, one, force=force)
        write(one.name)

    if not all_:
        _each(names, lambda name: remove_one(store.containers.get(name, damaged=True)))
        return
    failed = clear(store)
    every = [one for one in store.containers.every() if force or not store.containers.is_running(one)]
    _each(every, remove_one, failed)


def _each(things: Iterable[_Thing], work: Callable[[_Thing], object], failed: Sequence[LaminaError] = ()) -> None:
    """Do it with each of them, whether or not others fail. Raises the first failure when all is done, and says the
    others before that."""
    errors = list(failed)
    for one in things:
        try:
            work(one)
        except Cancelled:
            raise
        except LaminaError as error:
            errors.append(error)
    for other in errors[1:]:
        say(str(other))
    if errors:
        raise errors[0]


@command("stop", "lamina stop web\nlamina stop --time 2 web")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-t", "--time", "seconds", type=float, default=10, help="Seconds until it is killed (default 10).")
@click.pass_obj
def stop(session: Session, names: tuple[str, ...], seconds: float) -> None:
    """Ask containers to end (the image's stop signal), and kill those that don't."""
    from lamina.errors import SystemFailure
    from lamina.run.container import stack_of
    from lamina.run.ending import clear
    from lamina.run.ending import stop as end

    store = session.store

    def stop_one(name: str) -> None:
        one = store.containers.get(name)
        try:
            end(store, one, stack_of(store, one).config.stop_signal or "TERM", seconds=seconds)
        except SystemFailure:
            end(store, one, "KILL")
        write(one.name)

    _each(names, stop_one)
    clear(store)  # one whose lamina was killed has left its mounts


@command("kill", "lamina kill web\nlamina kill --signal HUP web")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-s", "--signal", "number", default="KILL", help="The signal (default KILL).")
@click.pass_obj
def kill(session: Session, names: tuple[str, ...], number: str) -> None:
    """Send a signal to containers' first processes."""
    from lamina.run.ending import signal_container

    def kill_one(name: str) -> None:
        one = session.store.containers.get(name)
        signal_container(session.store, one, number)
        write(one.name)

    _each(names, kill_one)


@command("exec", "lamina exec -it web sh\nlamina exec web cat /etc/hosts")
@options_of(launch.PROCESS_OPTIONS)
@click.argument("name", metavar="CONTAINER")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND [ARG]...")
@click.pass_obj
def exec_(session: Session, /, name: str, words: tuple[str, ...], **given: Any) -> int:
    """Run another program in a container that runs; the exit code is the program's."""
    from lamina.run.container import enter, execute
    from lamina.run.options import Wanted, parse_workdir

    wanted = Wanted(
        command=words,
        env=launch.environment(given),
        workdir=parse_workdir(given["workdir"]),
        user=given["user"],
        tty=given["tty"],
        interactive=given["interactive"],
    )
    if wanted.tty and not sys.stdin.isatty():
        raise UsageError("standard input is no terminal", hint="leave out -t")
    container = session.store.containers.get(name)
    enter(session.store, container)
    return execute(session.store, container, wanted)


exec_.allow_interspersed_args = False


def list_changes(session: Session, name: str, format: str | None) -> None:
    """List what a container changed, for `diff` of one: A added, C changed, D deleted."""
    from lamina.run.commit import container_changes
    from lamina.run.container import enter, stack_of

    store = session.store
    one = store.containers.get(name)
    enter(store, one)
    found = container_changes(store, stack_of(store, one), one)
    rows = [{"Kind": change.how, "Path": "/" + os.fsdecode(change.path)} for change in found]
    if format in (None, "table"):
        for row in rows:
            write(f"{row['Kind']} {clean(row['Path'])}")
    elif format == "json":
        from lamina.cli.text import json_path

        emit_json([{"kind": change.how, **json_path(change.path)} for change in found])
    else:
        emit_template(rows, {}, format or "")


@command("cp", "lamina cp web:/etc/hosts .\nlamina cp page.html web:/srv/\nlamina cp site/. web:/srv")
@click.argument("source")
@click.argument("target")
@click.pass_obj
def cp(session: Session, source: str, target: str) -> None:
    """Copy files out of a container or into it, whether it runs or not. DIR/. is what is in DIR."""
    from lamina.run.container import enter, opened, owner_of, stack_of
    from lamina.run.copy import copy_in, copy_out

    (one, inner), (other, outer) = _place(source), _place(target)
    if bool(one) == bool(other):
        raise UsageError("one side is CONTAINER:PATH, the other a path of this machine", hint="see --help")
    store = session.store
    container = store.containers.get(one or other)
    outside = target if one else source
    if not os.path.isabs(outside) and not os.access(".", os.X_OK):
        raise SystemFailure(
            f"{outside!r:.200}: this user may not search the working directory", hint="give an absolute path"
        )
    enter(store, container)
    with opened(store, stack_of(store, container), container) as inside:
        if one:
            copy_out(inside, inner, target)
        else:
            copy_in(source, inside, outer, owner=owner_of(container))


def _place(text: str) -> tuple[str, str]:
    """(container, path), or ("", path): a path of this machine has a / before its first colon."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and name and "/" not in name and not name.startswith(".") else ("", text)


@command("commit", "lamina commit web app:2\nlamina commit --cmd ./serve -m 'as tested' web app:2")
@click.argument("name", metavar="CONTAINER")
@click.argument("image")
@click.option("-m", "--message", type=TEXT, default="", help="The new step's comment.")
@click.option("-a", "--author", type=TEXT, default="", help="Who made it.")
@config_options
@quiet_option
@click.pass_obj
def commit(session: Session, /, name: str, image: str, message: str, author: str, quiet: bool, **given: Any) -> None:
    """Make an image of a container: its own image, and one layer of what it changed. Volumes are not part of it. With
    SOURCE_DATE_EPOCH the same changes give the same digest."""
    from lamina.run.commit import commit as make
    from lamina.run.container import enter, stack_of

    store = session.writable_store
    one = store.containers.get(name)
    enter(store, one)
    stack = stack_of(store, one)
    compression = given.pop("compression") or "gzip"
    changes = config_changes(stack.config, **given)
    if author:
        changes["author"] = author
    made = make(
        store,
        stack,
        one,
        image,
        epoch=epoch(),
        compression=compression,
        changes=changes,
        comment=message,
        on_warning=warn,
    )
    write(str(made.digest))
