"""Verbs for containers: run, ps, rm, stop, kill, exec, cp, commit; and `diff` of one container."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.app import command
from lamina.cli.make import config_changes, config_options, epoch
from lamina.cli.options import Decorator, format_option, platform_option, quiet_option, registry_options, view_option
from lamina.cli.output import emit, emit_json, write
from lamina.cli.session import Session
from lamina.cli.text import clean
from lamina.errors import Cancelled, ContainerFailure, LaminaError, ReferenceNotFound, UsageError
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.image import Image
    from lamina.run.options import Wanted

_process_options = [
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; NAME alone: as here."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Variables, a line each."),
    click.option("-w", "--workdir", default="", metavar="PATH", help="Where it runs (made where it is missing)."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="As whom: names of the image, or numbers."),
    click.option("-i", "--interactive", is_flag=True, help="Give it this command's standard input."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
]
_run_options = [
    *_process_options,
    click.option("--name", default="", metavar="NAME", help="The container's name (default: its ID's first digits)."),
    click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends."),
    click.option("-v", "--volume", multiple=True, metavar="[SOURCE:]PATH[:ro]", help="A directory, file or volume."),
    click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="A directory in memory."),
    click.option("--entrypoint", metavar="PROGRAM", help="Run this instead of the image's entrypoint."),
    click.option("--read-only", is_flag=True, help="Nothing but volumes and tmpfs can be written."),
    click.option("--network", "--net", default="", metavar="pasta|none|host", help="Default: pasta, else none."),
    click.option(
        "--userns",
        default="",
        metavar="host|auto|keep-id",
        help="auto: ids of its own, root is nobody outside. keep-id[:uid=N,gid=N]: you are yourself inside.",
    ),
    click.option("--hostname", default="", metavar="NAME", help="Default: the ID's first digits."),
    click.option("--add-host", multiple=True, metavar="NAME:ADDRESS", help="A line for /etc/hosts."),
    click.option("--cap-add", multiple=True, metavar="CAP", help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="CAP", help="Drop a capability, or ALL."),
    click.option(
        "--security-opt",
        multiple=True,
        metavar="WORD",
        help="no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined.",
    ),
    click.option("--init", is_flag=True, help="An init (tini or its like) as the first process."),
    click.option("-m", "--memory", metavar="SIZE", help="At most this much, like 512m."),
    click.option("--cpus", type=float, metavar="N", help="At most so many processors, like 1.5."),
    click.option("--pids-limit", type=int, metavar="N", help="At most so many processes."),
    click.option("--runtime", default="", metavar="NAME", help="crun, runc, or a path (default: what is here)."),
    click.option(
        "--pull",
        "pulling",
        type=click.Choice(["missing", "never", "always"]),
        default="missing",
        help="Whether to ask the registry (default: missing).",
    ),
]


def _options(options: list[Decorator]) -> Decorator:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@command(
    "run",
    "lamina run --rm -it debian:12 bash\n"
    "lamina run --name web -v ./site:/srv:ro --network host nginx\n"
    "lamina run --rm -m 512m --cpus 1 --read-only --tmpfs /tmp app:1 ./test",
)
@_options(_run_options)
@view_option
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def run(session: Session, /, image: str, words: tuple[str, ...], runtime: str, pulling: str, **given: Any) -> int:
    """Run a program in a new container of an image: the image's layers below, read-only and shared, a writable layer
    on top that takes all changes. The exit code is the program's own; 125 where the container can't be made, 126
    where the program can't be started, 127 where it is not there."""
    try:
        return _run(session, image, words, runtime, pulling, given)
    except Cancelled:
        raise
    except LaminaError as error:
        raise ContainerFailure(error.message, hint=error.hint) from error


run.allow_interspersed_args = False


def _run(
    session: Session, image: str, words: tuple[str, ...], runtime: str, pulling: str, given: dict[str, Any]
) -> int:
    from lamina.run import container as containers

    wanted = _wanted(words, given)
    if wanted.tty and not sys.stdin.isatty():
        raise UsageError("standard input is no terminal", hint="leave out -t")
    found = _image(session, image, pulling)
    store = session.writable_store
    containers.enter()
    made = containers.create(
        store,
        found.stack,
        wanted,
        image=image,
        running=True,
        upper_dir=session.settings.upper_dir or "",
        on_warning=_warn,
    )
    return containers.run(store, found.stack, made, wanted, runtime=runtime).code


def _warn(text: str) -> None:
    click.echo(f"lamina: warning: {clean(text)}", err=True)


def _image(session: Session, name: str, pulling: str) -> Image:
    parsed = parse_name(name)
    if parsed.transport or not parsed.whole:
        raise UsageError(f"{name!r:.200} is no image of the store", hint="`lamina pull`, `load` or `copy` it first")
    if pulling != "always":
        try:
            return session.image(name)
        except ReferenceNotFound:
            if pulling == "never":
                raise
    from lamina.cli.progress import Progress
    from lamina.transfer.wire import pull

    with Progress(quiet=False) as progress, session.interruptible():
        store, network = session.writable_store, session.network(progress)
        pull(parsed.name, store, network, platform=session.platform, on_event=progress, cancel=session.cancel)
    return session.image(name)


def _wanted(words: tuple[str, ...], given: dict[str, Any]) -> Wanted:
    from lamina.run import options

    security = _security(given["security_opt"])
    return options.Wanted(
        command=words,
        entrypoint=given["entrypoint"],
        env=_env(given),
        mounts=(
            *(options.parse_volume(word) for word in given["volume"]),
            *(options.parse_tmpfs(word) for word in given["tmpfs"]),
        ),
        workdir=given["workdir"],
        user=given["user"],
        read_only=given["read_only"],
        network=given["network"],
        hostname=given["hostname"],
        userns=options.parse_userns(given["userns"]),
        name=given["name"],
        interactive=given["interactive"],
        tty=given["tty"],
        cap_add=given["cap_add"],
        cap_drop=given["cap_drop"],
        init=given["init"],
        memory=options.parse_size(given["memory"]) if given["memory"] else None,
        cpus=given["cpus"],
        pids=given["pids_limit"],
        remove=given["remove"],
        view=given["view"] or "",
        add_hosts=tuple(options.parse_host(word) for word in given["add_host"]),
        **security,
    )


