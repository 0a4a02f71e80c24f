"""Verbs that move images: copy, save, load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lamina.cli.access import identity_options, retry_options, sided_options
from lamina.cli.format.output import report, write
from lamina.cli.format.progress import Progress
from lamina.cli.format.text import clean
from lamina.cli.options import (
    check_format,
    image_argument,
    keep_option,
    platform_option,
    quiet_option,
    referrers_option,
    registry_options,
    report_option,
)
from lamina.cli.place_names import all_named, source_of, target_of, whole
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import Unsupported, UsageError
from lamina.spec.name import ImageName, parse_name

if TYPE_CHECKING:
    from lamina.source.protocols import Reader, Writer
    from lamina.transfer.copy import Copied


MANIFEST_FORMATS = ("oci", "v2s1", "v2s2")
_MULTI_ARCH = ("system", "all", "index-only")


def _copy_format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """skopeo's formats of manifests, or one of a report."""
    return check_format(value, MANIFEST_FORMATS)


COPY_FORMAT = click.option(
    "-f",
    "--format",
    metavar="oci|v2s2|json|table|TEMPLATE",
    callback=_copy_format,
    help="oci or v2s2: convert the manifest to OCI's or docker's format. Else the form of the report.",
)


@command(
    "copy",
    "lamina copy debian:12 oci:./layout:debian\n"
    "lamina copy docker://debian:12 docker://localhost:5000/debian:12 --all-platforms\n"
    "lamina copy --src-creds me:secret --dest-tls-verify=false docker://ghcr.io/me/app docker://mirror.local/app",
)
@image_argument("source")
@image_argument("target")
@click.option("-a", "--all-platforms", "--all", is_flag=True, help="Every platform of a multi-platform image.")
@click.option(
    "--multi-arch",
    type=click.Choice(_MULTI_ARCH),
    help="Of a multi-platform image: this machine's platform (the default), all, or only the index itself.",
)
@click.option("--to-root", metavar="DIR", help="TARGET is in the store in this directory (made where missing).")
@click.option("--additional-tag", "tags", multiple=True, metavar="REF", help="One more name at TARGET.")
@click.option("--digestfile", metavar="FILE", help="Write the digest at TARGET to this file.")
@click.option("--preserve-digests", is_flag=True, help="Fail where TARGET can't keep the digest.")
@keep_option
@referrers_option
@platform_option
@registry_options
@identity_options
@sided_options
@retry_options
@quiet_option
@COPY_FORMAT
@click.pass_obj
def copy(
    session: Session,
    source: str,
    target: str,
    all_platforms: bool,
    multi_arch: str | None,
    to_root: str | None,
    tags: tuple[str, ...],
    digestfile: str | None,
    preserve_digests: bool,
    referrers: bool,
    quiet: bool,
    format: str | None,
) -> None:
    """Copy an image between the store, registries (docker://), OCI layouts and archives: only what the target lacks,
    digests kept, nothing stored in between."""
    there, here = whole(parse_name(source)), whole(parse_name(target))
    every = all_platforms or multi_arch == "all"
    kind, format = (format, None) if format in MANIFEST_FORMATS else (None, format)
    moved, at_target = "copied", "already there"
    with Progress(quiet=quiet or format is not None, moved=moved, there=at_target) as progress:
        reader, name = source_of(session, there, session.network(progress, "src"))
        if kind is not None:
            reader = converted(session, reader, kind, every, preserve_digests)
        if to_root is not None:
            if here.transport:
                raise UsageError(f"{target} is not in a store", hint="--to-root goes with a plain name")
            writer: Writer = Session({**session.flags, "root": to_root}).writable_store
            target_name = here.name
        else:
            writer, target_name = target_of(session, here, session.network(progress, "dest"))
        if preserve_digests and here.transport == "docker-archive":
            raise UsageError("a docker-archive keeps no digests", hint="write an oci-archive, or a layout")
        done = session.copied(
            reader,
            writer,
            [(name, one) for one in (target_name, *_more_names(here, target_name, tags))],
            progress,
            all_platforms=every,
            index_only=multi_arch == "index-only",
            referrers=referrers,
        )
    write_digest(digestfile, done[0])
    report(done, format, quiet or progress.lists_blobs, moved=moved, there=at_target)


def _more_names(target: ImageName, name: str, tags: tuple[str, ...]) -> list[str]:
    """Further names of a copied image: tags of its repository, or whole references of it."""
    from lamina.spec.reference import Reference

    if tags and target.transport not in ("", "docker", "docker-archive"):
        raise UsageError(f"{target} takes no further tag", hint="--additional-tag goes with a repository")
    names = []
    for tag in tags:
        own = Reference.parse(name).repository if name else ""
        names.append(tag if "/" in tag or ":" in tag or not own else f"{own}:{tag}")
    return names


def converted(session: Session, reader: Reader, kind: str, every: bool, preserve: bool) -> Reader:
    """What the place has, in another manifest format."""
    from lamina.transfer.convert import FORMATS, Converted

    if kind not in FORMATS:
        raise Unsupported(f"manifests are not written as {kind}", hint="that format was retired in 2017; take v2s2")
    return Converted(reader, FORMATS[kind], platform=None if every else session.platform, preserve=preserve)


def write_digest(path: str | None, copied: Copied) -> None:
    """The digest alone, as skopeo and podman write it."""
    from lamina.host.files import replace_file, reported

    if path is not None:
        with reported(path):
            replace_file(path, [str(copied.descriptor.digest).encode()])


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
    with Progress(quiet=quiet or output == "-", moved="written") as progress:
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

    if path == "-" and sys.stdin.isatty():
        raise UsageError("no archive on stdin", hint="name a file with -i, or pipe it")
    reader = open_any(path)
    if tag is None:
        pairs = all_named(reader)
    else:
        found = list(reader.names())
        if len({descriptor.digest for _, descriptor in found}) != 1:
            raise UsageError(f"{path} holds {len(found)} images", hint="--tag is for an archive of one")
        pairs = [("", tag)]
    with Progress(quiet=quiet or format is not None, moved="loaded") as progress:
        done = session.copied(reader, session.writable_store, pairs, progress, all_platforms=all_platforms)
    if format == "json":
        report(done, format, quiet)
    else:
        for image in done:
            write(f"loaded {clean(image.name) or image.descriptor.digest}")
