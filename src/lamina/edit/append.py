"""A layer put on top of an image, or the first layer of a new one."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from typing import IO

from lamina.errors import InvalidLayer, PathNotFound, UsageError
from lamina.files import reported
from lamina.layer.build import build_layer
from lamina.layer.entry import Entry, Kind
from lamina.layer.write import Item
from lamina.source import BytesBlob, Stack, Writer
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import Changes, History, ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.mediatype import DOCKER_CONFIG, OCI_CONFIG, is_docker
from lamina.spec.platform import Platform


def append(
    base: Stack | None,
    items: Sequence[Item],
    target: Writer,
    name: str,
    *,
    created_by: str,
    comment: str = "",
    epoch: int | None = None,
    compression: str = "gzip",
    level: int | None = None,
    changes: Changes | None = None,
    platform: Platform | None = None,
) -> Descriptor:
    """Put ``items`` as one layer on ``base`` (None: a new image for ``platform``) and name the result at
    ``target``, which must have the base's layers. Without items only the config changes.

    ``epoch`` (SOURCE_DATE_EPOCH, seconds) makes it reproducible: same arguments, same digest. Returns the
    manifest's descriptor. Raises PathNotFound (a whiteout of what is not there), InvalidLayer (a path twice),
    UsageError, BlobNotFound (the target lacks a layer), SystemFailure.
    """
    if base is not None and base.first != 1:
        raise UsageError(f"{base.name} lacks its lower layers", hint="a range must begin at layer 1 to build on it")
    _check_whiteouts(base, items)
    docker = base is not None and is_docker(base.manifest.media_type)
    created = _now(epoch)
    step = History(created=created, created_by=created_by, comment=comment)
    with tempfile.TemporaryFile(prefix="lamina-") as blob:
        config = _base_config(base, platform or Platform.host(), docker)
        layers = [handle.descriptor for handle in base.layers] if base else []
        built = None
        if items:
            with reported(tempfile.gettempdir()):
                built = build_layer(
                    items,
                    blob,
                    compression=compression,
                    level=level,
                    epoch=epoch,
                    docker=docker and compression != "zstd",
                )
                blob.flush()
            config = config.add_layer(built.diff_id, step)
            layers.append(built.descriptor)
        merged: Changes = {**(changes or {}), "created": created}
        config = config.with_(**merged)
        manifest = build_manifest(config.descriptor, layers, docker=docker and compression != "zstd")
        with target.session(f"append {name}"):
            if built is not None and not target.has(built.descriptor):
                target.put_blob(built.descriptor, _FileBlob(built.descriptor, blob), diff_id=built.diff_id)
            for layer in layers:
                target.has(layer)  # protects it; put_manifest says which one is missing
            if not target.has(config.descriptor):
                target.put_blob(config.descriptor, BytesBlob(config.descriptor, config.raw))
            target.put_manifest(manifest.descriptor, manifest.raw)
            target.tag(name, manifest.descriptor)
    return manifest.descriptor


def whiteout(path: bytes) -> Item:
    """An item that hides ``path`` of the layers below."""
    return Entry(path, Kind.WHITEOUT), None


def with_parents(items: Sequence[Item], base: Stack | None) -> list[Item]:
    """``items`` and the directories above them that neither they nor the base state: 0755, 0:0."""
    tree = base.tree() if base else None
    stated = {entry.path for entry, _ in items if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE)}
    missing: dict[bytes, Entry] = {}
    for entry, _ in items:
        if entry.kind == Kind.WHITEOUT:
            continue
        parent = entry.path.rpartition(b"/")[0]
        while parent and parent not in stated and parent not in missing:
            node = tree.find(parent) if tree else None
            if tree is None or node is None or not tree.is_directory(node):
                missing[parent] = Entry(parent, Kind.DIRECTORY, 0o755, mtime=entry.mtime)
            parent = parent.rpartition(b"/")[0]
    return [*((entry, None) for entry in missing.values()), *items]


def _check_whiteouts(base: Stack | None, items: Sequence[Item]) -> None:
    hidden = [entry.path for entry, _ in items if entry.kind == Kind.WHITEOUT]
    if not hidden:
        return
    tree = base.tree() if base else None
    for path in hidden:
        if not path:
            raise InvalidLayer("the root can't be removed", hint="name what is in it")
        if tree is None or tree.find(path) is None:
            raise PathNotFound(
                f"nothing to remove at /{path.decode('utf-8', 'backslashreplace')}", hint="see `lamina ls`"
            )


def _base_config(base: Stack | None, platform: Platform, docker: bool) -> ImageConfig:
    if base is None:
        return ImageConfig.build(platform, media_type=DOCKER_CONFIG if docker else OCI_CONFIG)
    return base.config.keep_layers(len(base.layers))


def _now(epoch: int | None) -> str:
    moment = (
        datetime.datetime.now(datetime.UTC) if epoch is None else datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class _FileBlob:
    """A ``Blob`` in an open file, read once."""

    origin = ""

    def __init__(self, descriptor: Descriptor, file: IO[bytes]) -> None:
        self.descriptor = descriptor
        self._file = file

    def open(self, start: int = 0, end: int | None = None) -> _Borrowed:
        self._file.seek(start)
        return _Borrowed(self._file)


class _Borrowed:
    """Reads a file that somebody else closes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Not ours."""

    def __enter__(self) -> _Borrowed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
