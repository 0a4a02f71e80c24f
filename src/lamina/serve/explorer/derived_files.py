"""Makes the derived files of a layer in one pass over its blob: the index, and checkpoints to read its tar from."""

from __future__ import annotations

from lamina.events import BlobProgress, Cancel, Event
from lamina.light import TYPE_CHECKING
from lamina.source.verify import is_plain, prove_diff_id, verified
from lamina.spec import mediatype

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.layer.index import LayerIndex
    from lamina.serve.explorer.layer_cache import LayerCache
    from lamina.source.protocols import Blob
    from lamina.spec.digest import Digest

    OnBytes = Callable[[int], None]


def make_files(
    cache: LayerCache,
    blob: Blob,
    diff_id: Digest,
    *,
    on_bytes: OnBytes = lambda done: None,
    cancel: Cancel | None = None,
) -> LayerIndex:
    """Read a layer, verify it, and write its derived files. Raises NotFound, InvalidContent, SystemFailure."""
    from lamina.layer.checkpoints.file import SniffingCheckpoints, dump
    from lamina.layer.codec import PlainDecoder
    from lamina.layer.decode import LayerReader

    descriptor = blob.descriptor
    said = mediatype.compression(descriptor.media_type) or "none"
    plain = is_plain(descriptor, diff_id)
    decoder = PlainDecoder() if plain else SniffingCheckpoints(said, descriptor.size)
    layer = LayerReader(
        max_layer=cache.max_layer,
        what=f"layer {descriptor.digest}",
        algorithm=diff_id.algorithm,
        inflate=decoder,
    )

    def told(event: Event) -> None:
        if isinstance(event, BlobProgress):
            on_bytes(event.done)

    for data in verified(blob, on_event=told, cancel=cancel):
        for _ in layer.feed(data):
            pass
    summary = layer.finish()
    prove_diff_id(descriptor.digest, diff_id, summary.diff_id)
    index = summary.index
    if isinstance(decoder, SniffingCheckpoints):
        seek = dump(descriptor.digest, decoder.compression, summary.tar_size, decoder.checkpoints)
        cache.write(descriptor.digest, "seek", seek)
    cache.write(descriptor.digest, "index", summary.chunks())
    cache.write(descriptor.digest, "diffid", [str(diff_id).encode()])
    return index
