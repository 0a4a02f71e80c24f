"""Verbs that ask a registry: tags, digest, manifest, blob, delete, search, validate; and the print of `config`."""

from __future__ import annotations

import fnmatch
import sys

import click

from lamina.cli.access import identity_options, retry_options
from lamina.cli.format.output import emit, emit_json, write
from lamina.cli.format.progress import Progress
from lamina.cli.format.text import clean, human_size
from lamina.cli.options import format_option, options_of, platform_option, quiet_option, registry_options
from lamina.cli.registry import plain_queries
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.spec.name import parse_name

_REF = click.argument("reference", metavar="REF")
_LOCAL = options_of([plain_queries.LOCAL])


@command("tags", "lamina tags debian\nlamina tags ghcr.io/me/app --format json")
@click.argument("repository", metavar="REPOSITORY")
@registry_options
@identity_options
@retry_options
@format_option
@click.pass_obj
def tags(session: Session, repository: str, format: str | None) -> None:
    """List the tags of a repository in its registry, one per line. --format json prints the same as `skopeo
    list-tags`."""
    print_tags(session, repository, format)


def print_tags(session: Session, repository: str, format: str | None) -> None:
    """Print the tags of a repository: one per line, or as JSON of skopeo, a table, a template."""
    if format is None:
        plain_queries.print_tags(session, repository)
        return
    remote, _ = plain_queries.repository(session, repository)
    found = remote.tags()
    if format == "json":
        emit_json({"Repository": remote.repository, "Tags": list(found)})
        return
    rows = [{"Tag": clean(tag), "Name": f"{remote.repository}:{clean(tag)}"} for tag in found]
    emit(rows, [("Tag", "TAG")], format)


@command("digest", "lamina digest debian:12\nlamina digest debian:12 --platform linux/arm64")
@_REF
@options_of(plain_queries.OPTIONS["digest"])
@platform_option
@registry_options
@identity_options
@retry_options
@click.pass_obj
def digest(session: Session, reference: str, local: bool, full_ref: bool) -> None:
    """Print the current digest of a reference in its registry; with --platform, the digest of the manifest for that
    platform."""
    plain_queries.print_digest(session, reference, local=local, full_ref=full_ref)


@command("manifest", "lamina manifest debian:12\nlamina manifest debian:12 --platform linux/arm64 | jq .layers")
@_REF
@options_of(plain_queries.OPTIONS["manifest"])
@platform_option
@registry_options
@identity_options
@retry_options
@click.pass_obj
def manifest(session: Session, reference: str, local: bool) -> None:
    """Print a manifest or index, with the exact bytes of the registry; with --platform, the manifest for that
    platform."""
    plain_queries.print_manifest(session, reference, local=local)


def print_config(session: Session, reference: str, local: bool) -> None:
    """Print the exact bytes of an image's config in its registry, or with ``local`` in the store."""
    from lamina.source.select import find_manifest, read_document

    reader, name = plain_queries.reader_of(session, reference, local)
    found = find_manifest(reader, reader.resolve(name), session.platform, reference)
    raw = read_document(reader, found.config, reference)
    if found.is_image:
        from lamina.spec.image_config import ImageConfig

        session.check_platform(ImageConfig.parse(raw, f"the config of {reference}"), reference)
    plain_queries.print_bytes(reference, raw)


@command("blob", "lamina blob debian@sha256:1f2e... -o layer.tar.gz")
@click.argument("reference", metavar="REPOSITORY@DIGEST")
@_LOCAL
@click.option("-o", "--output", metavar="FILE", default="-", help="Write to this file (default: standard output).")
@registry_options
@identity_options
@retry_options
@quiet_option
@click.pass_obj
def blob(session: Session, reference: str, local: bool, output: str, quiet: bool) -> None:
    """Print a blob of a registry, or write it to a file. The digest is checked at the same time; if it is wrong, the
    command fails and leaves no file."""
    from lamina.events import BlobDone, BlobStarted
    from lamina.source.verify import verified
    from lamina.spec.reference import Reference

    if output == "-" and sys.stdout.isatty():
        raise UsageError("blob does not write to a terminal", hint="name a file with -o, or pipe it")
    reader, name = plain_queries.reader_of(session, reference, local)
    wanted = Reference.parse(name).digest
    if wanted is None:
        raise UsageError(f"{reference!r:.200} has no digest", hint="write it like REPOSITORY@sha256:...")
    found = (
        session.store.blobs.descriptor(wanted)
        if local
        else plain_queries.repository(session, reference)[0].stat_blob(wanted)
    )
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
    """Delete from a registry: a tag, or with a digest a manifest and all its tags. (`lamina rmi` removes images from
    the store.)"""
    for text in references:
        remote, name = plain_queries.repository(session, text)
        if not (":" in text.rpartition("/")[2] or "@" in text):
            raise UsageError(
                f"{text!r:.200} has no tag and no digest", hint="add a tag or a digest; delete does not assume latest"
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
@click.option("-l", "--limit", type=click.IntRange(1), help="List at most this many.")
@registry_options
@identity_options
@retry_options
@format_option
@click.pass_obj
def search(session: Session, host: str, pattern: str, limit: int | None, format: str | None) -> None:
    """List the repositories of a registry (if it has a catalog). PATTERN is a part of the name, or a glob with * and
    ?."""
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
@click.option("--all-platforms", is_flag=True, help="Check every platform of a multi-platform image.")
@click.option("--remote", is_flag=True, help="A plain name means the registry, even if the store has the image.")
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
    """Check every digest, size and diff_id of an image where it is. A plain name means the store, or else the
    registry. The exit code is 4 if anything is wrong."""
    from lamina.errors import NotFound
    from lamina.transfer.validate import validate as prove

    try:
        reader, name = plain_queries.reader_of(session, reference, not remote)
        if not parse_name(reference).transport and not remote:
            reader.resolve(name)
    except NotFound:
        reader, name = plain_queries.reader_of(session, reference)
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
