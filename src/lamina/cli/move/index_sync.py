"""Verbs for many images: index, sync."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from lamina.cli import warn
from lamina.cli.format.output import emit, emit_json, write
from lamina.cli.format.progress import Progress
from lamina.cli.format.text import clean
from lamina.cli.move.copy import MANIFEST_FORMATS, converted, transfer_options
from lamina.cli.options import name_and_value, quiet_option, registry_options
from lamina.cli.place_names import source_of, target_of, whole
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group, command
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.spec.name import parse_name
from lamina.spec.transport import IN_FILES, REGISTRY, TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lamina.source.protocols import Reader, Writer
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.digest import Digest
    from lamina.spec.manifest import Index
    from lamina.transfer.connect import RegistryAccess
    from lamina.transfer.sync import Named, SyncRule

_LOCAL = tuple(one.prefix for one in IN_FILES)
"""What names of places in files begin with."""


@click.group("index", cls=Group, short_help=VERBS["index"][2])
def index() -> None:
    """Make an index: images for several platforms under one name.

    \b
    Example:
      lamina index create ghcr.io/me/app:1 ghcr.io/me/app:1-amd64 ghcr.io/me/app:1-arm64
    """


def _index_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="Add an annotation to the index."
        ),
        registry_options,
        quiet_option,
    ):
        function = option(function)
    return function


@index.command("create", cls=Command)
@click.argument("target")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_index_options
@click.pass_obj
def create(session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool) -> None:
    """Make a new index of these images. TARGET and IMAGE are written as in `lamina copy`; a plain name is in the
    store.

    \b
    Example:
      lamina index create app:1 docker://ghcr.io/me/app:1-amd64 docker://ghcr.io/me/app:1-arm64
      lamina index create docker://ghcr.io/me/app:1 app:amd64 app:arm64
    """
    _make(session, target, images, annotations, quiet, add=False)


@index.command("add", cls=Command)
@click.argument("target")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_index_options
@click.pass_obj
def add(session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool) -> None:
    """Add images to the index TARGET. An image replaces one that the index has for the same platform.

    \b
    Example:
      lamina index add docker://ghcr.io/me/app:1 app:riscv64
    """
    _make(session, target, images, annotations, quiet, add=True)


def _make(
    session: Session, target: str, images: tuple[str, ...], annotations: tuple[str, ...], quiet: bool, *, add: bool
) -> None:
    from lamina.transfer.make_index import make_index

    stated = dict(name_and_value(text, "--annotation") for text in annotations)
    with Progress(quiet=quiet) as progress, session.interruptible():
        network = session.network(progress)
        there = whole(parse_name(target))
        known = _known(session, target) if add else None
        writer, name = target_of(session, there, network)
        sources = [source_of(session, whole(parse_name(image)), network) for image in images]
        made = make_index(
            sources, writer, name, known=known, annotations=stated, on_event=progress, cancel=session.cancel
        )
    assert made is not None  # nothing was refused: no ``admit`` was given
    write(str(made.descriptor.digest))


def _known(session: Session, target: str) -> Index:
    from lamina.spec.manifest import Index as Kind
    from lamina.spec.manifest import parse

    reader, name = source_of(session, whole(parse_name(target)), session.network())
    top = reader.resolve(name)
    document = parse(reader.manifest(top), top.media_type, target)
    if not isinstance(document, Kind):
        raise UsageError(f"{target} is an image, not an index", hint="make an index with `lamina index create`")
    return document


_FROM = (*(one.name for one in TRANSPORTS), "yaml")
_TO = tuple(one.name for one in TRANSPORTS if one.can_grow)


@command(
    "sync",
    "lamina sync images.yaml docker://mirror.local:5000/hub --all-platforms\n"
    "lamina sync 'docker://ghcr.io/me/app:v1.*' oci:./air-gap\n"
    "lamina sync oci:./air-gap docker://inside.local/hub\n"
    "lamina sync --all --keep-path docker-registry:/var/lib/registry docker://new.local:5000\n"
    "lamina sync --src docker --dest dir ghcr.io/me/app /media/usb",
)
@click.argument("source", metavar="SOURCE")
@click.argument("target", required=False, default="")
@click.option("-s", "--src", "kind", type=click.Choice(_FROM), help="Type of SOURCE, as in skopeo.")
@click.option("-d", "--dest", "target_kind", type=click.Choice(_TO), help="Type of TARGET, as in skopeo.")
@click.option("-a", "--all-platforms", "--all", is_flag=True, help="Copy every platform of multi-platform images.")
@click.option("--scoped", is_flag=True, help="Keep the full source name below TARGET.")
@click.option("--keep-path", is_flag=True, help="Keep the path of the source name below TARGET, without its host.")
@click.option(
    "--untagged", is_flag=True, help="Of a docker-registry:DIR, copy the manifests without a tag too, by digest."
)
@click.option("--append-suffix", default="", metavar="TEXT", help="Add this to each tag at TARGET.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be copied.")
@click.option(
    "--keep-going", is_flag=True, help="Continue with the other images if one fails; the exit code is then 1."
)
@click.option(
    "--digestfile", metavar="FILE", help="Write one line per image to this file: its digest and its name at TARGET."
)
@click.option("--preserve-digests", is_flag=True, help="Fail if a digest would change.")
@transfer_options
@click.pass_obj
def sync(
    session: Session,
    source: str,
    target: str,
    kind: str | None,
    target_kind: str | None,
    all_platforms: bool,
    scoped: bool,
    keep_path: bool,
    untagged: bool,
    append_suffix: str,
    dry_run: bool,
    keep_going: bool,
    digestfile: str | None,
    preserve_digests: bool,
    referrers: bool,
    quiet: bool,
    format: str | None,
) -> int:
    """Copy many images. SOURCE is a YAML file (a list, or the form of skopeo; - is standard input), a pattern
    docker://HOST/REPOSITORY:TAG with * and ?, or oci:DIR, oci-archive:FILE, docker-archive:FILE, dir:DIR or
    docker-registry:DIR with all its images. TARGET is docker://HOST[/PATH], oci:DIR or dir:DIR; without TARGET the
    images go into the store."""
    from lamina.host.files import reported, write_named
    from lamina.spec.reference import canonical
    from lamina.transfer.copy import SessionWriter

    if target_kind and not target:
        raise UsageError(f"--dest {target_kind} needs a TARGET", hint="add it, or leave --dest out")
    if scoped and keep_path:
        raise UsageError("--scoped and --keep-path exclude each other", hint="leave one of them out")
    source, target = _typed(source, kind), _typed(target, target_kind)
    manifests, format = (format, None) if format in MANIFEST_FORMATS else (None, format)
    results: list[dict[str, str]] = []
    lines: list[str] = []
    taken: dict[str, str] = {}  # by name at TARGET
    failed = False
    with Progress(quiet=quiet or format is not None) as progress, session.interruptible(), ExitStack() as held:
        together: Writer | None = None
        known: dict[str, Digest] | None = None  # digests by name, if one session brings in all
        if not target and not dry_run and source.startswith(_LOCAL):
            writing = held.enter_context(session.writable_store.session(f"sync {source}"))
            held.enter_context(writing.batch())
            together = SessionWriter(writing)
            known = {name: top.digest for name, top in session.store.names()}

        def move(reader: Reader, image: Named, there: str) -> str:
            if dry_run:
                return "would be copied"
            writer, inside = target_of(session, parse_name(there), session.network(progress, "dest"))
            writer = together or writer
            full = canonical(inside) or inside
            before = _digest(writer, inside) if known is None else known.get(full)
            if (
                before is not None
                and manifests is None
                and not referrers
                and _same(reader, image.inside, writer, before)
            ):
                lines.append(f"{before} {there}\n")
                return "already there"
            if manifests is not None:
                reader = converted(session, reader, manifests, all_platforms, preserve_digests)
            done = session.copied(
                reader, writer, [(image.inside, inside)], progress, all_platforms=all_platforms, referrers=referrers
            )
            lines.append(f"{done[0].descriptor.digest} {there}\n")
            if known is not None:
                known[full] = done[0].descriptor.digest
            return "already there" if before == done[0].descriptor.digest else "copied"

        def went_wrong(error: LaminaError, name: str, there: str = "") -> None:
            nonlocal failed
            if not keep_going or error.exit_code == 130:
                raise error
            failed = True
            if quiet and format is None:  # otherwise the table shows it
                warn(f"{name} was left out: {error}")
            results.append({"source": name, "target": there, "state": f"failed: {error}"})

        for name, found in _sources(session, source, progress, untagged):
            try:
                for reader, image in found():
                    there = ""
                    try:
                        there = _there(image, target, scoped, keep_path, append_suffix)
                        if taken.setdefault(there, image.inside) != image.inside:
                            raise UsageError(
                                f"{image.inside} and {taken[there]} have the same name at the target: {there}",
                                hint="use --keep-path or --scoped, which keep more of the source name",
                            )
                        results.append({"source": image.full, "target": there, "state": move(reader, image, there)})
                    except LaminaError as error:
                        went_wrong(error, image.full, there)
            except LaminaError as error:
                went_wrong(error, name)
    if digestfile is not None:
        with reported(digestfile):
            write_named(digestfile, "".join(lines).encode())
    if format == "json":
        emit_json(results)
    elif format is not None or not quiet:
        rows = [{key.title(): clean(text) for key, text in row.items()} for row in results]
        emit(rows, [("Source", "SOURCE"), ("Target", "TARGET"), ("State", "STATE")], format)
    return 1 if failed else 0


def _typed(place: str, kind: str | None) -> str:
    """A place in skopeo's two words as one of ours. Raises UsageError where the two contradict each other."""
    if kind in (None, "yaml"):
        return place
    start = next(one.prefix for one in TRANSPORTS if one.name == kind)
    if place.startswith(start):
        return place
    if place.startswith((*(one.prefix for one in TRANSPORTS), "yaml:")):
        raise UsageError(
            f"{place!r:.200} does not begin with {start}", hint=f"leave the option out, or write {start}..."
        )
    return start + place


