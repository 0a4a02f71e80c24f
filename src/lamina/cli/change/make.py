"""Verbs that make something: pack, append, unpack."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from lamina.cli import warn
from lamina.cli.format.output import write
from lamina.cli.format.text import clean, counted, human_size
from lamina.cli.image_options import config_changes, config_options, epoch
from lamina.cli.options import TEXT, image_argument, new_name_option, platform_option, quiet_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack
    from lamina.spec.image_config import Changes


def split_pair(text: str) -> tuple[str, bytes]:
    """``SOURCE[:TARGET]``; the target is the source's own absolute path by default."""
    source, colon, target = text.partition(":")
    if not source or (colon and not target):
        raise UsageError(f"{text!r:.200} is not SOURCE[:TARGET]", hint="like app.py:/srv/app.py")
    return source, to_bytes(target if colon else os.path.abspath(source))


def base_stack(session: Session, name: str) -> Stack:
    """An image of the store, to make another one of. Raises UsageError where it is elsewhere."""
    from lamina.spec.name import parse_name

    if parse_name(name).transport:
        raise UsageError(
            f"{name!r:.200} is not in the store", hint="bring it in with `lamina load` or `lamina copy` first"
        )
    return session.image(name).stack


@command(
    "pack",
    "lamina pack sh ls cat -t tools\n"
    "lamina pack python3 --base tools --file app.py:/srv/app.py --cmd 'python3 /srv/app.py' -t app",
)
@click.argument("programs", nargs=-1, metavar="PROGRAM...")
@new_name_option
@click.option("--base", metavar="IMAGE", help="Put it on this image; what that has already is left out.")
@click.option("--file", "files", multiple=True, metavar="SOURCE[:TARGET]", help="More files or directories.")
@click.option("--no-stdlib", is_flag=True, help="A Python interpreter without its standard library.")
@click.option("--no-accounts", is_flag=True, help="No /tmp, /etc/passwd and /etc/group in a new image.")
@config_options
@quiet_option
@click.pass_obj
def pack(
    session: Session,
    programs: tuple[str, ...],
    tag: str,
    base: str | None,
    files: tuple[str, ...],
    no_stdlib: bool,
    no_accounts: bool,
    env: tuple[str, ...],
    cmd: str | None,
    entrypoint: str | None,
    workdir: str | None,
    user: str | None,
    label: tuple[str, ...],
    compression: str | None,
    quiet: bool,
) -> None:
    """Make an image of programs of this machine, with the shared libraries and files that they need.

    Libraries are found by reading the programs, which are never run. The first program becomes the image's command.
    """
    from lamina.edit.pack import pack_items

    if not programs and not files:
        raise click.UsageError("name a program, or --file")
    stack = base_stack(session, base) if base is not None else None
    pairs = [split_pair(text) for text in files]
    items, paths = pack_items(programs, pairs, base=stack, stdlib=not no_stdlib, accounts=not no_accounts)
    changes = config_changes(stack.config if stack else None, env, cmd, entrypoint, workdir, user, label)
    if paths and cmd is None and entrypoint is None:
        changes["cmd"] = [paths[0]]
    if stack is None and not env:
        changes["env"] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    step = "lamina pack " + " ".join([*programs, *(f"--file {text}" for text in files)])
    _put_on(session, stack, items, tag, step, changes, compression, quiet)


@command(
    "append",
    "lamina append my/base app.py:/srv/app.py --remove /etc/motd -t my/app\n"
    "lamina append my/app --env DEBUG=1 -t my/app:debug",
)
@image_argument("image")
@click.argument("sources", nargs=-1, metavar="SOURCE[:TARGET]...")
@new_name_option
@click.option(
    "--remove", "removed", multiple=True, metavar="PATH", help="Hide a path of the layers below (a whiteout)."
)
@click.option("--keep-owner", is_flag=True, help="Keep the owners of this machine instead of 0:0.")
@click.option("--message", "-m", type=TEXT, metavar="TEXT", help="Text of the build step in the history.")
@config_options
@platform_option
@quiet_option
@click.pass_obj
def append(
    session: Session,
    image: str,
    sources: tuple[str, ...],
    tag: str,
    removed: tuple[str, ...],
    keep_owner: bool,
    message: str | None,
    env: tuple[str, ...],
    cmd: str | None,
    entrypoint: str | None,
    workdir: str | None,
    user: str | None,
    label: tuple[str, ...],
    compression: str | None,
    quiet: bool,
) -> None:
    """Put one layer on top of an image: files and directories of this machine, and whiteouts. The image that it is
    put on stays as it was. A directory's content goes to TARGET, a file becomes TARGET."""
    from lamina.edit.append import files_of

    stack = base_stack(session, image)
    items = files_of(
        map(split_pair, sources),
        map(to_bytes, removed),
        stack,
        owner=None if keep_owner else (0, 0),
        on_warning=warn,
    )
    changes = config_changes(stack.config, env, cmd, entrypoint, workdir, user, label)
    if not items and not changes:
        raise click.UsageError("nothing to put on it: name files, --remove, or what to set")
    words = [*sources, *(word for path in removed for word in ("--remove", path))]
    _put_on(session, stack, items, tag, message or "lamina append " + shlex.join(words), changes, compression, quiet)


def _put_on(
    session: Session,
    stack: Stack | None,
    items: list[Item],
    tag: str,
    step: str,
    changes: Changes,
    compression: str | None,
    quiet: bool,
) -> None:
    """The new image into the store; its digest to stdout."""
    from lamina.edit.append import append as put_on

    settings = session.settings
    made = put_on(
        stack,
        items,
        session.writable_store,
        tag,
        created_by=step,
        epoch=epoch(),
        compression=compression or settings.compression,
        level=settings.compression_level if compression in (None, settings.compression) else None,
        changes=changes,
    )
    if not quiet:
        click.echo(f"{clean(tag)}: one layer with {counted(len(items), 'entry', 'entries')}", err=True)
    write(str(made.digest))


@command("unpack", "lamina unpack debian:12 ./rootfs\nlamina unpack my/app~2 ./below")
@image_argument()
@click.argument("directory")
@click.option("--same-owner/--no-same-owner", default=None, help="Give files the image's owners (default: as root).")
@platform_option
@quiet_option
@click.pass_obj
def unpack(session: Session, image: str, directory: str, same_owner: bool | None, quiet: bool) -> None:
    """Write the union into DIRECTORY, which must be new or empty. It appears only when it is complete."""
    from lamina.view.unpack.directory import unpack as write_out

    report = write_out(session.image(image).stack, os.fsencode(directory), same_owner=same_owner)
    for warning in report.warnings:
        warn(warning)
    if not quiet:
        click.echo(
            f"{counted(report.entries, 'entry', 'entries')}, {human_size(report.size)} in {clean(directory)}",
            err=True,
        )
    sys.stdout.flush()
