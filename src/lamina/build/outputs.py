"""Where a finished image goes: names in the store, a registry, an archive, a layout, a tar, a directory.

The image is in the store already (``build.builder.built``). Everything here copies it from there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lamina.errors import Conflict, NotFound, Unsupported, UsageError
from lamina.events import Cancel, OnEvent, Warned, ignore
from lamina.host.files import check_replaceable, reported, whole_file, write_named
from lamina.light import Value
from lamina.spec.reference import Reference, canonical
from lamina.store.image_events import tag

if TYPE_CHECKING:
    from lamina.build.options import Built, BuiltImage
    from lamina.source.protocols import Blob, Writer
    from lamina.spec.descriptor import Descriptor
    from lamina.spec.platform import Platform
    from lamina.store.store import Store
    from lamina.transfer.connect import RegistryAccess

KINDS = ("image", "registry", "oci", "docker", "tar", "local", "cacheonly")
"""The types of ``--output``."""


class Output(Value):
    """One place for the image.

    ``kind``: image and docker without a ``path`` (the store), docker and oci (an archive), tar and local (the files),
    cacheonly (nowhere). ``path``: "-" is standard output. ``names``: further names. ``push``: also send it to the
    registries of its names. ``store``: give it its names in the store. ``is_directory``: a layout instead of an
    archive (oci). ``split``: a directory for each platform (None: if there are several). ``compression``: "" is the
    setting. ``docker``: docker's media types. ``annotations``: as in ``BuildOptions``.
    """

    kind: str
    path: str = ""
    names: tuple[str, ...] = ()
    push: bool = False
    store: bool = True
    is_directory: bool = False
    split: bool | None = None
    compression: str = ""
    level: int | None = None
    docker: bool = False
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def in_store(self) -> bool:
        """Whether the image stays in the store."""
        return self.store and (self.kind == "image" or (self.kind == "docker" and not self.path))


def check(outputs: Sequence[Output], platforms: int, names: Sequence[str]) -> None:
    """Check before the build what can be checked. Raises UsageError, Conflict, Unsupported."""
    if sum(one.path == "-" for one in outputs) > 1:
        raise UsageError("several outputs write to standard output", hint="give one of them a file")
    for one in outputs:
        if one.path == "-" and sys.stdout.isatty():
            raise UsageError(
                f"--output type={one.kind} does not write to a terminal", hint="name a file with dest=, or pipe it"
            )
        if one.kind == "docker" and one.path and platforms > 1:
            raise Unsupported("an archive of docker holds one platform", hint="use type=oci, or give one --platform")
        if one.push and not (*names, *one.names):
            raise UsageError("nothing to push: the image has no name", hint="name it with -t HOST/PATH:TAG")
        if one.path in ("", "-"):
            continue
        wants_directory = one.kind == "local" or one.is_directory
        if os.path.lexists(one.path) and os.path.isdir(one.path) != wants_directory:
            kind = "a directory" if wants_directory else "a file"
            raise Conflict(f"{one.path!r:.300} exists and is not {kind}", hint="choose another path")
        if not wants_directory:
            check_replaceable(one.path)
        above = os.path.dirname(os.path.abspath(one.path))
        if not wants_directory and not os.path.isdir(above):
            raise NotFound(f"no directory {above!r:.300} for the output", hint="make it first")


class Places(Value):
    """What outputs need: the store that has the image, and access to registries."""

    store: Store
    network: Callable[[OnEvent], RegistryAccess]
    on_event: OnEvent = ignore
    cancel: Cancel | None = None


def deliver(built: Built, output: Output, names: Sequence[str], places: Places) -> None:
    """Bring the image to ``output``. ``names``: those of the image. Raises RemoteFailure, AccessDenied,
    SystemFailure, Conflict, Cancelled."""
    names = [*dict.fromkeys((*names, *output.names))]
    if output.kind == "local":
        _to_directory(built, output, places)
    elif output.kind == "tar":
        _to_tar(built, output, places)
    elif output.kind == "oci":
        _copy(built, _layout(output), [canonical(name) for name in names] or [""], places)
    elif output.kind == "docker" and output.path:
        from lamina.archive.docker import DockerArchiveWriter

        _copy(built, DockerArchiveWriter(output.path), [canonical(name) for name in names] or [""], places)
    elif output.in_store:
        for name in output.names:
            tag(places.store, canonical(name), built.descriptor)
    if output.push:
        for name in names:
            push(built, name, places)


def push(built: Built, name: str, places: Places) -> None:
    """Send the image to the registry of ``name``."""
    network = places.network(places.on_event)
    target = network.repository(name, store=places.store)
    _copy(built, target, [str(network.full(name))], places)


def _layout(output: Output) -> Writer:
    if output.is_directory:
        from lamina.archive.layout import LayoutWriter

        return LayoutWriter(output.path)
    from lamina.archive.oci import OciArchiveWriter

    return OciArchiveWriter(output.path)


def _copy(built: Built, target: Writer, names: Iterable[str], places: Places) -> None:
    from lamina.transfer.copy import copy

    copy(
        _Finished(built, places.store),
        target,
        [("", name) for name in names],
        platform=built.images[0].platform,
        all_platforms=len(built.images) > 1 or built.images[0].descriptor.digest != built.descriptor.digest,
        on_event=places.on_event,
        cancel=places.cancel,
    )


class _Finished:
    """A ``Reader`` of the one image that was built."""

    def __init__(self, built: Built, store: Store) -> None:
        self.location = "the build"
        self._top = built.descriptor
        self._store = store

    def resolve(self, name: str) -> Descriptor:
        return self._top

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._store.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> Blob:
        return self._store.blob(descriptor)


def _directories(built: Built, output: Output) -> Iterator[tuple[str, BuiltImage]]:
    """Yield each platform's image with its directory: "" if the image is not split."""
    split = len(built.images) > 1 if output.split is None else output.split
    for image in built.images:
        yield (directory_of(image.platform) if split else ""), image


