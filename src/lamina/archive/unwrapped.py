"""Members of an archive in a compression that no manifest can name (bzip2, xz, lzma): read as the uncompressed tar,
as docker and podman do."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.archive.tar_members import Members
from lamina.errors import LaminaError
from lamina.host.files import CHUNK
from lamina.layer.archive_codec import archive_decoder
from lamina.layer.codec import check_inflated
from lamina.layer.tarheader import BLOCK
from lamina.settings import MAX_LAYER
from lamina.source.verify import PieceStream
from lamina.spec.descriptor import Descriptor


class UnwrappedBlob:
    """A ``Blob`` that is decompressed anew each time it is opened."""

    origin = ""

    def __init__(self, descriptor: Descriptor, members: Members, name: str) -> None:
        self.descriptor = descriptor
        self._members = members
        self._name = name

    def open(self, start: int = 0, end: int | None = None) -> PieceStream:
        return PieceStream(_between(unwrapped(self._members, self._name), start, end))


def unwrapped(members: Members, name: str) -> Iterator[bytes]:
    """Yield the member decompressed. Raises KeyError, InvalidLayer, LimitExceeded."""
    fed = written = 0
    try:
        with members.open(name) as stream:
            decoder = archive_decoder(stream.read(BLOCK))
        with members.open(name) as stream:
            while data := stream.read(CHUNK):
                fed += len(data)
                for piece in decoder.feed(data):
                    written += len(piece)
                    check_inflated(decoder.compression, written, fed, MAX_LAYER)
                    yield piece
        decoder.finish()
    except LaminaError as error:
        error.message = f"{members.path}: {name!r:.200}: {error.message}"
        raise


def _between(pieces: Iterator[bytes], start: int, end: int | None) -> Iterator[bytes]:
    at = 0
    for piece in pieces:
        data = piece[max(0, start - at) : None if end is None else max(0, end - at)]
        at += len(piece)
        if data:
            yield data
        if end is not None and at >= end:
            return