def _sources(
    session: Session, source: str, progress: Progress, untagged: bool
) -> Iterator[tuple[str, Callable[[], Iterator[tuple[Reader, Named]]]]]:
    """Yield a name for messages and a function for the images: of each line of a file or pattern, or of a local
    place."""
    from lamina.transfer.sync import expand

    if source.startswith(_LOCAL) and not source.endswith(":"):
        yield source, partial(_held, session, source, untagged)
        return
    if untagged:
        raise UsageError("--untagged needs docker-registry:DIR", hint="other sources do not list such manifests")
    for wanted in _wanted(source):
        network = session.network(progress, "src", wanted.access)

        def found(wanted: SyncRule = wanted, network: RegistryAccess = network) -> Iterator[tuple[Reader, Named]]:
            from lamina.transfer.sync import Named

            for reference in expand(wanted, network):
                yield network.repository(str(reference)), Named.of(reference)

        yield wanted.repository, found


def _held(session: Session, source: str, untagged: bool) -> Iterator[tuple[Reader, Named]]:
    """Yield the images of a layout, an archive, a directory of image directories, or the storage of a
    docker-registry. Raises UsageError, NotFound."""
    from lamina.archive.dir_layout import DirectoryReader
    from lamina.archive.docker_registry import DockerRegistryReader
    from lamina.places import reader_for
    from lamina.transfer.sync import image_directories, named_below, named_in

    place = parse_name(source)
    if untagged and place.transport != "docker-registry":
        raise UsageError("--untagged needs docker-registry:DIR", hint="other sources do not list such manifests")
    if place.transport == "dir":
        empty = True
        for path, image in image_directories(place.location):
            empty = False
            yield DirectoryReader(path), image
        if empty:
            raise NotFound(
                f"no image directories in {place.location!r:.300}",
                hint="name a directory whose subdirectories have a manifest.json",
            )
        return
    if place.name:
        raise UsageError(
            f"{source!r:.200} is a single image", hint="use `lamina copy`, or leave the name out to copy all images"
        )
    reader: Any = reader_for(place, session.network())
    if isinstance(reader, DockerRegistryReader):  # by name: a damaged image fails alone
        for image in named_below(reader.tagged()):
            yield reader, image
        for image in named_below(reader.untagged() if untagged else ()):
            yield reader, image
        return
    for image in named_in(reader.names(), source):
        yield reader, image


