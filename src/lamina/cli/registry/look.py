"""Verbs for scripts against registries: tags, digest, manifest, config, blob, delete, search, validate."""

from __future__ import annotations

import fnmatch
import io
import sys
from typing import TYPE_CHECKING

import click

from lamina.cli.access import identity_options, retry_options
from lamina.cli.format.content import write_contents
from lamina.cli.format.output import emit, emit_json, write
from lamina.cli.format.progress import Progress
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import format_option, platform_option, quiet_option, registry_options
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.spec.name import parse_name

if TYPE_CHECKING:
    from lamina.remote.repository import Repository
    from lamina.source.protocols import Reader

_REF = click.argument("reference", metavar="REF")
_LOCAL = click.option("--local", is_flag=True, help="Of the store's image instead of the registry's.")


def _place(session: Session, text: str, local: bool = False) -> tuple[Reader, str]:
    """Where an image is, and its name there: a plain name means the registry, or with ``local`` the store."""
    from lamina.places import reader_for

    name = parse_name(text)
    if not name.whole:
        raise UsageError(f"{text!r:.200} is a range of layers", hint="name the whole image")
    network = session.network()
    if name.transport in ("", "docker"):
        if local and not name.transport:
            from lamina.transfer.connect import WithOrigins

            return WithOrigins(session.store, network), name.name
        return network.repository(name.name), str(network.full(name.name))
    return reader_for(name, network), name.name


def _repository(session: Session, text: str) -> tuple[Repository, str]:
    name = parse_name(text)
    if name.transport not in ("", "docker") or not name.whole:
        raise UsageError(f"{text!r:.200} is not a name in a registry", hint="expected like ghcr.io/me/app:1")
    network = session.network()
    return network.repository(name.name), str(network.full(name.name))


@command("tags", "lamina tags debian\nlamina tags ghcr.io/me/app --format json")
@click.argument("repository", metavar="REPOSITORY")
@registry_options
@identity_options
@retry_options
@format_option
@click.pass_obj
def tags(session: Session, repository: str, format: str | None) -> None:
    """List the tags of a repository in its registry, a line each; with --format json as skopeo's `list-tags`."""
    print_tags(session, repository, format)


def print_tags(session: Session, repository: str, format: str | None) -> None:
    """The tags of a repository: a line each, or skopeo's JSON, a table, a template."""
    remote, _ = _repository(session, repository)
    found = remote.tags()
    if format == "json":
        emit_json({"Repository": remote.repository, "Tags": list(found)})
        return
    rows = [{"Tag": clean(tag), "Name": f"{remote.repository}:{clean(tag)}"} for tag in found]
    if format is None:
        for row in rows:
            write(row["Tag"])
    else:
        emit(rows, [("Tag", "TAG")], format)


@command("digest", "lamina digest debian:12\nlamina digest debian:12 --platform linux/arm64")
@_REF
@_LOCAL
@platform_option
@registry_options
@identity_options
@retry_options
@click.option("--full-ref", is_flag=True, help="Print the whole reference by its digest.")
@click.pass_obj
def digest(session: Session, reference: str, local: bool, full_ref: bool) -> None:
    """Print the digest that a reference has in its registry now; with --platform that of the platform's manifest."""
    from lamina.source.select import find_manifest
    from lamina.spec.reference import Reference

    reader, name = _place(session, reference, local)
    if "platform" in session.flags:
        found = find_manifest(reader, reader.resolve(name), session.platform, reference).descriptor.digest
    else:
        head = getattr(reader, "head", reader.resolve)
        found = head(name).digest
    write(f"{Reference.parse(name).repository}@{found}" if full_ref else str(found))


@command("manifest", "lamina manifest debian:12\nlamina manifest debian:12 --platform linux/arm64 | jq .layers")
@_REF
@_LOCAL
@platform_option
@registry_options
@identity_options
@retry_options
@click.pass_obj
def manifest(session: Session, reference: str, local: bool) -> None:
    """Print the bytes of a manifest or index as its registry has them; with --platform that platform's manifest."""
    from lamina.source.select import find_manifest

    reader, name = _place(session, reference, local)
    top = reader.resolve(name)
    if "platform" in session.flags:
        _out(reference, find_manifest(reader, top, session.platform, reference).raw)
    else:
        _out(reference, reader.manifest(top))


def print_config(session: Session, reference: str, local: bool) -> None:
    """The bytes of an image's config as its registry has them, or with ``local`` the store."""
    from lamina.source.select import find_manifest, read_document

    reader, name = _place(session, reference, local)
    found = find_manifest(reader, reader.resolve(name), session.platform, reference)
    raw = read_document(reader, found.config, reference)
    if found.is_image:
        from lamina.spec.image_config import ImageConfig

        session.check_platform(ImageConfig.parse(raw, f"the config of {reference}"), reference)
    _out(reference, raw)


