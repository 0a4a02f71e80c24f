"""Verbs about many images at once: index, sync."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lamina.cli.app import command
from lamina.cli.options import format_option, platform_option, quiet_option, referrers_option, registry_options
from lamina.cli.output import emit, emit_json, write
from lamina.cli.places import source_of, target_of, whole
from lamina.cli.progress import Progress
from lamina.cli.session import Session
from lamina.cli.text import clean
from lamina.errors import LaminaError, UsageError
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.spec.manifest import Index
    from lamina.spec.reference import Reference
    from lamina.transfer.connect import Network
    from lamina.transfer.sync import Wanted


@click.group("index", short_help="Make an index of several images.")
def index() -> None:
    """Make an index of several images: several platforms under one name.

    \b
    Example:
      lamina index create ghcr.io/me/app:1 ghcr.io/me/app:1-amd64 ghcr.io/me/app:1-arm64
    """


def _index_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Of the index."),
        registry_options,
        quiet_option,
    ):
        function = option(function)
    return function


@index.command("create")
@click.argument("target")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_index_options
@click.pass_obj
def create(session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool) -> None:
    """Make a new index of these images; TARGET and IMAGE as in `lamina copy` (a plain name is in the store).

    \b
    Example:
      lamina index create app:1 docker://ghcr.io/me/app:1-amd64 docker://ghcr.io/me/app:1-arm64
      lamina index create docker://ghcr.io/me/app:1 app:amd64 app:arm64
    """
    _make(session, target, images, annotations, quiet, add=False)


@index.command("add")
@click.argument("target")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_index_options
@click.pass_obj
def add(session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool) -> None:
    """Add images to the index that TARGET is; one of a platform that it has already takes its place.

    \b
    Example:
      lamina index add docker://ghcr.io/me/app:1 app:riscv64
    """
    _make(session, target, images, annotations, quiet, add=True)


def _make(
    session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool, *, add: bool
) -> None:
    from lamina.transfer.index import make_index

    stated = {}
    for text in annotations:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r:.100} is no KEY=VALUE")
        stated[key] = value
    with Progress(quiet=quiet) as progress, session.interruptible():
        network = session.network(progress)
        there = whole(parse_name(target))
        known = _known(session, target) if add else None
        writer, name = target_of(session, there, network)
        sources = [source_of(session, whole(parse_name(image)), network) for image in images]
        made = make_index(
            sources, writer, name, known=known, annotations=stated, on_event=progress, cancel=session.cancel
        )
    write(str(made.descriptor.digest))


def _known(session: Session, target: str) -> Index:
    from lamina.spec.manifest import Index as Kind
    from lamina.spec.manifest import parse

    reader, name = source_of(session, whole(parse_name(target)), session.network())
    top = reader.resolve(name)
    document = parse(reader.manifest(top), top.media_type, target)
    if not isinstance(document, Kind):
        raise UsageError(f"{target} is no index but an image", hint="`lamina index create` makes one of it")
    return document


@command(
    "sync",
    "lamina sync images.yaml docker://mirror.local:5000/hub --all-platforms\n"
    "lamina sync 'docker://ghcr.io/me/app:v1.*' oci:./air-gap",
)
@click.argument("source", metavar="FILE|PATTERN")
@click.argument("target", required=False, default="")
@click.option("--all-platforms", is_flag=True, help="Every platform of multi-platform images.")
@click.option("--scoped", is_flag=True, help="Keep the whole source name below TARGET.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--keep-going", is_flag=True, help="Go on with the others when one fails; exit code 1 then.")
@referrers_option
@platform_option
@registry_options
@quiet_option
@format_option
@click.pass_obj
def sync(
    session: Session,
    source: str,
    target: str,
    all_platforms: bool,
    scoped: bool,
    dry_run: bool,
    keep_going: bool,
    referrers: bool,
    quiet: bool,
    format: str | None,
) -> int:
    """Copy many images: those of a YAML FILE (- is stdin; skopeo's form, or a list), or of a PATTERN
    docker://HOST/REPOSITORY:TAG with * and ?. TARGET is docker://HOST[/PATH], oci:DIR, or nothing for the store."""
    from lamina.transfer.sync import expand

    results: list[dict[str, str]] = []
    failed = False
    with Progress(quiet=quiet or format is not None) as progress, session.interruptible():

        def move(name: str, there: str, network: Network) -> str:
            if dry_run:
                return "would be copied"
            writer, inside = target_of(session, parse_name(there), session.network(progress))
            pairs, before = [(name, inside)], _digest(writer, inside)
            source = network.repository(name)
            done = session.copied(source, writer, pairs, progress, all_platforms=all_platforms, referrers=referrers)
            return "already there" if before == done[0].descriptor.digest else "copied"

        for wanted in _wanted(source):
            network = session.network(progress, **dict(wanted.access))
            name, there = wanted.repository, ""
            try:
                for reference in expand(wanted, network):
                    name, there = str(reference), _there(reference, target, scoped)
                    results.append({"source": name, "target": there, "state": move(name, there, network)})
            except LaminaError as error:
                if not keep_going or error.exit_code == 130:
                    raise
                failed = True
                results.append({"source": name, "target": there, "state": f"failed: {error}"})
    if format == "json":
        emit_json(results)
    elif format is not None or not quiet:
        rows = [{key.title(): clean(text) for key, text in row.items()} for row in results]
        emit(rows, [("Source", "SOURCE"), ("Target", "TARGET"), ("State", "STATE")], format)
    return 1 if failed else 0


def _wanted(source: str) -> list[Wanted]:
    """The lines of a file, or one pattern."""
    from lamina.files import reported
    from lamina.transfer.sync import MAX_FILE, parse_list, parse_pattern

    if source.startswith("docker://"):
        return parse_pattern(source)
    with reported(source):
        if source == "-":
            raw = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with open(source, "rb") as file:
                raw = file.read(MAX_FILE + 1)
    return parse_list(raw, source)


def _digest(place: object, name: str) -> Digest | None:
    """What a name points to at a target now, where the target can tell."""
    from lamina.errors import NotFound

    resolve = getattr(place, "head", None) or getattr(place, "resolve", None)
    try:
        found: Descriptor | None = resolve(name) if resolve is not None else None
    except NotFound:
        return None
    return found.digest if found is not None else None


def _there(reference: Reference, target: str, scoped: bool) -> str:
    """The name at the target: below its prefix in a registry, the full one elsewhere."""
    from lamina.transfer.sync import target_name

    if not target:
        return str(reference)
    name = parse_name(target)
    if name.transport == "docker":
        return f"docker://{target_name(reference, name.name, scoped=scoped)}"
    if name.transport != "oci" or name.name:
        raise UsageError(f"{target!r:.200} can't hold many images", hint="expected docker://HOST[/PATH] or oci:DIR")
    return f"{target}:{reference}"
