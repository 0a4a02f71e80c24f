"""Build a layer in one pass: entries are written as a tar, hashed, compressed and hashed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.codec import encoder
from lamina.layer.entry import Entry
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar_write import Item, write_layer
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import CANONICAL, Digest, new_hasher
from lamina.spec.mediatype import layer_type

_PIECE = 256 << 10


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """Descriptor of the compressed blob, digest of the tar, size of the tar in bytes."""

    descriptor: Descriptor
    diff_id: Digest
    tar_size: int


def index_of(entries: Iterable[Entry]) -> LayerIndex:
    """Index entries that are not in a tar: row n is entry n. Raises LimitExceeded."""
    builder = IndexBuilder()
    for entry in entries:
        builder.add_entry(entry)
    return builder.finish(0)


def build_layer(
    items: Iterable[Item],
    sink: Sink,
    *,
    compression: str = "gzip",
    level: int | None = None,
    epoch: int | None = None,
    docker: bool = False,
    ordered: bool = False,
) -> BuiltLayer:
    """Write a layer to ``sink``. The same items, epoch, level and library version give the same bytes. ``ordered`` as
    in ``write_layer``.

    Raises UsageError, InvalidLayer (a path occurs twice), Unsupported.
    """
    packer = encoder(compression, level)
    plain = _Gathered()
    packed = _Gathered(sink.write)

    def write(data: bytes) -> None:
        plain.write(data)
        packed.write(packer.compress(data))  # not in larger pieces: the output depends on where the input is cut

    write_layer(items, write, epoch=epoch, ordered=ordered)
    packed.write(packer.flush())
    descriptor = Descriptor(layer_type(compression, docker), packed.finish(), packed.size)
    return BuiltLayer(descriptor, plain.finish(), plain.size)


class _Gathered:
    """A buffer that collects small pieces, then hashes them and passes them on as large ones."""

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self.size = 0
        self._hasher = new_hasher()
        self._write = write
        self._pieces: list[bytes] = []
        self._held = 0

    def write(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._held += len(data)
            if self._held >= _PIECE:
                self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.size += self._held
        self._held = 0
        self._hasher.update(data)
        if self._write is not None:
            self._write(data)

    def finish(self) -> Digest:
        """Flush the buffer and return the digest of everything."""
        self._flush()
        return Digest(CANONICAL, self._hasher.hexdigest())
