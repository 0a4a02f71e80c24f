"""A layer made: entries through writer, hashes and compression into a file, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from lamina.layer.codec import encoder
from lamina.layer.entry import Entry
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.write import Item, write_layer
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import CANONICAL, Digest, new_hasher
from lamina.spec.mediatype import layer_type


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """The blob's descriptor, the tar's digest and size in bytes."""

    descriptor: Descriptor
    diff_id: Digest
    tar_size: int


def index_of(entries: Iterable[Entry]) -> LayerIndex:
    """The index of entries that are in no tar yet: row n is entry n. Raises LimitExceeded."""
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
) -> BuiltLayer:
    """Write the layer to ``sink``. Same items, epoch, level and library version: same bytes.

    Raises UsageError, InvalidLayer (a path twice), Unsupported.
    """
    packer, plain, packed = encoder(compression, level), new_hasher(), new_hasher()
    sizes = [0, 0]

    def out(data: bytes) -> None:
        if data:
            packed.update(data)
            sizes[1] += len(data)
            sink.write(data)

    def write(data: bytes) -> None:
        plain.update(data)
        sizes[0] += len(data)
        out(packer.compress(data))

    write_layer(items, write, epoch=epoch)
    out(packer.flush())
    descriptor = Descriptor(layer_type(compression, docker), Digest(CANONICAL, packed.hexdigest()), sizes[1])
    return BuiltLayer(descriptor, Digest(CANONICAL, plain.hexdigest()), sizes[0])