def directory_of(platform: Platform) -> str:
    """Return the name of a platform's directory, as in BuildKit: ``linux_arm_v7`` (pure)."""
    return str(platform).replace("/", "_")


def _to_tar(built: Built, output: Output, places: Places) -> None:
    from lamina.edit.export import export_all

    parts = [
        (os.fsencode(directory), places.store.stack_at(image.descriptor, image.platform, "the build"))
        for directory, image in _directories(built, output)
    ]
    if output.path == "-":
        export_all(parts, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    with reported(output.path), whole_file(output.path) as file:
        export_all(parts, file.write)


def _to_directory(built: Built, output: Output, places: Places) -> None:
    """Write the files. All of them belong to this user. A directory that has files already keeps those that the image
    does not have."""
    from lamina.view.unpack.unpack import unpack

    for directory, image in _directories(built, output):
        target = os.path.join(output.path, directory) if directory else output.path
        stack = places.store.stack_at(image.descriptor, image.platform, "the build")
        with reported(target):
            os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
            if os.path.islink(target):
                target = os.path.realpath(target)
            with _place_for(target) as place:
                report = unpack(stack, os.fsencode(place), same_owner=False, cancel=places.cancel)
        for warning in report.warnings:
            places.on_event(Warned(warning))


@contextmanager
def _place_for(target: str) -> Iterator[str]:
    """Yield an empty place for the files: ``target`` if it does not exist yet, else a directory in it, whose content
    moves into it at the end of the block. ``target`` may be a mount point, and its parent not writable."""
    if not os.path.isdir(target):
        yield target
        return
    from lamina.host.temporary import TemporaryDirectory
    from lamina.view.unpack.unpack import remove_tree

    with TemporaryDirectory(target, ".lamina", remove=lambda path: remove_tree(os.fsencode(path))) as temporary:
        place = os.path.join(temporary.path, "files")
        yield place
        _merge(place, target)


def _merge(source: str, target: str) -> None:
    """Move everything of ``source`` into ``target``: directories are merged, other files are replaced. Symlinks in
    ``target`` are replaced, and not followed."""
    os.chmod(source, stat.S_IMODE(os.stat(source).st_mode) | stat.S_IRWXU)  # so that its files can be moved away
    for name in sorted(os.listdir(source)):
        here, there = os.path.join(source, name), os.path.join(target, name)
        is_directory = os.path.isdir(here) and not os.path.islink(here)
        if is_directory and os.path.isdir(there) and not os.path.islink(there):
            _merge(here, there)
            continue
        if os.path.lexists(there) and is_directory != (os.path.isdir(there) and not os.path.islink(there)):
            if is_directory:
                os.unlink(there)
            else:
                raise Conflict(f"{there!r:.300} is a directory; the image has a file there", hint="remove it first")
        os.rename(here, there)


def image_id(built: Built) -> str:
    """Return what `build -q` prints: the digest of the config; for several platforms, that of the index (pure)."""
    return built.images[0].id if len(built.images) == 1 else str(built.descriptor.digest)


def metadata(built: Built, names: Sequence[str]) -> dict[str, Any]:
    """Return what ``--metadata-file`` holds, with the keys of buildx (pure)."""
    descriptor = built.descriptor
    found: dict[str, Any] = {}
    if len(built.images) == 1:
        found["containerimage.config.digest"] = built.images[0].id
    found["containerimage.descriptor"] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    found["containerimage.digest"] = str(descriptor.digest)
    if names:
        found["image.name"] = ",".join(str(Reference.parse(name).with_default_tag()) for name in names)
    return found


def check_files(paths: Iterable[str]) -> None:
    """Check before the build that these files can be written. Raises NotFound, Conflict."""
    for path in paths:
        above = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(above):
            raise NotFound(f"no directory {above!r:.300} for the file", hint="make it first")
        if os.path.isdir(path):
            raise Conflict(f"{path!r:.300} is a directory", hint="name a file")


def remove_stale(path: str) -> None:
    """Remove the image ID of an earlier build, so that none is left if this build fails. Devices and pipes stay.
    Raises SystemFailure."""
    with reported(path), suppress(Conflict, FileNotFoundError):
        check_replaceable(path)
        os.unlink(path)


def write_text(path: str, text: str) -> None:
    """Replace a file of ``--iidfile`` or ``--metadata-file``. Raises SystemFailure."""
    with reported(path):
        write_named(path, text.encode())


def write_metadata(path: str, built: Built, names: Sequence[str]) -> None:
    """Write ``metadata`` as JSON. Raises SystemFailure."""
    from json import dumps

    write_text(path, dumps(metadata(built, names), indent=2))
