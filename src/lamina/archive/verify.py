"""Copying a blob with proof: size, digest and, of a layer, diff_id. For every writer that is not the store."""

from __future__ import annotations

from collections.abc import Callable

from lamina.errors import DigestMismatch, SizeMismatch
from lamina.events import BlobProgress, Cancel, OnEvent
from lamina.layer.codec import decoder
from lamina.source import Blob
from lamina.spec import mediatype
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

CHUNK = 1 << 20


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
    """Give the blob's bytes to ``write`` and, of a layer, the uncompressed ones to ``write_plain``.

    Raises InvalidContent where they are not what the descriptor and ``diff_id`` say: what was written is to be
    thrown away then.
    """
    hasher, done = descriptor.digest.hasher(), 0
    plain_hasher = diff_id.hasher() if diff_id else None
    inflate = decoder(mediatype.compression(descriptor.media_type) or "none") if diff_id or write_plain else None
    with blob.open() as stream:
        while data := stream.read(min(CHUNK, descriptor.size - done + 1)):
            if cancel is not None:
                cancel.check()
            done += len(data)
            if done > descriptor.size:
                break
            hasher.update(data)
            write(data)
            if inflate is not None:
                for piece in inflate.feed(data):
                    if plain_hasher is not None:
                        plain_hasher.update(piece)
                    if write_plain is not None:
                        write_plain(piece)
            on_event(BlobProgress(descriptor.digest, done, descriptor.size))
    if done != descriptor.size:
        raise SizeMismatch(
            f"blob {descriptor.digest} has not the {descriptor.size} bytes it states", hint="get it again"
        )
    actual = Digest(descriptor.digest.algorithm, hasher.hexdigest())
    if actual != descriptor.digest:
        raise DigestMismatch(f"blob {descriptor.digest} has the digest {actual}", hint="get it again")
    if inflate is not None:
        inflate.finish()
    if plain_hasher is not None and diff_id is not None and plain_hasher.hexdigest() != diff_id.encoded:
        raise DigestMismatch(
            f"layer {descriptor.digest} unpacks to {diff_id.algorithm}:{plain_hasher.hexdigest()}, "
            f"the config says {diff_id}",
            hint="config and layer don't belong together: get the image again",
        )
