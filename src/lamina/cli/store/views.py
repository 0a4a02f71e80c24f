"""Verbs that show the union as a real directory: mount, umount, mounts."""

from __future__ import annotations

import os

import click

from lamina.cli import say
from lamina.cli.format.output import emit, write
from lamina.cli.format.text import clean
from lamina.cli.options import format_option, image_argument, platform_option, view_option
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
    """Mount the union of an image, or of a range of its layers, read-only (Linux), and print the directory. Without
    TARGET it is a directory of the store.

    As root, from Linux 6.12, nothing is unpacked: files are read from the layers' tars, and images share the memory
    of shared layers. The mount of a plain user is held by a small process and seen below its /proc/PID/root. Where
    user namespaces are forbidden, and for images of registries and archives, lamina serves the files through FUSE
    (lamina[fuse]). Set-user-ID bits and devices have no effect in a mount."""
    from lamina.view.overlay.mount import mount as make

    if parse_name(image).transport and view not in (None, "fuse"):
        raise UsageError(
            f"{image!r:.200} is not in the store",
            hint="`lamina pull`, `load` or `copy` it first, or take --view fuse",
        )
    stack = session.image(image).stack
    write(make(session.writable_store, stack, target, name=image, view=view or "").target)


@command("umount", "lamina umount /mnt\nlamina umount debian:12\nlamina umount --all")
@click.argument("targets", nargs=-1, metavar="[TARGET|IMAGE]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Unmount everything that is mounted from the store.")
@click.pass_obj
def umount(session: Session, targets: tuple[str, ...], all_: bool) -> None:
    """Unmount images: a directory that `mount` was given or has printed, or all mounts of an IMAGE. A process that
    still uses a mount keeps it until the process ends. With --all, also remove the mounts of containers whose lamina
    was killed."""
    from lamina.view.overlay.mount import mounts as listed
    from lamina.view.overlay.mount import unmount

    if bool(targets) == all_:
        raise UsageError("say which mounts", hint="directories, images, or --all")
    if all_ and session.store_if_any is None:
        return
    failed: list[LaminaError] = []
    if all_:
        from lamina.run.container.ending import clear_all

        try:
            failed = clear_all(session.store)
        except LaminaError as error:  # what is mounted is taken away all the same
            failed.append(error)
    for target in [one.target for one in listed(session.store)] if all_ else _places(session, targets):
        try:
            write(unmount(session.store, target).target)
        except LaminaError as error:
            if not all_ or not isinstance(error, NotFound):  # else somebody else was first
                failed.append(error)
    for more in failed[1:]:
        say(str(more))
    if failed:
        raise failed[0]


def _places(session: Session, targets: tuple[str, ...]) -> list[str]:
    """Where to unmount: an image's name stands for all its mounts, unless something is mounted at that path."""
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
    """List what is mounted from the store."""
    from lamina.view.overlay.mount import mounts as listed

    store = session.store_if_any
    found = listed(store) if store else []
    rows = [
        {
            "Image": clean(one.name),
            "Target": clean(one.target),
            "View": one.view or "-",
            "State": "dead: its server is gone, `lamina umount` it" if one.dead else "mounted",
        }
        for one in found
    ]
    json_rows = [{"image": one.name, "target": one.target, "view": one.view, "dead": one.dead} for one in found]
    columns = [("Image", "IMAGE"), ("Target", "TARGET"), ("View", "VIEW"), ("State", "STATE")]
    emit(rows, columns, format, json_rows=json_rows)
