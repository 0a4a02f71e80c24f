"""Verbs that maintain the store: df, fsck, prune."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lamina.cli.format.output import ask, emit, emit_json, print_deleted, table, write
from lamina.cli.format.text import clean, counted, human_size, some
from lamina.cli.options import format_option, report_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, UsageError
from lamina.settings import KEEPS
from lamina.spec.reference import Reference

if TYPE_CHECKING:
    from lamina.store.store import Store


@command("df", "lamina df\nlamina df --format json")
@click.option("-v", "--verbose", is_flag=True, help="Accepted as in docker; each image is always shown.")
@format_option
@click.pass_obj
def df(session: Session, verbose: bool, format: str | None) -> None:
    """Show what uses the disk space of the store. UNIQUE is the space that `lamina rmi` of that image alone would
    free."""
    from lamina.store.usage import NOTHING, usage

    store = session.store_if_any
    used = usage(store) if store else NOTHING
    free = _volumes_without_container(store) if store else 0
    parts = {
        "images": used.images,
        "held": used.held,
        "build": used.build,
        "unneeded": used.unneeded,
        "ingest": used.ingest,
        "containers": used.containers,
        "volumes": used.volumes,
        "frame": used.frame,
        "total": used.total,
    }
    kinds = {"blobs": used.blobs, "tars": used.tars, "indexes": used.indexes}
    json_rows = [
        {"names": list(i.names), "digest": str(i.digest), "size": i.size, "shared": i.shared, "unique": i.unique}
        for i in used.per_image
    ]
    if format == "json":
        more = {"volumes_reclaimable": free}
        emit_json({**parts, **more, "keep": session.settings.keep, "layers": kinds, "per_image": json_rows})
        return
    rows = [
        {
            "Image": some([Reference.parse(name).familiar for name in image.names]) or f"<none> {image.digest.short}",
            "Size": human_size(image.size),
            "Shared": human_size(image.shared),
            "Unique": human_size(image.unique),
        }
        for image in used.per_image
    ]
    columns = [("Image", "IMAGE"), ("Size", "SIZE"), ("Shared", "SHARED"), ("Unique", "UNIQUE")]
    emit(rows, columns, format, right=("Size", "Shared", "Unique"))
    if format in (None, "table"):
        write("")
        words = {
            "images": "needed by images",
            "held": "needed by containers and commands",
            "build": "build cache",
            "unneeded": "not needed (see prune)",
            "ingest": "partial downloads",
            "containers": "containers, without volumes",
            "volumes": "volumes",
            "frame": "names, roots, unions",
            "total": "total on disk",
        }
        notes = {"volumes": f", {free} of them in no container"} if free else {}
        lines = [[words[key], human_size(size), f"{size} bytes{notes.get(key, '')}"] for key, size in parts.items()]
        table(lines, right=(1,))
        shown = ", ".join(f"{key} {human_size(size)}" for key, size in kinds.items())
        write(f"of these: {shown} (keep = {session.settings.keep})")


def _volumes_without_container(store: Store) -> int:
    """Return the bytes of the volumes that no container has: `volume prune --all` removes them."""
    from lamina.run.volumes.remove import unused
    from lamina.store.foreign_trees import tree_bytes

    return sum(tree_bytes(store.volumes.path(one.name)) for one in unused(store))


@command("fsck", "lamina fsck\nlamina fsck --repair\nlamina fsck --storage s3://bucket/prefix --quick")
@click.option("--repair", is_flag=True, help="Rebuild damaged derived files, and move damaged blobs aside.")
@click.option("--storage", metavar="URL", default="", help="Check object storage instead: s3://BUCKET/PREFIX.")
@click.option("--quick", is_flag=True, help="With --storage: compare sizes only, and do not read the blobs.")
@report_option
@click.pass_obj
def fsck(session: Session, repair: bool, storage: str, quick: bool, format: str | None) -> int:
    """Check the store: hash every blob again, and compare names, layers and derived files with the blobs. The exit
    code is 1 if an image is incomplete or damaged. `lamina pull` fetches a blob that --repair moved aside.

    With --storage, --repair forgets damaged blobs, so that the next push sends them again, and deletes tags whose
    manifest was deleted."""
    if storage:
        from lamina.cli.store.storage import check_storage

        return check_storage(storage, repair=repair, quick=quick, format=format)
    if quick:
        raise UsageError("--quick needs --storage", hint="leave --quick out")
    from lamina.store.fsck import fsck as check
    from lamina.view.check import check_unions

    count = 0

    def looked_at(_: object) -> None:
        nonlocal count
        count += 1

    findings = check(session.store, repair=repair, on_blob=looked_at)
    findings += check_unions(session.store, repair=repair)
    if os.path.isdir(session.store.paths.build):
        from lamina.build.storage import check_cache

        findings += check_cache(session.store, repair=repair)
    bad = [f for f in findings if f.severity == "error" or (f.severity == "derived" and not f.repaired)]
    if format == "json":
        emit_json(
            {
                "blobs": count,
                "ok": not bad,
                "findings": [{"severity": f.severity, "what": f.what, "repaired": f.repaired} for f in findings],
            }
        )
    else:
        for finding in findings:
            write(f"{finding.severity}: {clean(finding.what)}" + (" (repaired)" if finding.repaired else ""))
        whole = "" if bad or repair else ": the store is intact"
        write(f"{counted(count, 'blob')} checked, {counted(len(bad), 'problem')}{whole}")
    return 1 if bad else 0


@command(
    "prune",
    "lamina prune\nlamina prune --all --dry-run\nlamina prune --build\nlamina prune --storage s3://bucket/prefix",
)
@click.option(
    "-a",
    "--all",
    "all_",
    is_flag=True,
    help="Also delete images that have a name and no container, and the parts of interrupted downloads.",
)
@click.option("--build", is_flag=True, help="Also delete the build cache: finished steps, and cache mounts of RUN.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be deleted and how many bytes that frees.")
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--keep", type=click.Choice(KEEPS), help="Also keep only this of the remaining layers (see the setting keep)."
)
@click.option(
    "--storage",
    metavar="URL",
    default="",
    help="Delete from object storage instead: blobs that no manifest needs, and abandoned uploads.",
)
@report_option
@click.pass_obj
def prune(
    session: Session,
    all_: bool,
    build: bool,
    dry_run: bool,
    force: bool,
    keep: str | None,
    storage: str,
    format: str | None,
) -> None:
    """Delete untagged images, and blobs and derived files that no image needs. Files that a running command needs are
    kept. Also clean up after containers and builds whose lamina was killed, and remove those of `run --rm`.

    With the setting keep = blob, also delete tars that were made for a mount and that no mount uses now.

    With --storage, servers may run beside it. What was pushed less than an hour ago is kept."""
    if storage:
        from lamina.cli.store.storage import prune_storage

        if all_ or build or keep is not None:
            raise UsageError(
                "--all, --build and --keep are for the store", hint="leave them out, or leave --storage out"
            )
        prune_storage(storage, dry_run=dry_run, format=format)
        return
    from lamina.store.gc import Deleted
    from lamina.store.prune import of_containers
    from lamina.store.prune import prune as sweep

    store = session.store_if_any
    failed: list[LaminaError] = []
    if store is None:
        print_deleted(Deleted(), dry_run=dry_run, format=format)
        return
    if all_ and not (force or dry_run):
        ask("Delete ALL images of the store that have no container?")
    if not dry_run:
        from lamina.build.programs.step_directory import clear
        from lamina.run.container.ending import clear_all

        failed = [*clear(store), *clear_all(store)]
    cached = Deleted()
    if build:
        from lamina.build.storage import prune_cache

        cached = prune_cache(store, dry_run=dry_run)
    done = cached + sweep(store, all=all_, dry_run=dry_run, spare=of_containers(store))
    if keep is not None or store.keep == "blob":
        from lamina.store.retention import apply_keep

        kept = apply_keep(store, keep or store.keep, remade_only=keep is None, dry_run=dry_run)
        done += Deleted((), kept.removed, kept.freed, kept.notes)
    print_deleted(done, dry_run=dry_run, format=format)
    if failed:
        raise failed[0]
