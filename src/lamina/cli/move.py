"""Verbs that move images: copy, save, load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lamina.cli.app import command
from lamina.cli.options import format_option, image_argument, platform_option, quiet_option
from lamina.cli.output import emit, emit_json, write
from lamina.cli.progress import Progress
from lamina.cli.session import Session
from lamina.cli.text import clean, human_size
from lamina.errors import Unsupported, UsageError
from lamina.spec.name import ImageName, parse_name

if TYPE_CHECKING:
    from lamina.source import Reader, Writer
    from lamina.transfer.copy import Copied


def _source(session: Session, name: ImageName) -> Reader:
    from lamina.image import reader_for

    return reader_for(name) if name.transport else session.store


def _target(session: Session, name: ImageName) -> Writer:
    if not name.whole:
        raise UsageError(f"{name} is a range of layers", hint="a target is a whole image")
    if name.transport == "oci":
        from lamina.archive.layout import LayoutWriter

        return LayoutWriter(name.location)
    if name.transport == "oci-archive":
        from lamina.archive.oci import OciArchiveWriter

        return OciArchiveWriter(name.location)
    if name.transport == "docker-archive":
        from lamina.archive.docker import DockerArchiveWriter

        return DockerArchiveWriter(name.location)
    if name.transport:
        raise Unsupported(f"images are not written to {name.transport}: yet", hint="save to an oci-archive")
    return session.writable_store


def _whole(name: ImageName) -> ImageName:
    if not name.whole:
        raise UsageError(f"{name} is a range of layers", hint="only whole images are moved")
    return name


@command("copy", "lamina copy debian:12 oci:./layout:debian\nlamina copy oci-archive:app.tar my/app:1")
@image_argument("source")
@image_argument("target")
@click.option("--all-platforms", is_flag=True, help="Every platform of a multi-platform image.")
@click.option("--to-root", metavar="DIR", help="TARGET is in the store in this directory (made where missing).")
@platform_option
@quiet_option
@format_option
@click.pass_obj
def copy(
    session: Session,
    source: str,
    target: str,
    all_platforms: bool,
    to_root: str | None,
    quiet: bool,
    format: str | None,
) -> None:
    """Copy an image between the store, OCI layouts and archives: only what the target lacks, digests kept."""
    from lamina.transfer.copy import copy as move

    there, here = _whole(parse_name(source)), _whole(parse_name(target))
    reader = _source(session, there)
    if to_root is not None:
        if here.transport:
            raise UsageError(f"{target} is not in a store", hint="--to-root goes with a plain name")
        writer: Writer = Session({**session.flags, "root": to_root}).writable_store
    else:
        writer = _target(session, here)
    with Progress(quiet=quiet or format is not None) as progress:
        done = move(
            reader,
            writer,
            [(there.name, here.name)],
            platform=session.platform,
            all_platforms=all_platforms,
            on_event=progress,
        )
    _report(done, format, quiet)


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
    from lamina.transfer.copy import copy as move

    if output == "-" and sys.stdout.isatty():
        raise UsageError("an archive on a terminal", hint="name a file with -o, or pipe it")
    if kind == "oci-dir" and output == "-":
        raise UsageError("a directory can't go to stdout", hint="name it with -o")
    names = [_whole(parse_name(image)) for image in images]
    transport = "oci" if kind == "oci-dir" else kind
    reader = _source(session, names[0])
    writer = _target(session, ImageName(transport, output, ""))
    pairs = [(name.name, _saved_name(session, name)) for name in names]
    with Progress(quiet=quiet or output == "-") as progress:
        move(reader, writer, pairs, platform=session.platform, all_platforms=all_platforms, on_event=progress)


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
    help="docker-archive, oci-archive (also gzip, zstd) or layout.",
)
@click.option("-t", "--tag", "tag", metavar="REF", help="The name, where the archive holds one image.")
@click.option("--all-platforms", is_flag=True, help="Every platform of multi-platform images.")
@platform_option
@quiet_option
@format_option
@click.pass_obj
def load(session: Session, path: str, tag: str | None, all_platforms: bool, quiet: bool, format: str | None) -> None:
    """Bring all images of an archive or layout into the store, under the names that they have there."""
    from lamina.archive.detect import open_any
    from lamina.spec.reference import canonical
    from lamina.transfer.copy import copy as move

    if path == "-" and sys.stdin.isatty():
        raise UsageError("no archive on stdin", hint="name a file with -i, or pipe it")
    reader = open_any(path)
    found = list(reader.names())
    if tag is not None:
        if len({descriptor.digest for _, descriptor in found}) != 1:
            raise UsageError(f"{path} holds {len(found)} images", hint="--tag is for an archive of one")
        pairs = [("", tag)]
    else:
        pairs = [(name or str(descriptor.digest), canonical(name)) for name, descriptor in found]
    with Progress(quiet=quiet or format is not None) as progress:
        done = move(
            reader,
            session.writable_store,
            pairs,
            platform=session.platform,
            all_platforms=all_platforms,
            on_event=progress,
        )
    if format == "json":
        _report(done, format, quiet)
    else:
        for image in done:
            write(f"loaded {clean(image.name) or image.descriptor.digest}")


def _report(done: list[Copied], format: str | None, quiet: bool) -> None:
    """The table "fetched / already here"."""
    rows = [
        {
            "Image": clean(image.name),
            "What": moved.what,
            "Digest": moved.descriptor.digest.short,
            "Size": human_size(moved.descriptor.size),
            "State": "already here" if moved.reused else "fetched",
        }
        for image in done
        for moved in image.blobs
    ]
    if format == "json":
        emit_json(
            [
                {
                    "name": image.name,
                    "digest": str(image.descriptor.digest),
                    "blobs": [
                        {
                            "what": moved.what,
                            "digest": str(moved.descriptor.digest),
                            "size": moved.descriptor.size,
                            "reused": moved.reused,
                        }
                        for moved in image.blobs
                    ],
                }
                for image in done
            ]
        )
    elif format is not None or not quiet:
        columns = [("What", "WHAT"), ("Digest", "DIGEST"), ("Size", "SIZE"), ("State", "STATE")]
        emit(rows, columns, format, right=("Size",))
