"""One pass over a layer as it streams: inflate, hash (diff_id), parse into the index, yield the tar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lamina.errors import LaminaError
from lamina.layer.codec import Decoder, check_inflated, decoder
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.settings import MAX_LAYER
from lamina.spec.digest import CANONICAL, Digest, new_hasher


@dataclass(frozen=True)
class LayerSummary:
    """The result of one pass over a layer; sizes in bytes."""

    diff_id: Digest
    tar_size: int
    builder: IndexBuilder

    @property
    def index(self) -> LayerIndex:
        """Build the index in memory."""
        return self.builder.finish(self.tar_size)

    def chunks(self) -> list[memoryview]:
        """Return the content of the index file, without a second copy in memory."""
        return self.builder.chunks(self.tar_size)


class LayerReader:
    """Reads a layer: ``feed`` takes the blob in chunks and yields the uncompressed tar; ``finish`` returns the
    summary.

    ``what`` names the layer in errors. ``inflate`` is a decoder to use instead of the one for ``compression``. With
    ``hashes`` False the caller must feed the tar to ``hasher`` before ``finish``.
    """

    def __init__(
        self,
        compression: str = "none",
        *,
        max_layer: int = MAX_LAYER,
        what: str = "the layer",
        algorithm: str = CANONICAL,
        inflate: Decoder | None = None,
        hashes: bool = True,
    ) -> None:
        self._decoder = inflate or decoder(compression)
        self._builder = IndexBuilder()
        self._parser = TarParser(self._builder)
        self.hasher = new_hasher(algorithm)
        self._hashes = hashes
        self._algorithm = algorithm
        self._max_layer = max_layer
        self._what = what
        self._fed = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the tar content of this chunk. Raises InvalidLayer; LimitExceeded if the tar gets too large
        (``check_inflated``)."""
        self._fed += len(data)
        try:
            for piece in self._decoder.feed(data):
                self._parser.feed(piece)
                check_inflated(self._decoder.compression, self._parser.position, self._fed, self._max_layer)
                if self._hashes:
                    self.hasher.update(piece)
                yield piece
        except LaminaError as error:
            raise self._named(error) from None

    def finish(self) -> LayerSummary:
        """Return the summary. Raises InvalidLayer if the blob or the archive is not complete."""
        try:
            self._decoder.finish()
            self._parser.finish()
        except LaminaError as error:
            raise self._named(error) from None
        return LayerSummary(Digest(self._algorithm, self.hasher.hexdigest()), self._parser.position, self._builder)

    def _named(self, error: LaminaError) -> LaminaError:
        if not error.message.startswith(self._what):
            error.message = f"{self._what}: {error.message}"
        return error
