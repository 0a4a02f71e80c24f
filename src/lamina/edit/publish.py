"""Writes a new image to a place: blobs, manifest, and the name last. All edits end here."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from lamina.errors import UsageError
from lamina.host.files import reported
from lamina.layer.build_layer import BuiltLayer, build_layer
from lamina.layer.tar_write import Item, write_layer
from lamina.source.stack import Stack
from lamina.source.verify import BytesBlob
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.image_config import ImageConfig
from lamina.spec.manifest import build_manifest
from lamina.spec.mediatype import compression, is_docker

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.source.protocols import Session, Writer
    from lamina.spec.image_config import Changes
    from lamina.store.session import StoreSession

BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"


@dataclass(frozen=True, slots=True)
class Packing:
    """How to compress new layers. ``epoch`` is SOURCE_DATE_EPOCH in seconds."""

    compression: str = "gzip"
    level: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """What a new image has beside its files. ``created_by`` and ``comment``: of the new line in its history.
    ``changes``: of its config."""

    created_by: str = ""
    comment: str = ""
    changes: Changes | None = None
    packing: Packing = Packing()


@dataclass(frozen=True, slots=True)
class MadeLayer:
    """A new layer in an open file."""

    built: BuiltLayer
    file: IO[bytes]

    @property
    def descriptor(self) -> Descriptor:
        return self.built.descriptor

    @property
    def diff_id(self) -> Digest:
        return self.built.diff_id


Layer = Descriptor | MadeLayer


@contextmanager
def made_layer(
    items: Iterable[Item], packing: Packing, *, docker: bool, clamp: bool = False, ordered: bool = False
) -> Iterator[MadeLayer]:
    """Build a layer in a temporary file, which exists while the block runs. ``clamp``: no modification time is later
    than the epoch. ``ordered`` as in ``write_layer``. Raises as ``build_layer``; SystemFailure."""
    with reported(tempfile.gettempdir()):
        blob = tempfile.TemporaryFile(prefix="lamina-")  # noqa: SIM115  (closed below)
    with blob:
        with reported(tempfile.gettempdir()):
            built = build_layer(
                items,
                blob,
                compression=packing.compression,
                level=packing.level,
                epoch=packing.epoch if clamp else None,
                docker=docker,
                ordered=ordered,
            )
            blob.flush()
        yield MadeLayer(built, blob)


def publish(
    target: Writer,
    name: str,
    layers: Sequence[Layer],
    config: ImageConfig,
    *,
    docker: bool,
    purpose: str,
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Write the image and name it; returns the manifest's descriptor. Layers that are not new must be at ``target``.
    Raises BlobNotFound if one is missing, UsageError, SystemFailure."""
    descriptors = [layer.descriptor if isinstance(layer, MadeLayer) else layer for layer in layers]
    manifest = build_manifest(
        config.descriptor, descriptors, docker=docker, annotations=None if docker else annotations or None
    )
    with target.session(f"{purpose} {name}") as session:
        for layer in layers:
            if isinstance(layer, Descriptor):
                session.has(layer)  # protects it; put_manifest says which one is missing
            else:
                put_layer(session, layer)
        if not session.has(config.descriptor):
            session.put_blob(config.descriptor, BytesBlob(config.descriptor, config.raw))
        session.put_manifest(manifest.descriptor, manifest.raw)
        session.tag(name, manifest.descriptor)
    return manifest.descriptor


def put_layer(session: Session, layer: MadeLayer, *, cancel: Cancel | None = None) -> None:
    """Write a new layer, unless it is there. Raises SystemFailure."""
    if not session.has(layer.descriptor, layer.diff_id):
        session.put_blob(layer.descriptor, _FileBlob(layer), diff_id=layer.diff_id, cancel=cancel)


def new_layer(
    session: StoreSession,
    items: Iterable[Item],
    packing: Packing,
    *,
    clamp: bool = True,
    ordered: bool = False,
    cancel: Cancel | None = None,
) -> BuiltLayer:
    """Make a layer in the store: in one pass if the store keeps tars. ``clamp`` and ``ordered`` as in ``made_layer``.
    Raises InvalidLayer, UsageError, SystemFailure, Cancelled."""
    built = session.make_layer(
        lambda write: write_layer(items, write, epoch=packing.epoch if clamp else None, ordered=ordered),
        compression=packing.compression,
        level=packing.level,
        cancel=cancel,
    )
    if built is None:
        with made_layer(items, packing, docker=False, clamp=clamp, ordered=ordered) as made:
            put_layer(session, made, cancel=cancel)
            built = made.built
    return built


def require_bottom(stack: Stack) -> None:
    """Raise UsageError for a range without the lowest layer, because no image can be made of it."""
    if stack.first != 1:
        raise UsageError(f"{stack.name} lacks its lower layers", hint="use a range that begins at layer 1")


def docker_format(stacks: Sequence[Stack], packing: Packing | None = None) -> bool:
    """Whether to write the new image in docker's format: if the first stack has it and no layer is zstd."""
    if not is_docker(stacks[0].manifest.media_type) or (packing is not None and packing.compression == "zstd"):
        return False
    return not any(compression(layer.descriptor.media_type) == "zstd" for stack in stacks for layer in stack.layers)


def own_config(stack: Stack) -> ImageConfig:
    """Return the image's config; for a range, up to its highest layer."""
    return stack.config.keep_layers(len(stack.layers))


def kept_annotations(stack: Stack) -> dict[str, str]:
    """Return the annotations for an image that keeps all layers, with more on top. For a range without the upper
    layers, annotations about the base are dropped."""
    annotations = stack.manifest.annotations
    whole = len(stack.layers) == len(stack.config.diff_ids)
    return dict(annotations) if whole else without_base(annotations)


def without_base(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return annotations without those about the base, for an image whose lowest layers changed."""
    return {key: text for key, text in annotations.items() if key not in (BASE_NAME, BASE_DIGEST)}


def timestamp(epoch: int | None) -> str:
    """Return an RFC 3339 timestamp: of SOURCE_DATE_EPOCH, or of now."""
    moment = (
        datetime.datetime.now(datetime.UTC) if epoch is None else datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class _FileBlob:
    """A ``Blob`` in an open file, read once."""

    origin = ""

    def __init__(self, layer: MadeLayer) -> None:
        self.descriptor = layer.descriptor
        self._file = layer.file

    def open(self, start: int = 0, end: int | None = None) -> _Borrowed:
        self._file.seek(start)
        return _Borrowed(self._file)


class _Borrowed:
    """A stream over a file that its owner closes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Do nothing: the owner closes the file."""

    def __enter__(self) -> _Borrowed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
