"""Verbs that move images: copy, save, load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lamina.cli.app import command
from lamina.cli.options import (
    format_option,
    image_argument,
    keep_option,
    platform_option,
    quiet_option,
    referrers_option,
    registry_options,
    report_option,
)
from lamina.cli.output import report, write
from lamina.cli.places import source_of, target_of, whole
from lamina.cli.progress import Progress
from lamina.cli.session import Session
from lamina.cli.text import clean
from lamina.errors import UsageError
from lamina.spec.name import ImageName, parse_name

if TYPE_CHECKING:
    from lamina.source import Writer


@command(
    "copy",
    "lamina copy debian:12 oci:./layout:debian\n"
    "lamina copy docker://debian:12 docker://localhost:5000/debian:12 --all-platforms",
)
@image_argument("source")
@image_argument("target")
@click.option("-a", "--all-platforms", "--all", is_flag=True, help="Every platform of a multi-platform image.")
@click.option("--to-root", metavar="DIR", help="TARGET is in the store in this directory (made where missing).")
@keep_option
@referrers_option
@platform_option
@registry_options
@click.option("--src-tls-verify", metavar="true|false", help="As --tls-verify, for SOURCE only.")
@click.option("--dest-tls-verify", metavar="true|false", help="As --tls-verify, for TARGET only.")
@click.option("--src-creds", metavar="USER[:PASSWORD]", help="As --creds, for SOURCE only.")
@click.option("--dest-creds", metavar="USER[:PASSWORD]", help="As --creds, for TARGET only.")
@quiet_option
@format_option
@click.pass_obj
def copy(
    session: Session,
    source: str,
    target: str,
    all_platforms: bool,
    to_root: str | None,
    referrers: bool,
    src_tls_verify: str | None,
    dest_tls_verify: str | None,
    src_creds: str | None,
    dest_creds: str | None,
    quiet: bool,
    format: str | None,
) -> None:
    """Copy an image between the store, registries (docker://), OCI layouts and archives: only what the target lacks,
    digests kept, nothing stored in between."""
    there, here = whole(parse_name(source)), whole(parse_name(target))
    with Progress(quiet=quiet or format is not None) as progress:
        reader, name = source_of(
            session, there, session.network(progress, tls_verify=src_tls_verify, creds=src_creds)
        )
        if to_root is not None:
            if here.transport:
                raise UsageError(f"{target} is not in a store", hint="--to-root goes with a plain name")
            writer: Writer = Session({**session.flags, "root": to_root}).writable_store
            target_name = here.name
        else:
            network = session.network(progress, tls_verify=dest_tls_verify, creds=dest_creds)
            writer, target_name = target_of(session, here, network)
        done = session.copied(
            reader, writer, [(name, target_name)], progress, all_platforms=all_platforms, referrers=referrers
        )
    report(done, format, quiet)


@command("save", "lamina save -o images.tar debian:12 my/app:1\nlamina save my/app:1 | ssh host lamina load")
@image_argument("images", nargs=-1, required=True)
@click.option("-o", "--output", default="-", metavar="FILE", help="Where to (default: stdout).")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["docker-archive", "oci-archive", "oci-dir"]),
    default="docker-archive",
    show_default=True,
    help="docker-archive is for `docker load`; oci-archive keeps digests and platforms.",
)
@click.option("--all-platforms", is_flag=True, help="Every platform of multi-platform images (not docker-archive).")
@platform_option
@quiet_option
@click.pass_obj
def save(session: Session, images: tuple[str, ...], output: str, kind: str, all_platforms: bool, quiet: bool) -> None:
    """Write images into one archive, layers that they share once."""
    if output == "-" and sys.stdout.isatty():
        raise UsageError("an archive on a terminal", hint="name a file with -o, or pipe it")
    if kind == "oci-dir" and output == "-":
        raise UsageError("a directory can't go to stdout", hint="name it with -o")
    names = [whole(parse_name(image)) for image in images]
    transport = "oci" if kind == "oci-dir" else kind
    with Progress(quiet=quiet or output == "-") as progress:
        network = session.network(progress)
        reader, first = source_of(session, names[0], network)
        writer, _ = target_of(session, ImageName(transport, output, ""), network)
        inside = [first, *(name.name for name in names[1:])]
        pairs = [(there, _saved_name(session, name)) for there, name in zip(inside, names, strict=True)]
        session.copied(reader, writer, pairs, progress, all_platforms=all_platforms)


def _saved_name(session: Session, name: ImageName) -> str:
    """The name an image keeps in an archive: its own; none where it was taken by ID or digest."""
    from lamina.errors import LaminaError
    from lamina.spec.reference import Reference

    try:
        reference = Reference.parse(name.name).with_default_tag()
    except LaminaError:
        return ""
    known = {stored for stored, _ in session.store.names()} if not name.transport else {str(reference)}
    return str(reference) if str(reference) in known else ""


@command("load", "lamina load -i images.tar\ncurl -s https://host/app.tar.gz | lamina load")
@click.option(
    "-i",
    "--input",
    "path",
    default="-",
    metavar="FILE",
    help="docker-archive, oci-archive (also by gzip, zstd, bzip2, xz) or layout.",
)
@click.option("-t", "--tag", "tag", metavar="REF", help="The name, where the archive holds one image.")
@click.option("--all-platforms", is_flag=True, help="Every platform of multi-platform images.")
@keep_option
@platform_option
@quiet_option
@report_option
@click.pass_obj
def load(session: Session, path: str, tag: str | None, all_platforms: bool, quiet: bool, format: str | None) -> None:
    """Bring all images of an archive or layout into the store, under the names that they have there."""
    from lamina.archive.detect import open_any
    from lamina.archive.docker import DockerArchiveReader
    from lamina.spec.reference import canonical

    if path == "-" and sys.stdin.isatty():
        raise UsageError("no archive on stdin", hint="name a file with -i, or pipe it")
    reader = open_any(path)
    found = list(reader.names())
    if tag is not None:
        if len({descriptor.digest for _, descriptor in found}) != 1:
            raise UsageError(f"{path} holds {len(found)} images", hint="--tag is for an archive of one")
        pairs = [("", tag)]
    else:
        if isinstance(reader, DockerArchiveReader):
            reader.check_names()
        pairs = [(name or str(descriptor.digest), canonical(name)) for name, descriptor in found]
    with Progress(quiet=quiet or format is not None) as progress:
        done = session.copied(reader, session.writable_store, pairs, progress, all_platforms=all_platforms)
    if format == "json":
        report(done, format, quiet)
    else:
        for image in done:
            write(f"loaded {clean(image.name) or image.descriptor.digest}")
