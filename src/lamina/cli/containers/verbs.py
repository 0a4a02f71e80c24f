"""Verbs for containers: run, rm, stop, kill, exec, cp, commit; and the list of changes for `diff CONTAINER`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say, warn
from lamina.cli.containers import run_command
from lamina.cli.containers.several import (
    chosen,
    cidfile_option,
    each,
    each_at_once,
    filter_option,
    for_container,
    ignore_option,
    latest_option,
    long_filter_option,
    newest,
)
from lamina.cli.containers.unsupported import UNSUPPORTED_BY_EXEC, UNSUPPORTED_BY_RUN, unsupported_options
from lamina.cli.format.output import emit_json_list, emit_template, write
from lamina.cli.format.text import clean
from lamina.cli.image_options import ImageOptions, epoch, image_options
from lamina.cli.options import (
    TEXT,
    checked_name,
    options_of,
    platform_option,
    quiet_option,
    registry_options,
    view_option,
)
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, ReferenceNotFound, SystemFailure, UsageError
from lamina.host.files import reported
from lamina.store.containers import Container

if TYPE_CHECKING:
    from lamina.layer.entry import Entry
    from lamina.layer.tar_write import Item
    from lamina.run.rootfs import Inside


@command(
    "run",
    "lamina run --rm -it debian:12 bash\n"
    "lamina run -d --name web -p 8080:80 --restart unless-stopped nginx\n"
    "lamina run -v ./site:/srv:ro --network host nginx\n"
    "lamina run --rm -m 512m --cpus 1 --read-only --tmpfs /tmp app:1 ./test\n"
    "lamina run --rm --gpus all --shm-size 1g --ulimit memlock=-1 trainer python train.py",
)
@options_of(run_command.RUN_OPTIONS)
@unsupported_options(UNSUPPORTED_BY_RUN)
@view_option
@platform_option
@registry_options
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND [ARG]...]")
@click.pass_obj
def run(session: Session, /, image: str, words: tuple[str, ...], **given: Any) -> int:
    """Run a program in a new container. The layers of the image are read-only and shared; the container has its own
    writable layer on top. If the image is not in the store, it is pulled. Options go before IMAGE.

    The exit code is that of the program; 125 if the container can't be made, 126 if the program can't be started, 127
    if it was not found."""
    return run_command.run_container(session, image, words, **given)


run.allow_interspersed_args = False
run.context_settings["help_option_names"] = ["--help"]  # -h is the host name, as in docker


time_option = click.option(
    "-t",
    "--time",
    "--timeout",
    "seconds",
    type=click.FloatRange(min=-1),
    metavar="SECONDS",
    help="Seconds to wait before killing; -1: never kill (default: --stop-timeout of `run`, else 10).",
)


@command("rm", "lamina rm web\nlamina rm --force web\nlamina rm --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option(
    "-f", "--force", is_flag=True, help="Also remove running containers; do not fail if a container does not exist."
)
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all containers that have ended (with --force: all).")
@click.option("-v", "--volumes", is_flag=True, help="Also remove the anonymous volumes of the containers.")
@time_option
@ignore_option
@cidfile_option
@long_filter_option
@latest_option
@click.pass_obj
def rm(
    session: Session,
    names: tuple[str, ...],
    force: bool,
    all_: bool,
    volumes: bool,
    seconds: float | None,
    ignore: bool,
    cidfiles: tuple[str, ...],
    filters: tuple[str, ...],
    latest: bool,
) -> None:
    """Remove containers and everything that they wrote. Volumes stay; --volumes removes those without a name. If one
    container can't be removed, the others are removed all the same. The exit code is that of the first failure."""
    from lamina.run.container.ending import clear, remove

    ignore = force or ignore
    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_, latest=latest, filters=filters, ignore=ignore)
    store = session.store_if_any if all_ or filters or ignore else session.store
    if store is None:
        return
    by_option = latest or bool(filters)

    def remove_one(one: Container, said: str = "") -> None:
        remove(store, one, force=force, volumes=volumes)
        write(said or one.name)

    ended: dict[str, Container] = {}  # those of --rm may be gone when it is their turn

    def remove_named(name: str) -> None:
        said = "" if by_option else name
        one = ended.pop(name, None)
        if one is not None:
            remove_one(one, said)
        else:
            for_container(session, name, ignore, lambda one: remove_one(one, said), damaged=True)

    if wanted is not None:
        if force:
            for name in wanted:
                with suppress(LaminaError):  # it is told when it is removed
                    ended[name] = store.containers.get(name, damaged=True)
            _end_all(session, list(ended.values()), seconds)
        each(wanted, remove_named)
        return
    failed = clear(store)
    every = [one for one in store.containers.every() if force or not store.containers.is_running(one)]
    if force:
        _end_all(session, every, seconds)
    each(every, remove_one, failed)