def _env(given: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    from lamina.files import reported
    from lamina.run.options import parse_env, parse_env_file

    found: list[tuple[str, str]] = []
    for path in given["env_file"]:
        with reported(path), open(path, encoding="utf-8", errors="surrogateescape") as file:
            found += parse_env_file(file.read(), os.environ)
    return (*found, *parse_env(given["env"], os.environ))


def _security(words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false"
        elif key == "seccomp" and value:
            found["seccomp"] = value
        elif (key, value) in (("systempaths", "unconfined"), ("unmask", "ALL")):
            found["unmask"] = True
        else:
            raise UsageError(
                f"no security option {word!r:.100}",
                hint="no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined",
            )
    return found


@command("ps", "lamina ps\nlamina ps -a --format json\nlamina rm $(lamina ps -aq)")
@click.option("-a", "--all", "all_", is_flag=True, help="Those that have ended too.")
@quiet_option
@format_option
@click.pass_obj
def ps(session: Session, all_: bool, quiet: bool, format: str | None) -> None:
    """List containers: those that run, or all."""
    found = [one for one in session.store.containers if all_ or one.is_running][::-1]
    if quiet and format is None:
        for one in found:
            write(one.id)
        return
    rows = [
        {
            "ID": one.id[:12],
            "Image": clean(one.image),
            "Command": clean(" ".join(one.command))[:40],
            "Status": _status(one.state, one.exit_code),
            "Created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created)),
            "Name": one.name,
            "Names": one.name,
        }
        for one in found
    ]
    json_rows = [
        {
            "id": one.id,
            "name": one.name,
            "image": one.image,
            "manifest": one.manifest,
            "command": list(one.command),
            "state": one.state,
            "exit_code": one.exit_code,
            "created": one.created,
            "finished": one.finished,
            "view": one.view,
        }
        for one in found
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
    """Remove containers with all that they wrote. Named volumes stay."""
    from lamina.run.container import remove

    if bool(names) == all_:
        raise UsageError("say which containers", hint="names or IDs, or --all")
    store = session.store
    every = (
        [one for one in store.containers if force or not one.is_running] if all_ else map(store.containers.get, names)
    )
    for one in list(every):
        remove(store, one, force=force)
        write(one.name)


@command("stop", "lamina stop web\nlamina stop --time 2 web")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-t", "--time", "seconds", type=float, default=10, help="Seconds until it is killed (default 10).")
@click.pass_obj
def stop(session: Session, names: tuple[str, ...], seconds: float) -> None:
    """Ask containers to end (the image's stop signal), and kill those that don't."""
    from lamina.errors import SystemFailure
    from lamina.run.container import stack_of
    from lamina.run.container import stop as end

    store = session.store
    for one in [store.containers.get(name) for name in names]:
        try:
            end(store, one, stack_of(store, one).config.stop_signal or "TERM", seconds=seconds)
        except SystemFailure:
            end(store, one, "KILL")
        write(one.name)


@command("kill", "lamina kill web\nlamina kill --signal HUP web")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-s", "--signal", "number", default="KILL", help="The signal (default KILL).")
@click.pass_obj
def kill(session: Session, names: tuple[str, ...], number: str) -> None:
    """Send a signal to containers' first processes."""
    from lamina.run.container import signal_container

    for one in [session.store.containers.get(name) for name in names]:
        signal_container(session.store, one, number)
        write(one.name)


@command("exec", "lamina exec -it web sh\nlamina exec web cat /etc/hosts")
@_options(_process_options)
@click.argument("name", metavar="CONTAINER")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND [ARG]...")
@click.pass_obj
def exec_(session: Session, /, name: str, words: tuple[str, ...], **given: Any) -> int:
    """Run another program in a container that runs; the exit code is the program's."""
    from lamina.run.container import enter, execute
    from lamina.run.options import Wanted

    wanted = Wanted(
        command=words,
        env=_env(given),
        workdir=given["workdir"],
        user=given["user"],
        tty=given["tty"],
        interactive=given["interactive"],
    )
    if wanted.tty and not sys.stdin.isatty():
        raise UsageError("standard input is no terminal", hint="leave out -t")
    container = session.store.containers.get(name)
    enter(container)
    return execute(session.store, container, wanted)


exec_.allow_interspersed_args = False


def list_changes(session: Session, name: str, format: str | None) -> None:
    """List what a container changed, for `diff` of one: A added, C changed, D deleted."""
    from lamina.run.commit import container_changes
    from lamina.run.container import enter, stack_of

    store = session.store
    one = store.containers.get(name)
    enter(one)
    found = container_changes(store, stack_of(store, one), one)
    rows = [{"Kind": change.how, "Path": "/" + os.fsdecode(change.path)} for change in found]
    if format is None:
        for row in rows:
            write(f"{row['Kind']} {clean(row['Path'])}")
    elif format == "json":
        from lamina.cli.text import json_path

        emit_json([{"kind": change.how, **json_path(change.path)} for change in found])
    else:
        emit(rows, [], format)


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
    enter(container)
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
@click.option("-m", "--message", default="", help="The new step's comment.")
@click.option("-a", "--author", default="", help="Who made it.")
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
    enter(one)
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
        on_warning=_warn,
    )
    write(str(made.digest))
