"""Verbs that make a new image from another one: config, squash, flatten, rebase, erase. The old image stays as it
was."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import say, warn
from lamina.cli.change.make import base_stack, packing_of
from lamina.cli.config_options import edit_options
from lamina.cli.format.output import emit_json, write
from lamina.cli.format.text import clean, counted, human_size, json_path
from lamina.cli.image_options import epoch
from lamina.cli.options import (
    TEXT,
    checked_name,
    image_argument,
    platform_option,
    quiet_option,
    registry_options,
    report_option,
)
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError, NotFound, RemoteFailure, UsageError
from lamina.places import to_bytes

if TYPE_CHECKING:
    from lamina.edit.erase import Erased
    from lamina.edit.rebase import RebasePlan
    from lamina.source.stack import Stack
    from lamina.spec.descriptor import Descriptor

_TAG = click.option("-t", "--tag", "tag", required=True, metavar="REF", help="Name of the new image.")
MESSAGE = click.option(
    "--message", "-m", type=TEXT, metavar="TEXT", default="", help="Comment of the new build step."
)
COMPRESSION = click.option(
    "--compression", type=click.Choice(["gzip", "zstd", "none"]), help="Compression of new layers."
)


def _start(session: Session, image: str, tag: str) -> Stack:
    checked_name(tag)
    return base_stack(session, image)


def print_made(made: Descriptor, tag: str, text: str, quiet: bool) -> None:
    """Print the digest of the new image to standard output, and a description to standard error."""
    if not quiet:
        click.echo(f"{clean(tag)}: {text}", err=True)
    write(str(made.digest))


@command(
    "config",
    "lamina config debian:12 | jq .config.Env\n"
    "lamina config my/app -e DEBUG=1 --env-rm PROXY --cmd 'python3 -m app' --label-rm stage -t my/app:2",
)
@click.argument("reference", metavar="REF")
@click.option("-t", "--tag", "tag", metavar="REF", help="Make a new image with this name.")
@edit_options
@MESSAGE
@click.option(
    "--local", is_flag=True, help="Print the config of the image in the store, without asking the registry."
)
@platform_option
@registry_options
@quiet_option
@click.pass_obj
def config(
    session: Session, /, reference: str, tag: str | None, message: str, local: bool, quiet: bool, **given: Any
) -> None:
    """Print the config of an image: the exact bytes in its registry, or in the store if the registry does not have
    it. With options that set or remove something, and -t REF: make a new image from the image in the store, with the
    same layers and the changed config."""
    from lamina.cli.config_options import words_of

    words = words_of(given)
    if not words and tag is None:
        _print_config(session, reference, local)
        return
    if tag is None:
        raise UsageError("the new image needs a name", hint="give -t REF; the old image stays as it is")
    if not words:
        raise UsageError(
            "nothing to change", hint="give options that set or remove something; `lamina tag` only adds a name"
        )
    import shlex

    from lamina.cli.config_options import edits
    from lamina.edit.configure import with_config

    stack = _start(session, reference, tag)
    made = with_config(
        stack,
        session.writable_store,
        tag,
        edits(stack.config, given),
        created_by="lamina config " + shlex.join(words),
        comment=message,
        epoch=epoch(),
    )
    print_made(made, tag, "the same layers, another config", quiet)


def _print_config(session: Session, reference: str, local: bool) -> None:
    from lamina.cli.registry.queries import print_config

    if local:
        print_config(session, reference, local)
        return
    try:
        print_config(session, reference, False)
    except (NotFound, RemoteFailure) as error:
        try:
            session.store.resolve(reference)
        except LaminaError:
            raise error from None
        say(f"{error.message}; this is the config of the image in the store")
        print_config(session, reference, True)


@command("squash", "lamina squash my/app --from 3 --to 7 -t my/app:slim\nlamina squash my/app --from 2 -t my/app:two")
@image_argument()
@click.option("--from", "low", type=int, required=True, metavar="N", help="Lowest layer to join, from 1.")
@click.option("--to", "high", type=int, metavar="M", help="Highest layer to join (default: the top).")
@_TAG
@MESSAGE
@COMPRESSION
@platform_option
@quiet_option
@click.pass_obj
def squash(
    session: Session,
    image: str,
    low: int,
    high: int | None,
    tag: str,
    message: str,
    compression: str | None,
    quiet: bool,
) -> None:
    """Join layers N to M into one layer. The union stays the same; files that one of these layers hid from another
    are removed. The layers below stay shared, the layers above stay as they are."""
    from lamina.edit.squash import squash as make

    stack = _start(session, image, tag)
    high = len(stack.layers) if high is None else high
    made = make(
        stack,
        low,
        high,
        session.writable_store,
        tag,
        created_by=f"lamina squash --from {low} --to {high}",
        comment=message,
        packing=packing_of(session, compression),
    )
    print_made(made, tag, f"layers {low} to {high} joined into one", quiet)


@command("flatten", "lamina flatten my/app -t my/app:flat")
@image_argument()
@_TAG
@MESSAGE
@COMPRESSION
@platform_option
@quiet_option
@click.pass_obj
def flatten(session: Session, image: str, tag: str, message: str, compression: str | None, quiet: bool) -> None:
    """Join all layers into one. The union stays the same; hidden files are removed."""
    from lamina.edit.squash import flatten as make

    stack = _start(session, image, tag)
    made = make(
        stack,
        session.writable_store,
        tag,
        created_by="lamina flatten",
        comment=message,
        packing=packing_of(session, compression),
    )
    print_made(made, tag, f"{counted(len(stack.layers), 'layer')} joined into one", quiet)


@command(
    "rebase",
    "lamina rebase my/app --onto debian:12.6 --dry-run\n"
    "lamina rebase my/app --onto debian:12.6 --old-base debian:12.5 -t my/app:new\n"
    "lamina rebase debian:12 --onto kernel --old-base scratch -t debian-machine",
)
@image_argument()
@click.option("--onto", required=True, metavar="NEWBASE", help="New base image.")
@click.option(
    "--old-base",
    metavar="REF",
    help="Old base image, also as IMAGE~N; scratch if IMAGE has none (default: found in the store).",
)
@click.option("-t", "--tag", "tag", metavar="REF", help="Name of the new image.")
@click.option("--force", is_flag=True, help="Make the image in spite of conflicts; its own files win.")
@click.option("--dry-run", is_flag=True, help="Only show the report. Exit code 5 if there are conflicts.")
@COMPRESSION
@platform_option
@quiet_option
@report_option
@click.pass_obj
def rebase(
    session: Session,
    image: str,
    onto: str,
    old_base: str | None,
    tag: str | None,
    force: bool,
    dry_run: bool,
    compression: str | None,
    quiet: bool,
    format: str | None,
) -> int:
    """Move an image's own layers to another base. A report comes first. It lists: files that the image replaces or
    removes and that differ between the bases; hard links without a target; libraries and interpreters that programs
    of the image would not find any more; differences between the configs of the bases. If there are conflicts, no
    image is made (exit code 5) unless --force is given. The image keeps its own settings; settings that it inherited
    from the old base are taken from the new base."""
    from lamina.edit.find_base import find_base
    from lamina.edit.rebase import plan_rebase
    from lamina.edit.rebase import rebase as make

    if tag is None and not dry_run:
        raise UsageError("the new image needs a name", hint="give -t REF, or --dry-run to see only the report")
    if tag is not None:
        checked_name(tag)
    stack, new = base_stack(session, image), base_stack(session, onto)
    if old_base == "scratch":
        old = stack.slice(stack.first, stack.first - 1)
    else:
        old = base_stack(session, old_base) if old_base else find_base(stack, session.store)
    plan = plan_rebase(stack, old, new)
    blocked = bool(plan.conflicts) and not force
    made = None
    if not dry_run and not blocked:
        assert tag is not None
        name = _full_name(session, onto)
        made = make(
            plan,
            session.writable_store,
            tag,
            base_name=name,
            force=force,
            packing=packing_of(session, compression),
        )
    if format == "json":
        emit_json(_plan_json(plan, None if made is None else str(made.digest)))
    else:
        _tell_plan(plan, err=made is not None, quiet=quiet)
        if made is not None:
            write(str(made.digest))
    if blocked:
        from lamina.edit.rebase import refusal

        raise refusal(plan)
    return 0


def _full_name(session: Session, name: str) -> str:
    """Return the full reference of the base, or "" if it was selected by ID."""
    from lamina.spec.name import parse_name
    from lamina.spec.reference import Reference

    try:
        reference = str(Reference.parse(parse_name(name).name).with_default_tag())
    except LaminaError:
        return ""
    return reference if any(known == reference for known, _ in session.store.names()) else ""


def _plan_json(plan: RebasePlan, digest: str | None) -> dict[str, Any]:
    return {
        "digest": digest,
        "old_base": {"name": plan.old.name, "layers": len(plan.old.layers)},
        "new_base": {"name": plan.new.name, "layers": len(plan.new.layers)},
        "own_layers": len(plan.image.layers) - len(plan.old.layers),
        "rewritten": sorted(plan.rewritten),
        "conflicts": plan.conflicts,
        "findings": [
            {"what": one.what, **json_path(one.path), "detail": one.detail, "conflict": one.conflict}
            for one in plan.findings
        ],
        "config": [
            {"field": one.field, "old": one.old, "new": one.new, "own": one.own, "conflict": one.conflict}
            for one in plan.drift
        ],
    }


def _tell_plan(plan: RebasePlan, *, err: bool, quiet: bool) -> None:
    """Print the report: to standard error if an image was made, else to standard output."""

    def say(text: str) -> None:
        click.echo(text, err=err)

    if quiet and err:
        return
    own = len(plan.image.layers) - len(plan.old.layers)
    say(
        f"{clean(plan.image.name)}: {counted(own, 'layer')} on {clean(plan.old.name)} "
        f"({counted(len(plan.old.layers), 'layer')}), now on {clean(plan.new.name)} "
        f"({counted(len(plan.new.layers), 'layer')})"
    )
    for one in plan.findings:
        say(f"  {'!' if one.conflict else ' '} {one.what:<11} /{clean(one.path)}: {clean(one.detail)}")
    for drift in plan.drift:
        took = (
            "taken from the new base"
            if drift.own == drift.old
            else f"stays {json.dumps(drift.own, ensure_ascii=False)}"
        )
        was, now = (clean(json.dumps(value, ensure_ascii=False)) for value in (drift.old, drift.new))
        say(f"  {'!' if drift.conflict else ' '} {'config':<11} {clean(drift.field)}: {was} to {now} ({clean(took)})")
    for number in sorted(plan.rewritten):
        say(f"    layer {number} is rewritten, because its hard links have lost their target")
    say(counted(plan.conflicts, "conflict") if plan.conflicts else "no conflicts")


@command("erase", "lamina erase my/app /root/.netrc /srv/secrets -t my/app:clean")
@image_argument()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_TAG
@MESSAGE
@COMPRESSION
@platform_option
@quiet_option
@report_option
@click.pass_obj
def erase(
    session: Session,
    image: str,
    paths: tuple[str, ...],
    tag: str,
    message: str,
    compression: str | None,
    quiet: bool,
    format: str | None,
) -> None:
    """Remove paths, and everything below them, from every layer that has them: they are not hidden but deleted.
    Layers without them stay shared. A file with another hard link keeps its data there. Other images in the store
    that still have the paths are listed."""
    from lamina.edit.erase import erase as make
    from lamina.edit.erase import plan_erase
    from lamina.edit.erased_content import images_with_content

    stack = _start(session, image, tag)
    plan = plan_erase(stack, [to_bytes(path) for path in paths])
    store = session.writable_store
    words = " ".join("/" + os.fsdecode(path) for path in plan.paths)
    made = make(
        stack,
        plan,
        store,
        tag,
        created_by=f"lamina erase {clean(words)}",
        comment=message,
        packing=packing_of(session, compression),
    )
    still = images_with_content(store, stack, plan.paths)
    if format == "json":
        emit_json(
            {
                "digest": str(made.digest),
                "paths": [json_path(path) for path in plan.paths],
                "layers": list(plan.layers),
                "entries": plan.entries,
                "size": plan.size,
                "elsewhere": [json_path(path) for path in plan.elsewhere],
                "still": still,
            }
        )
        return
    _tell_erased(plan, still, tag, quiet)
    write(str(made.digest))


def _tell_erased(plan: Erased, still: list[str], tag: str, quiet: bool) -> None:
    if not quiet:
        numbers = ", ".join(map(str, plan.layers))
        click.echo(
            f"{clean(tag)}: {counted(plan.entries, 'entry', 'entries')}, {human_size(plan.size)} removed; "
            f"rewritten layers: {numbers}",
            err=True,
        )
    for path in plan.elsewhere:
        warn(f"the data stays in the image at /{clean(path)}, another hard link of the same file")
    for name in still:
        warn(f"{name} in the store still has these paths")
