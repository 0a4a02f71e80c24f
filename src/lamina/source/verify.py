"""Verification: a blob is read as a stream, and its size and digest are checked at the end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lamina.errors import (
    DigestMismatch,
    InvalidContent,
    SizeMismatch,
)
from lamina.events import BlobProgress, Cancel, OnEvent, ignore
from lamina.host.files import CHUNK
from lamina.light import TYPE_CHECKING
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from typing import Self

    from lamina.source.protocols import Blob, Stream


class BytesBlob:
    """A ``Blob`` in memory, for small content."""

    origin = ""

    def __init__(self, descriptor: Descriptor, data: bytes) -> None:
        self.descriptor = descriptor
        self._data = data

    def open(self, start: int = 0, end: int | None = None) -> Stream:
        return io.BytesIO(self._data[start:end])


def is_plain(layer: Descriptor, diff_id: Digest) -> bool:
    """Whether the layer's blob is the uncompressed tar. The digests decide, because the media type may be wrong."""
    return layer.digest == diff_id


def verified(blob: Blob, *, on_event: OnEvent = ignore, cancel: Cancel | None = None) -> Iterator[bytes]:
    """Yield the blob's bytes in pieces of at most 1 MiB; check size and digest at the end. If it raises, the caller
    must discard what it did with the bytes. This is the only place that verifies a blob as it streams.

    Raises SizeMismatch, DigestMismatch, Unsupported (algorithm), Cancelled.
    """
    descriptor, hint = blob.descriptor, damage_hint(blob) or "fetch it again"
    hasher, done = descriptor.digest.hasher(descriptor.size), 0
    with blob.open() as stream, _woken(stream, cancel):
        while True:
            if cancel is not None:
                cancel.check()
            data = stream.read(min(CHUNK, descriptor.size - done + 1))
            if not data:
                break
            done += len(data)
            if done > descriptor.size:
                raise SizeMismatch(f"blob {descriptor.digest} is longer than its {descriptor.size} bytes", hint=hint)
            hasher.update(data)
            yield data
            on_event(BlobProgress(descriptor.digest, done, descriptor.size))
    if done != descriptor.size:
        raise SizeMismatch(f"blob {descriptor.digest} ends after {done} of {descriptor.size} bytes", hint=hint)
    actual = Digest(descriptor.digest.algorithm, hasher.hexdigest())
    if actual != descriptor.digest:
        raise DigestMismatch(
            f"blob {descriptor.digest} does not match its digest: its content has {actual}", hint=hint
        )


class PieceStream:
    """A ``Stream`` over an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes. Raises what the iterator raises."""
        if size < 0:
            data, self._left = b"".join([self._left, *self._pieces]), b""
            return data
        if not self._left:
            self._left = next(self._pieces, b"")
        data, self._left = self._left[:size], self._left[size:]
        return data

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def damage_hint(blob: Blob) -> str:
    """Return the advice of the blob's place for wrong bytes; "" if it has none."""
    return getattr(blob, "damage_hint", "")


@contextmanager
def damage_reported(blob: Blob) -> Iterator[None]:
    """Add the blob's digest and its place's hint to an InvalidContent from the block: a decoder notices damage before
    the digest is checked."""
    try:
        yield
    except InvalidContent as error:
        hint = damage_hint(blob)
        if not hint or hint == error.hint:
            raise
        raise with_hint(error, blob.descriptor.digest, hint) from None


def with_hint(error: InvalidContent, digest: Digest, hint: str) -> InvalidContent:
    """Return the error with another hint, and with the digest of its blob in the message."""
    named = error.message if str(digest) in error.message else f"blob {digest}: {error.message}"
    return type(error)(named, hint=hint)


def _woken(stream: Stream, cancel: Cancel | None) -> AbstractContextManager[None]:
    if cancel is None:
        return nullcontext()
    from lamina.source.abilities import can_abort

    if not can_abort(stream):
        return nullcontext()
    return cancel.calling(stream.abort)


def wrong_size(document: Digest, named: Digest, stated: int, size: int) -> str:
    """Say that a document states another size of a blob than it has."""
    return f"{document} states {stated} bytes for {named}, which has {size}"


def check_stated_size(document: Digest, stated: Descriptor, size: int | None) -> None:
    """Raise SizeMismatch if a blob is there (``size`` is not None) and a document states another size of it: clients
    would take the blob for damaged."""
    if size is not None and size != stated.size:
        raise SizeMismatch(
            wrong_size(document, stated.digest, stated.size, size),
            hint="write the document again, with the true sizes of what it names",
        )


def prove_diff_id(layer: Digest, stated: Digest, actual: Digest) -> None:
    """Raise DigestMismatch unless the layer inflates to the diff_id that the config states."""
    if actual != stated:
        raise DigestMismatch(
            f"layer {layer} unpacks to {actual}, but the config states {stated}",
            hint="fetch the image again; if that fails, report it to its publisher",
        )
