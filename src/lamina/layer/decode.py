"""One pass over a layer as it streams by: inflate, hash (diff_id), parse into the index, hand on the tar."""

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
    """What one pass over a layer has found; sizes in bytes."""

    diff_id: Digest
    tar_size: int
    builder: IndexBuilder

    @property
    def index(self) -> LayerIndex:
        """The index in memory."""
        return self.builder.finish(self.tar_size)

    def chunks(self) -> list[memoryview]:
        """The index as its file holds it, without a second copy in memory."""
        return self.builder.chunks(self.tar_size)


class LayerReader:
    """``feed`` it the blob as it comes; what it yields is the uncompressed tar. ``what`` names it in messages;
    ``inflate``: another decoder than the one for ``compression``. With ``hashes`` False whoever takes the tar gives
    it to ``hasher``, before ``finish``."""

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
        """Raises InvalidLayer; LimitExceeded where the tar gets too long (``check_inflated``)."""
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
        """Raises InvalidLayer where the blob or the archive is not at its end."""
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