def _end_all(session: Session, every: Sequence[Container], seconds: float | None) -> None:
    """End those that run, at the same time: each may take seconds. What fails is told when it is removed."""
    from lamina.run.container.ending import stop as stop_container

    def end_one(one: Container) -> None:
        with suppress(LaminaError):
            if seconds:
                end(session, one, None, seconds)
            else:
                stop_container(session.store, one, "KILL", seconds=60)

    each_at_once([one for one in every if session.store.containers.is_running(one)], end_one)


@command("stop", "lamina stop web\nlamina stop --timeout 2 web\nlamina stop --all")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Stop all running containers.")
@time_option
@click.option(
    "-s",
    "--signal",
    default=None,
    help="Signal to send (default: --stop-signal of `run`, else the image's, else TERM).",
)
@ignore_option
@cidfile_option
@filter_option
@latest_option
@click.option("--shutdown", is_flag=True, help="The host shuts down: their restart policy counts at the next boot.")
@click.pass_obj
def stop(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    seconds: float | None,
    signal: str | None,
    ignore: bool,
    cidfiles: tuple[str, ...],
    filters: tuple[str, ...],
    latest: bool,
    shutdown: bool,
) -> None:
    """Stop containers: send their stop signal, and kill those that do not end in time."""
    from lamina.run.container.ending import clear
    from lamina.run.container.stopped import forget_stop
    from lamina.run.signals import parse_signal

    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_, latest=latest, filters=filters, ignore=ignore)
    number = None if signal is None else str(parse_signal(signal))
    store = session.store_if_any if all_ or filters or ignore else session.store
    if store is None:
        return
    by_option = latest or bool(filters)

    def stop_one(one: Container, said: str = "") -> str:
        is_running = store.containers.is_running(one)
        end(session, one, number, seconds)
        if shutdown and is_running:
            forget_stop(store, one)
        return said or one.name

    def stop_named(name: str) -> str | None:
        return for_container(session, name, ignore, lambda one: stop_one(one, "" if by_option else name))

    if wanted is None:
        each_at_once([one for one in store.containers if store.containers.is_running(one)], stop_one)
    else:
        each_at_once(wanted, stop_named)
    clear(store)  # a container whose lamina was killed has left its mounts


def end(session: Session, one: Container, signal: str | None, seconds: float | None) -> None:
    """Stop a container. ``signal``, ``seconds``: None means as given to `run`."""
    from lamina.run.container.ending import end as end_container

    end_container(session.store, one, signal, seconds=seconds, on_warning=warn)


@command("kill", "lamina kill web\nlamina kill --signal HUP web")
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Send it to all running containers.")
@click.option("-s", "--signal", "number", default="KILL", help="Signal to send (default: KILL).")
@cidfile_option
@latest_option
@click.pass_obj
def kill(
    session: Session, names: tuple[str, ...], all_: bool, number: str, cidfiles: tuple[str, ...], latest: bool
) -> None:
    """Send a signal to the first process of containers."""
    from lamina.run.container.ending import signal_container

    wanted = chosen(session, names, cidfiles=cidfiles, all_=all_, latest=latest)
    store = session.store_if_any if all_ else session.store
    if store is None:
        return
    by_option = latest

    def kill_one(one: Container, said: str = "") -> None:
        signal_container(store, one, number)
        write(said or one.name)

    if wanted is None:
        each([one for one in store.containers if store.containers.is_running(one)], kill_one)
    else:
        each(wanted, lambda name: kill_one(store.containers.get(name), "" if by_option else name))


