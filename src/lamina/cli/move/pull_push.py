"""Verbs between a registry and the store: pull, push, plan."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from lamina.cli.access import retry_options
from lamina.cli.format.output import emit, emit_json, report, write
from lamina.cli.format.progress import Progress
from lamina.cli.format.text import clean, human_size, some
from lamina.cli.options import (
    format_option,
    image_argument,
    keep_option,
    platform_option,
    quiet_option,
    referrers_option,
    registry_options,
)
from lamina.cli.place_names import all_named, source_of, whole
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group, command
from lamina.errors import AccessDenied, BlobNotFound, NotFound, ReferenceNotFound, RemoteFailure, UsageError
from lamina.events import Event, OnEvent, ignore
from lamina.source.abilities import lists_names
from lamina.spec.name import ImageName, parse_name

if TYPE_CHECKING:
    from lamina.transfer.connect import RegistryAccess
    from lamina.transfer.copy import Copied
    from lamina.view.overlay.unpack_ahead import UnpackAhead


def _is_here(session: Session, name: str, *, must: bool) -> bool:
    """Whether the store has the image. ``must``: raise NotFound if it does not."""
    try:
        session.stack(name)
    except (ReferenceNotFound, BlobNotFound):
        if must:
            raise
        return False
    return True


def _registry_name(text: str) -> str:
    """Check a name for a registry; remove ``docker://``. Raises UsageError."""
    name: ImageName = parse_name(text)
    if name.transport not in ("", "docker") or not name.whole:
        hint = "write it like debian:12 or ghcr.io/me/app:1"
        if name.transport and name.whole:
            hint += "; use `lamina copy` for other places"
        raise UsageError(f"{text!r:.200} is not a name in a registry", hint=hint)
    return name.name


@command(
    "pull",
    "lamina pull debian:12\nlamina pull ghcr.io/me/app:1 --platform linux/arm64\nlamina pull oci-archive:images.tar",
)
@click.argument("images", nargs=-1, required=True, metavar="REF...")
@click.option("-a", "--all-tags", is_flag=True, help="Pull every tag of the repository.")
@click.option("--all-platforms", is_flag=True, help="Pull every platform of a multi-platform image.")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "newer", "never"]),
    default="always",
    help="When to pull (default: always). missing: not if the store has it. newer: use that if the pull fails.",
)
@click.option("--unpack", is_flag=True, help="Also unpack the layers for the view `overlay`, during the download.")
@keep_option
@referrers_option
@platform_option
@registry_options
@retry_options
@quiet_option
@format_option
@click.pass_obj
def pull(
    session: Session,
    images: tuple[str, ...],
    all_tags: bool,
    all_platforms: bool,
    policy: str,
    unpack: bool,
    referrers: bool,
    quiet: bool,
    format: str | None,
) -> None:
    """Pull images from a registry into the store. Only blobs that the store lacks are fetched; an interrupted pull
    resumes where it stopped. REF may also be oci:DIR, dir:DIR, oci-archive:FILE or docker-archive:FILE: then all
    images in it are loaded and keep their names; oci:DIR:NAME loads one image."""
    from lamina.transfer.pull_push import pull as fetch

    wanted = [whole(parse_name(image)) for image in images]
    if all_tags and any(name.location for name in wanted):
        raise UsageError(
            "--all-tags is for registries only", hint="leave it out; all images of the other places are loaded anyway"
        )
    done = []
    with (
        _ahead(session) if unpack else nullcontext(ignore) as unpack_ahead,
        Progress(quiet=quiet or format is not None) as progress,
        session.interruptible(),
    ):

        def on_event(event: Event) -> None:
            progress(event)
            unpack_ahead(event)

        network = session.network(progress)
        for name in wanted:
            if name.location:
                done += _from_place(
                    session, name, network, on_event, all_platforms=all_platforms, referrers=referrers
                )
                continue
            if policy in ("missing", "never") and _is_here(session, name.name, must=policy == "never"):
                continue
            try:
                done += fetch(
                    name.name,
                    session.writable_store,
                    network,
                    platform=session.settings.asked_platform(),
                    all_platforms=all_platforms,
                    all_tags=all_tags,
                    referrers=referrers,
                    on_event=on_event,
                    cancel=session.cancel,
                )
            except (RemoteFailure, AccessDenied, NotFound):
                if policy != "newer" or not _is_here(session, name.name, must=False):
                    raise
    if unpack:
        _unpack(session, [image.name or str(image.descriptor.digest) for image in done])
    if quiet and format is None:
        for image in done:
            write(str(image.descriptor.digest))
        return
    report(done, format, quiet or progress.lists_blobs)


def _from_place(
    session: Session, name: ImageName, network: RegistryAccess, on_event: OnEvent, **how: bool
) -> list[Copied]:
    """Load the images of a layout, a directory or an archive; if ``name`` names one, only that one."""
    from lamina.spec.reference import canonical

    reader, inside = source_of(session, name, network)
    assert lists_names(reader)  # as all places on this host are
    pairs = [(inside, canonical(inside))] if inside else all_named(reader)
    return session.copied(reader, session.writable_store, pairs, on_event, **how)


def _ahead(session: Session) -> UnpackAhead:
    """Return a listener that unpacks layers while the pull goes on."""
    from lamina.view.overlay.unpack_ahead import UnpackAhead

    return UnpackAhead(session.writable_store)


