"""Verbs that make an image or a directory: pack, append, unpack."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from lamina.cli import warn
from lamina.cli.format.output import write
from lamina.cli.format.text import clean, counted, human_size
from lamina.cli.image_options import ImageOptions, epoch, image_options
from lamina.cli.options import TEXT, image_argument, new_name_option, platform_option, quiet_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.edit.publish import Packing, Revision
    from lamina.layer.tar_write import Item
    from lamina.source.stack import Stack
    from lamina.spec.platform import Platform


def split_pair(text: str) -> tuple[str, bytes]:
    """Split ``SOURCE[:TARGET]``. The default target is the absolute path of the source. Raises UsageError."""
    source, colon, target = text.partition(":")
    if not source or (colon and not target):
        raise UsageError(f"{text!r:.200} is not SOURCE[:TARGET]", hint="write it like app.py:/srv/app.py")
    return source, to_bytes(target if colon else os.path.abspath(source))


def base_stack(session: Session, name: str) -> Stack:
    """Open an image in the store that another one is made from. Raises UsageError if it is in another place."""
    from lamina.spec.name import parse_name

    if parse_name(name).transport:
        raise UsageError(f"{name!r:.200} is not in the store", hint="load it first with `lamina pull`")
    return session.image(name).stack


def packing_of(session: Session, compression: str | None) -> Packing:
    """Return how new layers are written: as given for this command, else as in the settings. Raises UsageError."""
    from lamina.edit.publish import Packing

    settings = session.settings
    level = settings.compression_level if compression in (None, settings.compression) else None
    return Packing(compression or settings.compression, level, epoch())


@command(
    "pack",
    "lamina pack sh ls cat -t tools\n"
    "lamina pack --kernel /boot/vmlinuz-6.1.0-56-cloud-amd64 sh ls -t machine\n"
    "lamina pack python3 --base tools --file app.py:/srv/app.py --cmd 'python3 /srv/app.py' -t app",
)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
@new_name_option
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="PATH",
    help="Add a kernel with its modules, as a layer below the programs. PATH is a vmlinuz, a directory with boot and "
    "lib/modules, or a package (.deb, or a tar). May be repeated for packages that belong together.",
)
@click.option("--base", metavar="IMAGE", help="Add the files to this image; files that it has already are left out.")
@click.option(
    "--file", "files", multiple=True, metavar="SOURCE[:TARGET]", help="Add a file or directory; may be repeated."
)
@click.option("--no-stdlib", is_flag=True, help="Add a Python interpreter without its standard library.")
@click.option("--no-accounts", is_flag=True, help="Do not add /tmp, /etc/passwd and /etc/group to a new image.")
@image_options
@quiet_option
@click.pass_obj
def pack(
    session: Session,
    programs: tuple[str, ...],
    tag: str,
    kernels: tuple[str, ...],
    base: str | None,
    files: tuple[str, ...],
    no_stdlib: bool,
    no_accounts: bool,
    options: ImageOptions,
    quiet: bool,
) -> None:
    """Make an image from programs of this host, with the shared libraries and files that they need.

    The libraries are found by reading the programs; no program is run. The first program becomes the command of the
    image. With --kernel, `lamina boot` starts the image as a virtual machine.
    """
    if not programs and not files and not kernels:
        raise click.UsageError("no program, no --file and no --kernel given")
    from lamina.edit.pack import pack_items
    from lamina.edit.publish import Revision

    stack = base_stack(session, base) if base is not None else None
    with _kernel(session, kernels, stack, programs) as (below, platform):
        items: list[Item] = []
        changes = options.changes(stack.config if stack else None)
        if programs or files:
            pairs = [split_pair(text) for text in files]
            items, paths = pack_items(programs, pairs, base=stack, stdlib=not no_stdlib, accounts=not no_accounts)
            if paths and options.cmd is None and options.entrypoint is None:
                changes["cmd"] = [paths[0]]
            if stack is None and not options.env:
                changes["env"] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        step = "lamina pack " + " ".join([*programs, *(f"--file {text}" for text in files)])
        revision = Revision(step, changes=changes, packing=packing_of(session, options.compression))
        _put_on(session, stack, items, tag, revision, quiet, below=below, platform=platform)


@contextmanager
def _kernel(
    session: Session, paths: tuple[str, ...], stack: Stack | None, programs: tuple[str, ...]
) -> Iterator[tuple[tuple[str, Sequence[Item]], Platform | None]]:
    """The step and the entries of a kernel's layer, and the platform of an image with it. Raises UsageError (the rest
    of the image is for another one)."""
    if not paths:
        yield ("", ()), None
        return
    from lamina.run.machine.kernel_layer import kernel_layer
    from lamina.spec.platform import Platform

    with kernel_layer(paths, max_layer=session.settings.max_layer) as (items, kernel):
        if not any(entry.path.startswith(b"usr/lib/modules/") for entry, _ in items):
            warn("the kernel comes without modules: a machine needs those that are not built in")
        rest = stack.config.platform if stack else Platform.host()
        if kernel.architecture and kernel.architecture != rest.architecture and (stack or programs):
            raise UsageError(
                f"the kernel is for {kernel.architecture}, the rest of the image for {rest.architecture}",
                hint="give a kernel for the same architecture",
            )
        yield (
            (f"lamina pack --kernel {kernel.release}".strip(), items),
            Platform("linux", kernel.architecture or rest.architecture),
        )


@command(
    "append",
    "lamina append my/base app.py:/srv/app.py --remove /etc/motd -t my/app\n"
    "lamina append my/app --env DEBUG=1 -t my/app:debug",
)
@image_argument("image")
@click.argument("sources", nargs=-1, metavar="SOURCE[:TARGET]...")
@new_name_option
@click.option(
    "--remove", "removed", multiple=True, metavar="PATH", help="Hide a path of the layers below (with a whiteout)."
)
@click.option("--keep-owner", is_flag=True, help="Keep the owners of the files instead of 0:0.")
@click.option("--message", "-m", type=TEXT, metavar="TEXT", help="Text of the new build step.")
@image_options
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
    options: ImageOptions,
    quiet: bool,
) -> None:
    """Make a new image: IMAGE plus one layer with files and directories of this host, or with whiteouts. The old
    image stays as it was. A file becomes TARGET; the content of a directory goes into TARGET."""
    from lamina.edit.append import files_of
    from lamina.edit.publish import Revision

    stack = base_stack(session, image)
    items = files_of(
        map(split_pair, sources),
        map(to_bytes, removed),
        stack,
        owner=None if keep_owner else (0, 0),
        on_warning=warn,
    )
    changes = options.changes(stack.config)
    if not items and not changes:
        raise click.UsageError("nothing to add: give files, --remove, or options that change the config")
    words = [*sources, *(word for path in removed for word in ("--remove", path))]
    step = message or "lamina append " + shlex.join(words)
    revision = Revision(step, changes=changes, packing=packing_of(session, options.compression))
    _put_on(session, stack, items, tag, revision, quiet)


def _put_on(
    session: Session,
    stack: Stack | None,
    items: list[Item],
    tag: str,
    revision: Revision,
    quiet: bool,
    *,
    below: tuple[str, Sequence[Item]] = ("", ()),
    platform: Platform | None = None,
) -> None:
    """Make the new image and print its digest. ``below`` and ``platform`` as ``append`` of ``edit`` takes them."""
    from lamina.edit.append import append as put_on

    made = put_on(stack, items, session.writable_store, tag, revision, below=below, platform=platform)
    if not quiet:
        number = "two layers" if items and below[1] else "one layer"
        entries = counted(len(items) + len(below[1]), "entry", "entries")
        click.echo(f"{clean(tag)}: {number} with {entries}", err=True)
    write(str(made.digest))


@command("unpack", "lamina unpack debian:12 ./rootfs\nlamina unpack my/app~2 ./below")
@image_argument()
@click.argument("directory")
@click.option(
    "--same-owner/--no-same-owner", default=None, help="Keep the owners of the image (default: if run as root)."
)
@platform_option
@quiet_option
@click.pass_obj
def unpack(session: Session, image: str, directory: str, same_owner: bool | None, quiet: bool) -> None:
    """Write all files of the image into DIRECTORY, which must be new or empty. It appears only when it is
    complete."""
    from lamina.view.unpack.unpack import unpack as write_out

    report = write_out(session.image(image).stack, os.fsencode(directory), same_owner=same_owner)
    for warning in report.warnings:
        warn(warning)
    if not quiet:
        click.echo(
            f"{counted(report.entries, 'entry', 'entries')}, {human_size(report.size)} in {clean(directory)}",
            err=True,
        )
    sys.stdout.flush()
