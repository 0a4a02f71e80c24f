"""Copying of a blob with verification: size, digest and, of a layer, diff_id. Used by all writers but the store."""

from __future__ import annotations

from collections.abc import Callable

from lamina.events import Cancel, OnEvent
from lamina.layer.codec import layer_decoder
from lamina.light import TYPE_CHECKING
from lamina.source.verify import damage_reported, prove_diff_id, verified
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.source.protocols import Blob


def copy_verified(
    descriptor: Descriptor,
    blob: Blob,
    write: Callable[[bytes], object],
    *,
    diff_id: Digest | None,
    on_event: OnEvent,
    cancel: Cancel | None,
    write_plain: Callable[[bytes], object] | None = None,
) -> None:
    """Pass the blob's bytes to ``write`` and, of a layer, the uncompressed ones to ``write_plain``.

    Raises InvalidContent if they don't match the descriptor or ``diff_id``; the caller must then discard what was
    written.
    """
    plain_hasher = diff_id.hasher() if diff_id else None
    inflate = layer_decoder(descriptor, diff_id) if diff_id or write_plain else None
    with damage_reported(blob):
        for data in verified(blob, on_event=on_event, cancel=cancel):
            write(data)
            for piece in inflate.feed(data) if inflate is not None else ():
                if plain_hasher is not None:
                    plain_hasher.update(piece)
                if write_plain is not None:
                    write_plain(piece)
        if inflate is not None:
            inflate.finish()
    if plain_hasher is not None and diff_id is not None:
        prove_diff_id(descriptor.digest, diff_id, Digest(diff_id.algorithm, plain_hasher.hexdigest()))