def _unpack(session: Session, names: list[str]) -> None:
    """Unpack images as the user for whom they will be mounted: it decides which owners the files can have."""
    from lamina.host.privileges import as_root
    from lamina.view.overlay.lower import unpack_parts

    store = session.store
    as_root(lambda: [unpack_parts(store, store.stack(name, session.platform)) for name in names])


@command("push", "lamina push ghcr.io/me/app:1\nlamina push app localhost:5000/app:1 --tls-verify=false")
@image_argument()
@click.argument("target", required=False, default="", metavar="[REF]")
@click.option("-a", "--all-tags", is_flag=True, help="Push every tag of the repository that the store has.")
@click.option("--all-platforms", is_flag=True, help="Push every platform of the image that the store has.")
@click.option("--digestfile", metavar="FILE", help="Write the digest of the pushed image to this file.")
@referrers_option
@platform_option
@registry_options
@retry_options
@quiet_option
@format_option
@click.pass_obj
def push(
    session: Session,
    image: str,
    target: str,
    all_tags: bool,
    all_platforms: bool,
    digestfile: str | None,
    referrers: bool,
    quiet: bool,
    format: str | None,
) -> None:
    """Push an image from the store to a registry: under its own name, or under REF. Only blobs that the registry
    lacks are sent; an interrupted push resumes where it stopped."""
    from lamina.cli.move.copy import write_digest
    from lamina.transfer.pull_push import push as give

    name = _registry_name(image)
    pairs = [(name, _registry_name(target) if target else "")]
    if all_tags:
        pairs = _all_tags(session, name, target)
    moved, there = "pushed", "already there"
    silent = quiet or format is not None
    with Progress(quiet=silent, moved=moved, there=there) as progress, session.interruptible():
        network = session.network(progress)
        done = [
            give(
                one,
                other,
                session.store,
                network,
                platform=session.settings.asked_platform(),
                all_platforms=all_platforms,
                referrers=referrers,
                on_event=progress,
                cancel=session.cancel,
            )
            for one, other in pairs
        ]
    write_digest(digestfile, done[-1])
    report(done, format, quiet or progress.lists_blobs, moved=moved, there=there)


def _all_tags(session: Session, name: str, target: str) -> list[tuple[str, str]]:
    """Return each tag of a repository in the store with its name at the target."""
    from lamina.errors import ReferenceNotFound
    from lamina.spec.reference import Reference

    full = session.network().full
    here = full(name)
    if here != full(here.repository):
        raise UsageError(f"--all-tags needs a repository, but {name} has a tag", hint="leave the tag out")
    there = full(target) if target else here
    if there != full(there.repository):
        raise UsageError(f"--all-tags needs a repository, but {target} has a tag", hint="leave the tag out")
    found = [Reference.parse(stored) for stored, _ in session.store.names() if stored]
    tags = sorted(one.tag for one in found if one.repository == here.repository and one.tag and not one.digest)
    if not tags:
        raise ReferenceNotFound(f"no image of {here.repository} in the store", hint="see `lamina images`")
    return [(f"{here.repository}:{tag}", f"{there.repository}:{tag}") for tag in tags]


@click.group("plan", cls=Group, short_help=VERBS["plan"][2])
def plan() -> None:
    """Show what a command would transfer, without doing it.

    \b
    Example:
      lamina plan pull debian:12
    """


@plan.command("pull", cls=Command)
@click.argument("image", metavar="REF")
@click.option("--all-platforms", is_flag=True, help="Plan for every platform of a multi-platform image.")
@platform_option
@registry_options
@format_option
@click.pass_obj
def plan_pull(session: Session, image: str, all_platforms: bool, format: str | None) -> None:
    """Show which blobs `lamina pull` would fetch, which ones the store has already and which images share them, and
    the disk space. Only the manifest and the config are fetched.

    \b
    Example:
      lamina plan pull debian:12
      lamina plan pull ghcr.io/me/app:1 --format json
    """
    from lamina.transfer.pull_plan import plan_pull as planned

    with Progress(quiet=True) as progress, session.interruptible():
        found = planned(
            _registry_name(image),
            session.writable_store,
            session.network(progress),
            platform=session.platform,
            all_platforms=all_platforms,
        )
    if format == "json":
        emit_json(
            {
                "name": found.name,
                "digest": str(found.descriptor.digest),
                "fetch": found.fetch,
                "here": found.here,
                "disk": found.disk,
                "disk_estimated": found.estimated,
                "blobs": [
                    {
                        "what": blob.what,
                        "digest": str(blob.descriptor.digest),
                        "size": blob.descriptor.size,
                        "state": blob.state,
                        "tar_size": blob.tar_size,
                        "shared_with": list(blob.shared),
                    }
                    for blob in found.blobs
                ],
            }
        )
        return
    rows = [
        {
            "What": blob.what,
            "Digest": blob.descriptor.digest.short,
            "Size": human_size(blob.descriptor.size),
            "State": blob.state,
            "Shared": some([clean(name) for name in blob.shared]),
        }
        for blob in found.blobs
    ]
    columns = [
        ("What", "WHAT"),
        ("Digest", "DIGEST"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Shared", "SHARED WITH"),
    ]
    emit(rows, columns, format, right=("Size",))
    if format is None or format == "table":
        about = "about " if found.estimated else ""
        write(
            f"\nto fetch: {human_size(found.fetch)} of {human_size(found.fetch + found.here)}; "
            f"on disk: {about}{human_size(found.disk)} more"
        )
