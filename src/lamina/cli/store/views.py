"""Verbs that mount images: mount, umount, mounts."""

from __future__ import annotations

import os

import click

from lamina.cli import say
from lamina.cli.format.output import emit, write
from lamina.cli.format.text import clean
from lamina.cli.options import format_option, image_argument, named_once, platform_option, view_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.spec.name import parse_name


@command("mount", "lamina mount debian:12 /mnt\nls $(lamina mount debian:12~1)")
@image_argument()
@click.argument("target", required=False, default="")
@view_option
@platform_option
@click.pass_obj
def mount(session: Session, image: str, target: str, view: str | None) -> None:
    """Mount an image, or a range of its layers, read-only, and print the directory (Linux only). Without TARGET the
    directory is in the store. `lamina umount` unmounts it.

    As root, from Linux 6.12 on, nothing is unpacked: the kernel reads files from the tars of the layers, and images
    share the memory of shared layers. The mount of a plain user is in a user namespace, which a small process holds;
    its directory is below /proc/PID/root. If user namespaces are forbidden, and for images in registries and
    archives, lamina mounts through FUSE (lamina[fuse]). Set-user-ID bits and devices have no effect in a mount."""
    from lamina.view.overlay.mount import mount as make

    if parse_name(image).transport and view not in (None, "fuse"):
        raise UsageError(
            f"{image!r:.200} is not in the store",
            hint="load it first with `lamina pull`, or use --view fuse",
        )
    stack = session.image(image).stack
    write(make(session.writable_store, stack, target, name=image, view=view or "").target)


@command("umount", "lamina umount /mnt\nlamina umount debian:12\nlamina umount --all")
@click.argument("targets", nargs=-1, metavar="[TARGET|IMAGE]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Unmount all images of the store.")
@click.pass_obj
def umount(session: Session, targets: tuple[str, ...], all_: bool) -> None:
    """Unmount images. TARGET is the directory that `mount` was given or has printed; IMAGE means all mounts of that
    image. A process that still uses a mount keeps it until the process ends. --all also removes the mounts of
    containers and builds whose lamina was killed."""
    from lamina.view.overlay.mount import mounts as listed
    from lamina.view.overlay.mount import unmount

    named_once(bool(targets), "mounts", all=all_)
    if all_ and session.store_if_any is None:
        return
    failed: list[LaminaError] = []
    if all_:
        from lamina.build.programs.step_directory import clear
        from lamina.run.container.ending import clear_all

        try:
            failed = [*clear(session.store), *clear_all(session.store)]
        except LaminaError as error:  # unmount the images all the same
            failed.append(error)
    for target in [one.target for one in listed(session.store)] if all_ else _places(session, targets):
        try:
            write(unmount(session.store, target).target)
        except LaminaError as error:
            if not all_ or not isinstance(error, NotFound):  # NotFound: another process has unmounted it
                failed.append(error)
    for more in failed[1:]:
        say(str(more))
    if failed:
        raise failed[0]


def _places(session: Session, targets: tuple[str, ...]) -> list[str]:
    """Return the directories to unmount. The name of an image means all its mounts, unless it is a mounted path."""
    from lamina.spec.reference import canonical
    from lamina.view.overlay.mount import mounts as listed

    places: list[str] = []
    every = listed(session.store)
    for target in targets:
        full = canonical(target)
        path = os.path.realpath(target)
        here = any(path in (one.target, one.inside) for one in every)
        named = [one.target for one in every if one.name == target or (full and canonical(one.name) == full)]
        places += named if named and not here else [target]
    return places


@command("mounts", "lamina mounts\nlamina mounts --format json")
@format_option
@click.pass_obj
def mounts(session: Session, format: str | None) -> None:
    """List the mounts of images in the store."""
    from lamina.view.overlay.mount import mounts as listed

    store = session.store_if_any
    found = listed(store) if store else []
    rows = [
        {
            "Image": clean(one.name),
            "Target": clean(one.target),
            "View": one.view or "-",
            "State": "dead: its server has ended; use `lamina umount`" if one.dead else "mounted",
        }
        for one in found
    ]
    json_rows = [{"image": one.name, "target": one.target, "view": one.view, "dead": one.dead} for one in found]
    columns = [("Image", "IMAGE"), ("Target", "TARGET"), ("View", "VIEW"), ("State", "STATE")]
    emit(rows, columns, format, json_rows=json_rows)
