"""Verbs that move images: copy, save, load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

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
from lamina.spec.transport import SAVE_TYPES, transport_of_type
from lamina.store.image_events import note_image

if TYPE_CHECKING:
    from lamina.source.protocols import Reader, Writer
    from lamina.transfer.copy import Copied


MANIFEST_FORMATS = ("oci", "v2s1", "v2s2")
_MULTI_ARCH = ("system", "all", "index-only")


def _copy_format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check ``--format``: a manifest format of skopeo, or the format of the report."""
    return check_format(value, MANIFEST_FORMATS)


_FORMAT = click.option(
    "-f",
    "--format",
    metavar="oci|v2s2|json|table|TEMPLATE",
    callback=_copy_format,
    help="oci, v2s2: convert the manifest to the format of OCI or docker. Others: format of the report.",
)


def transfer_options(function: Any) -> Any:
    """Add the options that `copy` and `sync` share: what is copied with an image, how the registries are accessed,
    and what is printed."""
    for option in (
        _FORMAT,
        quiet_option,
        retry_options,
        sided_options,
        identity_options,
        registry_options,
        platform_option,
        referrers_option,
    ):
        function = option(function)
    return function


@command(
    "copy",
    "lamina copy debian:12 oci:./layout:debian\n"
    "lamina copy docker://debian:12 docker://localhost:5000/debian:12 --all-platforms\n"
    "lamina copy --src-creds me:secret --dest-tls-verify=false docker://ghcr.io/me/app docker://mirror.local/app",
)
@image_argument("source")
@image_argument("target")
@click.option("-a", "--all-platforms", "--all", is_flag=True, help="Copy every platform of a multi-platform image.")
@click.option(
    "--multi-arch",
    type=click.Choice(_MULTI_ARCH),
    help="What to copy of a multi-platform image: this host's platform (default), all, or only the index.",
)
@click.option(
    "--to-root", metavar="DIR", help="TARGET is in the store in this directory, which is created if it is missing."
)
@click.option(
    "--additional-tag", "tags", multiple=True, metavar="REF", help="Add another name at TARGET; may be repeated."
)
@click.option("--digestfile", metavar="FILE", help="Write the digest at TARGET to this file.")
@click.option("--preserve-digests", is_flag=True, help="Fail if the digest would change.")
@keep_option
@transfer_options
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
    """Copy an image between the store, registries (docker://), OCI layouts and archives. Only blobs that the target
    lacks are copied, digests stay the same, and nothing is stored in between. A plain name is an image in the
    store."""
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
                raise UsageError(
                    f"--to-root needs a plain name, not {target}", hint="give a name like app:1 as TARGET"
                )
            writer: Writer = Session({**session.flags, "root": to_root}).writable_store
            target_name = here.name
        else:
            writer, target_name = target_of(session, here, session.network(progress, "dest"))
        if preserve_digests and here.transport == "docker-archive":
            raise UsageError("a docker-archive can't keep the digest", hint="use oci-archive: or oci: instead")
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
    """Return the further names of a copied image: tags of its repository, or full references."""
    from lamina.spec.reference import Reference

    if tags and target.transport not in ("", "docker", "docker-archive"):
        raise UsageError(
            f"--additional-tag can't be used with {target}",
            hint="use it with the store, docker:// or docker-archive:",
        )
    names = []
    for tag in tags:
        own = Reference.parse(name).repository if name else ""
        names.append(tag if "/" in tag or ":" in tag or not own else f"{own}:{tag}")
    return names


def converted(session: Session, reader: Reader, kind: str, every: bool, preserve: bool) -> Reader:
    """Return a reader that converts the manifests of another one."""
    from lamina.transfer.convert import FORMATS, Converted

    if kind not in FORMATS:
        raise Unsupported(
            f"manifest format {kind} can't be written", hint="use v2s2; this format was retired in 2017"
        )
    return Converted(reader, FORMATS[kind], platform=None if every else session.platform, preserve=preserve)


def write_digest(path: str | None, copied: Copied) -> None:
    """Write the digest to a file, as skopeo and podman do."""
    from lamina.host.files import reported, write_named

    if path is not None:
        with reported(path):
            write_named(path, str(copied.descriptor.digest).encode())


@command("save", "lamina save -o images.tar debian:12 my/app:1\nlamina save my/app:1 | ssh host lamina load")
@image_argument("images", nargs=-1, required=True)
@click.option("-o", "--output", default="-", metavar="FILE", help="Write to this file (default: standard output).")
@click.option(
    "--type",
    "kind",
    type=click.Choice(sorted(SAVE_TYPES)),
    default="docker-archive",
    show_default=True,
    help="Format. docker-archive is for `docker load`; oci-archive keeps digests and platforms.",
)
@click.option(
    "--all-platforms", is_flag=True, help="Save every platform of multi-platform images (not in a docker-archive)."
)
@platform_option
@quiet_option
@click.pass_obj
def save(session: Session, images: tuple[str, ...], output: str, kind: str, all_platforms: bool, quiet: bool) -> None:
    """Write images into one archive. Layers that they share are written once."""
    if output == "-" and sys.stdout.isatty():
        raise UsageError("save does not write an archive to a terminal", hint="name a file with -o, or pipe it")
    if kind == "oci-dir" and output == "-":
        raise UsageError("oci-dir needs a directory", hint="name it with -o")
    names = [whole(parse_name(image)) for image in images]
    transport = transport_of_type(kind).name
    with Progress(quiet=quiet or output == "-", moved="written") as progress:
        network = session.network(progress)
        reader, first = source_of(session, names[0], network)
        writer, _ = target_of(session, ImageName(transport, output, ""), network)
        inside = [first, *(name.name for name in names[1:])]
        pairs = [(there, _saved_name(session, name)) for there, name in zip(inside, names, strict=True)]
        done = session.copied(reader, writer, pairs, progress, all_platforms=all_platforms)
    for image in done if not names[0].transport else ():
        note_image(session.store, "save", image.descriptor)


def _saved_name(session: Session, name: ImageName) -> str:
    """Return the name of an image in an archive: its own, or "" if it was selected by ID or digest."""
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
    help="File or directory: docker-archive, oci-archive (also compressed with gzip, zstd, bzip2, xz) or layout "
    "(default: standard input).",
)
@click.option("-t", "--tag", "tag", metavar="REF", help="Name for the image, if the archive has only one.")
@click.option("--all-platforms", is_flag=True, help="Load every platform of multi-platform images.")
@keep_option
@platform_option
@quiet_option
@report_option
@click.pass_obj
def load(session: Session, path: str, tag: str | None, all_platforms: bool, quiet: bool, format: str | None) -> None:
    """Load all images of an archive or layout into the store. They keep their names."""
    from lamina.archive.detect import open_any

    if path == "-" and sys.stdin.isatty():
        raise UsageError("load does not read an archive from a terminal", hint="name a file with -i, or pipe it in")
    reader = open_any(path)
    if tag is None:
        pairs = all_named(reader)
    else:
        found = list(reader.names())
        if len({descriptor.digest for _, descriptor in found}) != 1:
            raise UsageError(
                f"--tag needs an archive with one image; {path} has {len(found)}", hint="leave --tag out"
            )
        pairs = [("", tag)]
    with Progress(quiet=quiet or format is not None, moved="loaded") as progress:
        done = session.copied(reader, session.writable_store, pairs, progress, all_platforms=all_platforms)
    for image in done:
        note_image(session.store, "load", image.descriptor)
    if format == "json":
        report(done, format, quiet)
    else:
        for image in done:
            write(f"loaded {clean(image.name) or image.descriptor.digest}")