@command("exec", "lamina exec -it web sh\nlamina exec web cat /etc/hosts\nlamina exec -d web backup")
@options_of(run_command.PROCESS_OPTIONS)
@click.option("-d", "--detach", is_flag=True, help="Leave the program running, without streams.")
@click.option("--privileged", is_flag=True, help="Give the program all capabilities of this user.")
@latest_option
@unsupported_options(UNSUPPORTED_BY_EXEC)
@click.argument("words", nargs=-1, metavar="CONTAINER COMMAND [ARG]...")
@click.pass_obj
def exec_(session: Session, /, words: tuple[str, ...], latest: bool, **given: Any) -> int:
    """Run a program in a running container. The exit code is that of the program."""
    from lamina.run.container.exec import execute, execute_behind
    from lamina.run.container.user_namespace import enter
    from lamina.run.options import ContainerOptions, parse_workdir

    name = newest(session) if latest else "".join(words[:1])
    words = words if latest else words[1:]
    if not words:
        raise UsageError(
            "no command given" if name else "no container and no command given",
            hint="write it like `lamina exec web ls /`",
        )
    if not given["detach"]:
        run_command.check_terminal(given)
    wanted = ContainerOptions(
        command=words,
        env=run_command.environment(given),
        workdir=parse_workdir(given["workdir"]),
        user=given["user"],
        tty=given["tty"] and not given["detach"],
        interactive=given["interactive"],
        privileged=given["privileged"],
    )
    container = session.store.containers.get(name)
    enter(session.store, container)
    if given["detach"]:
        ended = execute_behind(session.store, container, wanted)
        if ended.reason:
            say(ended.reason)
        return ended.code
    with execute(session.store, container, wanted) as program:
        return program.wait().code


exec_.allow_interspersed_args = False


def list_changes(session: Session, name: str, format: str | None) -> None:
    """Print what a container changed, for `diff CONTAINER`: A added, C changed, D deleted."""
    from lamina.run.container.commit import container_changes
    from lamina.run.container.record import stack_of
    from lamina.run.container.user_namespace import enter

    store = session.store
    one = store.containers.get(name)
    enter(store, one)
    found = container_changes(store, stack_of(store, one), one)
    rows = [{"Kind": change.how, "Path": "/" + os.fsdecode(change.path)} for change in found]
    if format in (None, "table"):
        for row in rows:
            write(f"{row['Kind']} {clean(row['Path'])}")
    elif format == "json":
        from lamina.cli.format.text import json_path

        emit_json_list({"kind": change.how, **json_path(change.path)} for change in found)
    else:
        emit_template(rows, {}, format or "")


