"""Verbs for images in the store: images, history, tag, rmi."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.format.output import emit, print_deleted, write
from lamina.cli.format.rows import HEADINGS, IMAGE_HEADINGS, age, created_text, image_record, shortened
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import (
    format_option,
    image_argument,
    no_trunc_option,
    platform_option,
    report_option,
)
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.insight.images import ImageSummary

SORTS = ("created", "id", "repository", "size", "tag")


@command("images", "lamina images\nlamina images 'my/*' --filter dangling=false --format '{{.Repository}}:{{.Tag}}'")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Accepted as in docker; all images are always shown.")
@click.option("-q", "--quiet", is_flag=True, help="Show only IDs.")
@click.option("--digests", is_flag=True, help="Show the digests of the manifests.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Show only matching images: reference, dangling, label, before, since, until.",
)
@click.option("--sort", type=click.Choice(SORTS), default="created", help="Sort by this (default: created).")
@click.option("-n", "--noheading", is_flag=True, help="Leave the headings out; sizes have a blank, as in podman.")
@no_trunc_option
@platform_option
@format_option
@click.pass_obj
def images(
    session: Session,
    patterns: tuple[str, ...],
    all_: bool,
    quiet: bool,
    digests: bool,
    filters: tuple[str, ...],
    sort: str,
    noheading: bool,
    no_trunc: bool,
    format: str | None,
) -> None:
    """List the images in the store, newest first. SIZE includes shared layers, so the sizes do not add up to the size
    of the store; see `lamina df`."""
    from lamina.insight.images import select_images, sort_images, summaries

    store = session.store_if_any
    all_images = summaries(store, session.platform) if store else ()
    found = sort_images(select_images(all_images, patterns=patterns, filters=filters), sort)
    if quiet:
        for ident in dict.fromkeys(image.id or image.digest for image in found):
            write(str(ident) if no_trunc else ident.short)
        return
    now = time.time()
    rows = [image_record(image, now, no_trunc=no_trunc) for image in found]
    if noheading:  # podman-compose expects two words
        for row in rows:
            row["Size"] = _spaced(row["Size"])
    columns = [("Repository", "REPOSITORY"), ("Tag", "TAG")]
    if digests:
        columns.append(("Digest", "DIGEST"))
    columns += [("ID", "IMAGE ID"), ("CreatedSince", "CREATED"), ("Size", "SIZE")]
    json_rows = [_image_json(image) for image in found]
    emit(rows, columns, format, json_rows=json_rows, header=not noheading, headings=IMAGE_HEADINGS)


def _spaced(size: str) -> str:
    """``36.5MB`` as ``36.5 MB`` (pure)."""
    number = size.rstrip("BkKMGTPE")
    return f"{number} {size.removeprefix(number)}"


def _image_json(image: ImageSummary) -> dict[str, Any]:
    return {
        "name": image.name or None,
        "id": str(image.id) if image.id else None,
        "digest": str(image.digest),
        "created": image.created,
        "size": image.size,
        "layers": image.layers,
        "platform": image.platform or None,
        "labels": image.labels,
        "artifact_type": image.artifact,
    }


@command("history", "lamina history debian:12")
@image_argument()
@click.option("-H", "--human/--no-human", default=True, help="Print readable sizes and times (default: yes).")
@click.option("-q", "--quiet", is_flag=True, help="Show only the digests of the layers.")
@no_trunc_option
@platform_option
@format_option
@click.pass_obj
def history(session: Session, image: str, human: bool, quiet: bool, no_trunc: bool, format: str | None) -> None:
    """Show the build steps of an image, newest first, each with the layer that it made."""
    from lamina.insight.history import aligned

    opened = session.image(image)
    stack = opened.stack
    now, rows, json_rows = time.time(), [], []
    for step in aligned(
        opened.config.history,
        len(opened.config.diff_ids),
        low=stack.first,
        high=stack.first + len(stack.layers) - 1,
    ):
        made = None if step.layer is None else stack.layers[step.layer - stack.first]
        history_step = step.history
        digest = str(made.descriptor.digest) if made else None
        size = made.descriptor.size if made else 0
        by = clean(history_step.created_by) if step.recorded else "<not recorded>"
        json_rows.append(
            {
                "layer": step.layer,
                "digest": digest,
                "size": size,
                "created": history_step.created,
                "created_by": history_step.created_by if step.recorded else None,
                "comment": history_step.comment if step.recorded else None,
                "empty_layer": history_step.empty_layer,
            }
        )
        rows.append(
            {
                "Layer": step.layer or "-",
                "ID": digest if digest and no_trunc else made.descriptor.digest.short if made else "-",
                "CreatedSince": age(history_step.created, now) if human else history_step.created or "N/A",
                "CreatedAt": created_text(history_step.created),
                "CreatedBy": by if no_trunc else shortened(by, 60),
                "Size": human_size(size) if human else size,
                "Comment": clean(history_step.comment),
            }
        )
    rows.reverse()
    json_rows.reverse()
    if quiet:
        for row in rows:
            write(str(row["ID"]))
        return
    columns = [
        ("Layer", "LAYER"),
        ("ID", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ]
    emit(rows, columns, format, json_rows=json_rows, headings=HEADINGS)


@command("tag", "lamina tag my/app:1 my/app:latest")
@image_argument("source")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.pass_obj
def tag(session: Session, source: str, targets: tuple[str, ...]) -> None:
    """Give an image in the store another name. If the name exists, it moves to this image; the image that had it
    stays."""
    from lamina.cli.place_names import whole
    from lamina.spec.name import parse_stored
    from lamina.store.image_events import tag as give_name

    names = [str(Reference.parse(target).with_default_tag()) for target in targets]
    store = session.writable_store
    named = whole(parse_stored(source))
    if named.transport:
        raise UsageError(f"{source!r:.200} is not in the store", hint="load it first with `lamina pull`")
    descriptor = store.resolve(named.name)
    for name in names:
        give_name(store, name, descriptor)


def _exists(session: Session, name: str) -> bool:
    try:
        session.store.resolve(name)
    except NotFound:
        return False
    return True


@command("rmi", "lamina rmi my/app:1\nlamina rmi --dry-run my/app:1")
@image_argument("names", nargs=-1, required=True)
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be removed and how many bytes that frees.")
@click.option(
    "-f", "--force", is_flag=True, help="Remove an ID that has several names. Do not fail if an image does not exist."
)
@click.option("-i", "--ignore", is_flag=True, help="Do not fail if an image does not exist; remove the others.")
@click.option("--no-prune", is_flag=True, help="Remove only the name; keep the image and its layers.")
@report_option
@click.pass_obj
def rmi(
    session: Session,
    names: tuple[str, ...],
    dry_run: bool,
    force: bool,
    ignore: bool,
    no_prune: bool,
    format: str | None,
) -> None:
    """Remove images from the store: the name; and with the last name the image, and the layers that no other image
    uses."""
    from lamina.spec.name import parse_stored
    from lamina.store.remove import remove_images

    names = tuple(str(parse_stored(name)) if name.startswith("docker://") else name for name in names)
    if ignore:
        names = tuple(name for name in names if _exists(session, name))
        if not names:
            return
    try:
        done = remove_images(session.writable_store, names, dry_run=dry_run, force=force, keep_untagged=no_prune)
    except LaminaError as error:
        if force and error.exit_code == 3:
            return
        raise
    print_deleted(done, dry_run=dry_run, format=format)
