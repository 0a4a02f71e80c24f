"""The verbs export and import: write an image or a container as one tar; make an image from a root file system."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from lamina.cli import warn
from lamina.cli.change.edit import COMPRESSION, MESSAGE, print_made
from lamina.cli.change.make import packing_of
from lamina.cli.format.text import clean, counted
from lamina.cli.options import TEXT, checked_name, platform_option, quiet_option, web_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import Conflict, NotFound, UsageError

if TYPE_CHECKING:
    from lamina.edit.rootfs import Source
    from lamina.layer.tar_write import Item, Write


@command("export", "lamina export my/app -o rootfs.tar\nlamina export web | tar -tv")
@click.argument("name", metavar="IMAGE|CONTAINER")
@click.option("-o", "--output", metavar="FILE", default="-", help="Write to this file (default: standard output).")
@platform_option
@quiet_option
@click.pass_obj
def export(session: Session, name: str, output: str, quiet: bool) -> None:
    """Write the file system of an image or a container as one plain tar, with the files that a program in it would
    see. If a container and an image have the same name, the container is exported. `lamina save` writes images with
    their layers."""
    from lamina.host.files import reported, whole_file

    if output == "-" and sys.stdout.isatty():
        raise UsageError("export does not write a tar to a terminal", hint="name a file with -o, or pipe it")
    if output != "-" and os.path.exists(output) and not os.path.isfile(output):
        raise Conflict(f"{output!r:.300} exists and is not a regular file", hint="choose another name")
    write_out = _exporter(session, name)
    if output == "-":
        write_out(sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    with reported(output), whole_file(output) as file:
        count = write_out(file.write)
    if not quiet:
        click.echo(f"{clean(output)}: {counted(count, 'entry', 'entries')}", err=True)


def _exporter(session: Session, name: str) -> Callable[[Write], int]:
    """Return the function that writes the tar. The container or image is opened before anything is written."""
    from lamina.edit.export import export as image_out

    try:
        container = session.store.containers.get(name)
    except NotFound:
        stack = session.image(name).stack
        stack.tree()
        return lambda write_to: image_out(stack, write_to)
    from lamina.run.container.commit import export_container
    from lamina.run.container.record import stack_of

    below = stack_of(session.store, container)
    return lambda write_to: export_container(session.store, below, container, write_to, on_warning=warn)


@command(
    "import",
    "lamina import rootfs.tar.xz my/base -c 'CMD [\"sh\"]'\n"
    "docker export web | lamina import - web:1\nlamina import /srv/chroot my/chroot\n"
    "lamina import https://example.org/rootfs.tar.gz my/base",
)
@click.argument("source", metavar="FILE|DIR|URL|-")
@click.argument("name", metavar="[NAME]", default="")
@click.option(
    "--change",
    "-c",
    "changes",
    type=TEXT,
    multiple=True,
    metavar="INSTRUCTION",
    help="Apply a Dockerfile instruction: CMD, ENV, ...",
)
@MESSAGE
@COMPRESSION
@platform_option
@web_options
@quiet_option
@click.pass_obj
def import_(
    session: Session,
    source: str,
    name: str,
    changes: tuple[str, ...],
    message: str,
    compression: str | None,
    quiet: bool,
) -> None:
    """Make an image with one layer from a root file system: a tar (plain, gzip, zstd, bzip2, xz), a URL of one (http,
    https), or a directory. Owners, times and xattrs are kept. With SOURCE_DATE_EPOCH, later times are set to it."""
    from lamina.cli.config_options import instructions
    from lamina.edit.append import append
    from lamina.edit.publish import Revision
    from lamina.edit.rootfs import archive_items, directory_items
    from lamina.host.files import reported
    from lamina.remote.download import is_url, shown
    from lamina.store.image_events import note_image

    if name:
        checked_name(name)
    remote = is_url(source)
    config, packing = instructions(changes), packing_of(session, compression)

    def put(items: list[Item]) -> None:
        made = append(
            None,
            items,
            session.writable_store,
            name,
            Revision(f"lamina import {shown(source) if remote else source}", message, config, packing),
            platform=session.platform,
        )
        note_image(session.store, "import", made)
        print_made(made, name or str(made.digest), counted(len(items), "entry", "entries"), quiet)

    if not remote and source != "-" and os.path.isdir(source):
        put(directory_items(source, on_warning=warn))
        return
    if source == "-" and sys.stdin.isatty():
        raise UsageError("import does not read a tar from a terminal", hint="name a file, or pipe it in")
    if not remote and source != "-" and not os.path.exists(source):
        raise NotFound(f"no such file: {source!r:.300}", hint="check the path")
    with ExitStack() as files:
        stream: Source = sys.stdin.buffer
        what = "standard input" if source == "-" else source
        if remote:
            what = shown(source)
            files.enter_context(session.interruptible())
            stream = files.enter_context(session.network().download(source))
        elif source != "-":
            with reported(source):
                stream = files.enter_context(open(source, "rb"))
        limit = session.settings.max_layer
        put(files.enter_context(archive_items(stream, what, max_layer=limit, on_warning=warn)))