@command(
    "cp",
    "lamina cp web:/etc/hosts .\nlamina cp page.html web:/srv/\nlamina cp site/. web:/srv\n"
    "lamina cp web:/var/log - | tar -tv\ntar -c site | lamina cp - web:/srv\nlamina cp debian:12:/etc/os-release .",
)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("-a", "--archive", is_flag=True, help="Keep user and group IDs.")
@click.option("-L", "--follow-link", is_flag=True, help="If SOURCE is a symlink, copy its target.")
@click.option("-q", "--quiet", is_flag=True, help="Accepted as in docker; cp never shows progress.")
@platform_option
@click.pass_obj
def cp(session: Session, source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files between a container and this host. The container may be running or not. SOURCE or TARGET is
    CONTAINER:PATH, the other one is a path on this host. DIR/. means the content of DIR. - means a tar on standard
    output or input. SOURCE may also be IMAGE:PATH, a file of an image."""
    (one, inner), (other, outer) = _place(source), _place(target)
    if bool(one) == bool(other):
        hint = "write it like `lamina cp web:/etc/hosts .`; begin a local path that has a colon with ./"
        if any("/" in word.partition(":")[0] and ":" in word for word in (source, target)):
            hint = "if the name of the image has a /, write an absolute path: IMAGE:/PATH"
        raise UsageError("exactly one of SOURCE and TARGET must be CONTAINER:PATH or IMAGE:PATH", hint=hint)
    outside = target if one else source
    if one and outside == "-" and sys.stdout.isatty():
        raise UsageError("cp does not write a tar to a terminal", hint="pipe it, or name a directory")
    if other and outside == "-" and sys.stdin.isatty():
        raise UsageError("cp does not read a tar from a terminal", hint="pipe it in, or name a file")
    if outside != "-" and not os.path.isabs(outside) and not os.access(".", os.X_OK):
        raise SystemFailure(
            f"permission denied for the working directory, needed for {outside!r:.200}", hint="give an absolute path"
        )
    try:
        container = session.store.containers.get(one or other)
    except NotFound as error:
        _copy_from_image(session, source, target, error, is_target=bool(other))
        return
    from lamina.run.container.events import note_event
    from lamina.run.container.mount import opened
    from lamina.run.container.record import owner_of, stack_of
    from lamina.run.container.user_namespace import enter
    from lamina.run.file_copy import copy_in, copy_out
    from lamina.run.runtime import MACHINE

    enter(session.store, container)
    if one and container.runtime == MACHINE:
        _copy_from_machine(session, container, inner, target, follow=follow_link, keep_owners=archive)
        return
    with opened(session.store, stack_of(session.store, container), container) as inside:
        if one:
            if follow_link:
                inner = inside.target(inner)
            if target == "-":
                _write_tar(inside, inner)
            else:
                copy_out(inside, inner, target, keep_owners=archive)
        elif source == "-":
            _read_tar(session, container, inside, outer)
        else:
            source = os.path.realpath(source) if follow_link and os.path.islink(source) else source
            copy_in(source, inside, outer, owner=None if archive else owner_of(container))
    note_event(session.store.paths.root, container, "archive-path" if one else "extract-to-dir")


def _place(text: str) -> tuple[str, str]:
    """Split CONTAINER:PATH into (container, path); ("", path) for a path on this host. A / before the first colon
    means a path on this host, or an image if the path in it is absolute and no such file exists here."""
    name, colon, path = text.partition(":")
    if not colon or not name or name.startswith("."):
        return "", text
    if "/" not in name:
        return name, path
    is_image = not text.startswith("/") and ":/" in text and not os.path.lexists(text)
    return (name, path) if is_image else ("", text)


def _write_tar(inside: Inside, path: str) -> None:
    from lamina.run.container.tar_stream import file_items

    _write_items(file_items(inside, path, warn))


def _write_items(items: Iterable[Item]) -> None:
    from lamina.layer.tar_write import LayerWriter

    writer = LayerWriter(sys.stdout.buffer.write)
    for entry, content in items:
        writer.add(entry, content)
    writer.close()
    sys.stdout.buffer.flush()


def _read_tar(session: Session, container: Container, inside: Inside, path: str) -> None:
    """Unpack a tar from standard input into a directory of the container. Owners are kept, as in docker, if the
    container has these IDs; else root owns the files."""
    from lamina.edit.rootfs import archive_items
    from lamina.host import privileges
    from lamina.run.container.record import owner_of, owners_of
    from lamina.run.container.tar_stream import put

    inside.check_directory(path)
    owners, root = owners_of(container), owner_of(container)

    def owner_in_it(entry: Entry) -> tuple[int, int]:
        if not owners.has(entry.uid, entry.gid):
            return root
        uid, gid = owners.outside(entry.uid, entry.gid)
        return (uid, gid) if privileges.has_id(uid) and privileges.has_id(gid, group=True) else root

    limit = session.settings.max_layer
    with archive_items(sys.stdin.buffer, "standard input", max_layer=limit, implied=False, files_only=True) as items:
        put(inside, path, items, owner_in_it, set_ids=True)


def _copy_from_image(session: Session, source: str, target: str, error: NotFound, *, is_target: bool) -> None:
    """Copy files out of an image. ``error``: the container was not found; raised if no image is found either."""
    from lamina.run.container.tar_stream import image_items

    text = target if is_target else source
    name, path = _image_and_path(text)
    try:
        image = session.image(name)
    except (ReferenceNotFound, UsageError):
        known = text.partition(":")[0]
        shown = name if "/" in known or "://" in text else known
        raise NotFound(
            f"no container or image {shown!r:.200}", hint="see `lamina ps -a` and `lamina images`"
        ) from error
    if is_target:
        raise UsageError(
            f"{name!r:.200} is an image, and images can't be changed",
            hint="use `lamina append` to make a new image, or copy into a container",
        )
    _copy_items(image_items(image.stack, f"/{path}"), path, target)


def _copy_items(items: Iterator[Item], path: str, target: str, *, keep_owners: bool = False) -> None:
    """Write what ``image_items`` yields for ``path``, as cp(1) does."""
    from lamina.run.container.tar_stream import put
    from lamina.run.rootfs import Inside

    if target == "-":
        _write_items(items)
        return
    mine = os.geteuid(), os.getegid()
    into, renamed = _renamed(items, target, content_only=path.rstrip("/").endswith("/.") or path in ("", "."))
    with Inside(into) as inside:
        put(inside, "", renamed, lambda entry: (entry.uid, entry.gid) if keep_owners else mine)


def _copy_from_machine(
    session: Session, container: Container, path: str, target: str, *, follow: bool, keep_owners: bool
) -> None:
    """Copy files out of a machine that does not run: its disk is read, not mounted."""
    from lamina.run.container.events import note_event
    from lamina.run.container.side import changed_stack
    from lamina.run.container.tar_stream import image_items

    stack = changed_stack(session.store, container, on_warning=warn)
    name = os.fsencode(path.strip("/"))
    if follow:
        union, node = stack.lookup(name, follow=True)
        path = os.fsdecode(union.path(node)) + ("/." if path.endswith("/.") else "")
    _copy_items(image_items(stack, f"/{path.lstrip('/')}"), path, target, keep_owners=keep_owners)
    note_event(session.store.paths.root, container, "archive-path")


def _image_and_path(text: str) -> tuple[str, str]:
    """Split IMAGE:/PATH or IMAGE:PATH, which starts at the root too, as for containers in docker (pure)."""
    start = "docker://" if text.startswith("docker://") else ""
    rest = text.removeprefix(start)
    name, colon, path = rest.partition(":/")
    if not colon:
        name, _, path = rest.rpartition(":")
    return start + name, path


def _renamed(items: Iterator[Item], target: str, *, content_only: bool) -> tuple[str, Iterable[Item]]:
    """Apply the rule of cp(1): copy into ``target`` if it is a directory, else copy to that name. Returns the
    directory to write to, and the items with their new names."""
    first = next(items, None)  # raises if there is no such path, before anything is created
    rest = itertools.chain(() if first is None else (first,), items)
    if content_only and not os.path.isdir(target):
        with reported(target):
            os.mkdir(target)
    if content_only or os.path.isdir(target):
        return target, rest
    if first is None:
        return ".", ()
    above, new = os.path.split(target.rstrip("/"))
    if target.endswith("/"):
        raise NotFound(f"no directory {target!r:.200}", hint="create it first")
    old, name = first[0].path, os.fsencode(new)

    def put_below(path: bytes) -> bytes:
        return name + path.removeprefix(old) if path == old or path.startswith(old + b"/") else path

    return above or ".", (
        (dataclasses.replace(entry, path=put_below(entry.path), link=_link(entry, put_below)), content)
        for entry, content in rest
    )


def _link(entry: Entry, put_below: Callable[[bytes], bytes]) -> bytes:
    from lamina.layer.entry import Kind

    return put_below(entry.link) if entry.kind == Kind.HARDLINK else entry.link


@command(
    "commit",
    "lamina commit web app:2\n"
    "lamina commit --change 'CMD [\"./serve\"]' --change 'ENV MODE=live' -m 'as tested' web app:2",
)
@click.argument("name", metavar="CONTAINER")
@click.argument("image")
@click.option(
    "-c",
    "--change",
    "instructions",
    multiple=True,
    metavar="INSTRUCTION",
    help="Apply a Dockerfile instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or "
    "WORKDIR.",
)
@click.option(
    "-p",
    "--pause/--no-pause",
    default=None,
    help="Pause a running container during the commit, so that its files are consistent (default: if possible).",
)
@click.option("-m", "--message", type=TEXT, default="", help="Comment of the new build step.")
@click.option("-a", "--author", type=TEXT, default="", help="Author of the image.")
@image_options
@quiet_option
@click.pass_obj
def commit(
    session: Session,
    /,
    name: str,
    image: str,
    instructions: tuple[str, ...],
    pause: bool | None,
    message: str,
    author: str,
    quiet: bool,
    options: ImageOptions,
) -> None:
    """Make an image from a container: the image of the container plus one layer with its changes. Volumes are not
    included. With SOURCE_DATE_EPOCH the same changes give the same digest."""
    from lamina.cli.config_options import instructions as changed
    from lamina.edit.publish import Packing, Revision
    from lamina.run.container.commit import commit as make
    from lamina.run.container.ending import paused
    from lamina.run.container.record import stack_of
    from lamina.run.container.user_namespace import enter

    store = session.writable_store
    one = store.containers.get(name)
    checked_name(image)
    enter(store, one)
    stack = stack_of(store, one)
    changes = options.changes(stack.config)
    changes = {**changes, **changed(instructions, stack.config.with_(**changes))}
    if author:
        changes["author"] = author
    with paused(store, one, must=bool(pause)) if pause is not False else nullcontext():
        packing = Packing(options.compression or "gzip", epoch=epoch())
        revision = Revision(comment=message, changes=changes, packing=packing)
        made = make(store, stack, one, image, revision, on_warning=warn)
    write(str(made.digest))