@command("blob", "lamina blob debian@sha256:1f2e... -o layer.tar.gz")
@click.argument("reference", metavar="REPOSITORY@DIGEST")
@_LOCAL
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to (default: stdout).")
@registry_options
@identity_options
@retry_options
@quiet_option
@click.pass_obj
def blob(session: Session, reference: str, local: bool, output: str, quiet: bool) -> None:
    """Print a blob. Its digest is proved as it passes: what is wrong ends with an error, and a file is not left."""
    from lamina.events import BlobDone, BlobStarted
    from lamina.source.verify import verified
    from lamina.spec.reference import Reference

    if output == "-" and sys.stdout.isatty():
        raise UsageError("a blob on a terminal", hint="name a file with -o, or pipe it")
    reader, name = _place(session, reference, local)
    wanted = Reference.parse(name).digest
    if wanted is None:
        raise UsageError(f"{reference!r:.200} has no digest", hint="expected REPOSITORY@sha256:...")
    found = session.store.blobs.descriptor(wanted) if local else _repository(session, reference)[0].stat_blob(wanted)
    with Progress(quiet=quiet or output == "-") as progress, session.interruptible():
        progress(BlobStarted(found.digest, found.size))
        pieces = verified(reader.blob(found), on_event=progress, cancel=session.cancel)
        if output == "-":
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            from lamina.host.files import reported, write_stream

            with reported(output):
                write_stream(output, pieces)
        progress(BlobDone(found.digest, found.size))


@command("delete", "lamina delete ghcr.io/me/app:old\nlamina delete ghcr.io/me/app@sha256:1f2e...")
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@registry_options
@identity_options
@retry_options
@click.pass_obj
def delete(session: Session, references: tuple[str, ...]) -> None:
    """Delete from a registry: a tag, or by digest a manifest and all its tags. (`lamina rmi` is for the store.)"""
    for text in references:
        remote, name = _repository(session, text)
        if not (":" in text.rpartition("/")[2] or "@" in text):
            raise UsageError(
                f"{text!r:.200} names neither a tag nor a digest", hint="say which: nothing is guessed here"
            )
        reference = remote.reference(name)
        if reference.digest is not None:
            found = remote.resolve(name)
            remote.delete(found)
            write(f"deleted: {remote.repository}@{found.digest}")
        else:
            remote.untag(name)
            write(f"untagged: {reference}")


@command("search", "lamina search localhost:5000\nlamina search localhost:5000 'team/*'")
@click.argument("host", metavar="HOST")
@click.argument("pattern", required=False, default="")
@click.option("-l", "--limit", type=click.IntRange(1), help="At most so many.")
@registry_options
@identity_options
@retry_options
@format_option
@click.pass_obj
def search(session: Session, host: str, pattern: str, limit: int | None, format: str | None) -> None:
    """List the repositories of a registry that has a catalog; PATTERN is a part of the name, or has * and ?."""
    from itertools import islice

    from lamina.remote.list import catalog

    wanted = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    names = (name for name in catalog(session.network().client(host)) if fnmatch.fnmatchcase(name, wanted))
    found = list(islice(names, limit))
    if format == "json":
        emit_json(found)
        return
    rows = [{"Name": f"{host}/{clean(name)}"} for name in found]
    if format is None:
        for row in rows:
            write(row["Name"])
    else:
        emit(rows, [("Name", "NAME")], format)


@command("validate", "lamina validate app\nlamina validate docker://debian:12 --all-platforms")
@click.argument("reference", metavar="IMAGE")
@click.option("--all-platforms", is_flag=True, help="Every platform of a multi-platform image.")
@click.option("--remote", is_flag=True, help="A plain name means the registry, also if the store has it.")
@platform_option
@registry_options
@identity_options
@retry_options
@quiet_option
@format_option
@click.pass_obj
def validate(
    session: Session, reference: str, all_platforms: bool, remote: bool, quiet: bool, format: str | None
) -> int:
    """Prove an image where it is: every digest, size and diff_id. A plain name means the store, then the registry.
    Exit code 4 if anything is wrong."""
    from lamina.errors import NotFound
    from lamina.transfer.validate import validate as prove

    try:
        reader, name = _place(session, reference, not remote)
        if not parse_name(reference).transport and not remote:
            reader.resolve(name)
    except NotFound:
        reader, name = _place(session, reference)
    with Progress(quiet=quiet or format is not None) as progress, session.interruptible():
        checked = prove(
            reader,
            name,
            platform=session.platform,
            all_platforms=all_platforms,
            max_layer=session.settings.max_layer,
            on_event=progress,
            cancel=session.cancel,
        )
    bad = [one for one in checked if one.problem]
    if format == "json":
        emit_json(
            [
                {
                    "what": one.what,
                    "digest": str(one.descriptor.digest),
                    "size": one.descriptor.size,
                    "problem": one.problem or None,
                }
                for one in checked
            ]
        )
    elif format is not None or not quiet:
        rows = [
            {
                "What": one.what,
                "Digest": one.descriptor.digest.short,
                "Size": human_size(one.descriptor.size),
                "State": clean(one.problem) or "ok",
            }
            for one in checked
        ]
        columns = [("What", "WHAT"), ("Digest", "DIGEST"), ("Size", "SIZE"), ("State", "STATE")]
        emit(rows, columns, format, right=("Size",))
    return 4 if bad else 0


def _out(name: str, data: bytes) -> None:
    write_contents([(name, io.BytesIO(data))])
