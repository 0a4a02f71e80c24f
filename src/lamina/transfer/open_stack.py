"""Opens an image at any source as a ``Stack`` without storing it: what is needed is read, verified and dropped."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from lamina.host.files import SharedRange
from lamina.source.presence import HERE, Presence, elsewhere
from lamina.source.select import find_manifest, read_config
from lamina.source.stack import Stack
from lamina.source.verify import prove_diff_id, verified
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.source.protocols import Blob, Reader


def open_stack(reader: Reader, name: str, platform: Platform, what: str, *, max_layer: int | None = None) -> Stack:
    """Open the image ``name`` of ``reader`` (for ``platform`` if there are several). ``what`` names it in errors.

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
    """A layer read from its blob. On first need of index or content it is read once, verified, and kept as a tar in
    an unnamed temporary file as long as the object lives."""

    def __init__(self, blob: Blob, diff_id: Digest, max_layer: int | None = None) -> None:
        self.descriptor: Descriptor = blob.descriptor
        self.diff_id = diff_id
        self._blob = blob
        self._max_layer = max_layer
        self._index: LayerIndex | None = None
        self._tar: IO[bytes] | None = None

    def presence(self) -> Presence:
        return HERE if self._tar is not None or not self._blob.origin else elsewhere(self._blob.origin)

    def index(self) -> LayerIndex:
        if self._index is None:
            self._read()
        assert self._index is not None
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> SharedRange:
        if self._tar is None:
            self._read()
        assert self._tar is not None
        return SharedRange(self, self._tar.fileno(), start, self.index().tar_size if end is None else end)

    def __del__(self) -> None:
        if getattr(self, "_tar", None) is not None and self._tar is not None:
            self._tar.close()

    def _read(self) -> None:
        from lamina.host.spool import Spool
        from lamina.layer.codec import layer_decoder
        from lamina.layer.decode import LayerReader
        from lamina.settings import MAX_LAYER

        layer = LayerReader(
            max_layer=self._max_layer or MAX_LAYER,
            what=f"layer {self.descriptor.digest}",
            algorithm=self.diff_id.algorithm,
            inflate=layer_decoder(self.descriptor, self.diff_id),
        )
        tar = Spool(f"layer {self.descriptor.digest}")
        try:
            for data in verified(self._blob):
                for piece in layer.feed(data):
                    tar.write(piece)
            summary = layer.finish()
            prove_diff_id(self.descriptor.digest, self.diff_id, summary.diff_id)
            tar.finish()
        except BaseException:
            tar.file.close()
            raise
        self._tar, self._index = tar.file, summary.index  # kept as long as the layer
