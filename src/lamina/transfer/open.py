"""An image at any source as a ``Stack``, without storing it: what is needed is read, verified, and forgotten."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, cast

from lamina.errors import DigestMismatch
from lamina.source import Blob, Reader, Stack, Stream, find_manifest, read_config
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex

CHUNK = 1 << 20


def open_stack(reader: Reader, name: str, platform: Platform, what: str, *, max_layer: int | None = None) -> Stack:
    """The image ``name`` of ``reader`` (for ``platform`` where there are several). ``what`` names it in messages.

    Raises ReferenceNotFound, NotFound, InvalidContent, Unsupported (artifacts).
    """
    manifest = find_manifest(reader, reader.resolve(name), platform, what)
    config = read_config(reader, manifest, what)
    layers = tuple(
        BlobLayer(reader.blob(descriptor), diff_id, max_layer)
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    return Stack(what, manifest, config, layers, config.steps())


class BlobLayer:
    """A layer straight from its blob. The first need of index or content reads it once, verified, and keeps the
    tar in an unnamed temporary file as long as the object lives."""

    def __init__(self, blob: Blob, diff_id: Digest, max_layer: int | None = None) -> None:
        self.descriptor: Descriptor = blob.descriptor
        self.diff_id = diff_id
        self._blob = blob
        self._max_layer = max_layer
        self._index: LayerIndex | None = None
        self._tar: IO[bytes] | None = None

    def index(self) -> LayerIndex:
        if self._index is None:
            self._read()
        assert self._index is not None
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        if self._tar is None:
            self._read()
        assert self._tar is not None
        return cast("Stream", _Range(self, self._tar, start, self.index().tar_size if end is None else end))

    def __del__(self) -> None:
        if getattr(self, "_tar", None) is not None and self._tar is not None:
            self._tar.close()

    def _read(self) -> None:
        import tempfile

        from lamina.config import MAX_LAYER
        from lamina.layer.read import LayerReader

        compression = mediatype.compression(self.descriptor.media_type) or "none"
        layer = LayerReader(
            compression,
            max_layer=self._max_layer or MAX_LAYER,
            what=f"layer {self.descriptor.digest}",
            algorithm=self.diff_id.algorithm,
        )
        hasher, left = self.descriptor.digest.hasher(), self.descriptor.size
        tar = tempfile.TemporaryFile(prefix="lamina-")  # noqa: SIM115  (lives as long as the layer)
        with self._blob.open() as stream:
            while chunk := stream.read(min(CHUNK, left + 1)):
                hasher.update(chunk)
                left -= len(chunk)
                for piece in layer.feed(chunk):
                    tar.write(piece)
                if left < 0:
                    break
        digest = Digest(self.descriptor.digest.algorithm, hasher.hexdigest())
        if left or digest != self.descriptor.digest:
            tar.close()
            raise DigestMismatch(
                f"layer {self.descriptor.digest} has other bytes than its digest says", hint="get the image again"
            )
        summary = layer.finish()
        if summary.diff_id != self.diff_id:
            tar.close()
            raise DigestMismatch(
                f"layer {self.descriptor.digest} unpacks to {summary.diff_id}, the config says {self.diff_id}",
                hint="config and layer don't belong together",
            )
        self._tar, self._index = tar, summary.index


class _Range:
    """A part of a shared file, read by position."""

    def __init__(self, owner: BlobLayer, file: IO[bytes], start: int, end: int) -> None:
        self._owner = owner  # the file is open as long as somebody reads it
        self._file, self._at, self._end = file, start, end

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        size = left if size < 0 else min(size, left)
        if size <= 0:
            return b""
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def close(self) -> None:
        """The file belongs to the layer."""

    def __enter__(self) -> _Range:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