def _wanted(source: str) -> list[SyncRule]:
    """Parse the lines of a file, or one pattern."""
    from lamina.host.files import reported
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
    """Return the digest that a name has at a place now; None if there is none, or the place can't say."""
    from lamina.errors import NotFound

    resolve = getattr(place, "head", None) or getattr(place, "resolve", None)
    try:
        found: Descriptor | None = resolve(name) if resolve is not None else None
    except NotFound:
        return None
    return found.digest if found is not None else None


def _same(reader: Reader, name: str, writer: Writer, there: Digest) -> bool:
    """Whether a registry has the same image or index under this name; then it is complete there. Asks the source only
    for the digest, with HEAD if possible."""
    return not writer.accepts.sparse and _digest(reader, name) == there


def _there(image: Named, target: str, scoped: bool, keep_path: bool, suffix: str) -> str:
    """Return the name at the target: below its prefix in a registry or directory, else the full name."""
    if not target:
        return image.full
    place = parse_name(target)
    if place.transport == REGISTRY:
        return f"docker://{image.below(place.name, scoped=scoped, keep_path=keep_path, suffix=suffix)}"
    if place.transport == "dir":
        return f"dir:{image.below(place.location, scoped=scoped, keep_path=keep_path, suffix=suffix)}"
    if place.transport != "oci" or place.name:
        raise UsageError(
            f"{target!r:.200} can't hold many images", hint="give docker://HOST[/PATH], oci:DIR or dir:DIR"
        )
    return f"{target}:{image.full}"
