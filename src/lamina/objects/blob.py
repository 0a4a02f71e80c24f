"""A blob in object storage: its parts are read one after the other, with little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Self

from lamina.errors import BlobNotFound, RemoteFailure, SystemFailure
from lamina.objects import keys
from lamina.objects.direct import DirectPieces
from lamina.objects.documents import Record, slices
from lamina.spec.descriptor import Descriptor
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from lamina.objects.bucket import Bucket

_TRIES = 3
_AHEAD = 1 << 20
VALID = 1200
"""Seconds for which the URL of a blob is valid."""

ANY_TYPE = "application/octet-stream"


class ObjectBlob:
    """``Blob`` of a record. ``again`` reads the record once more, if the blob was removed and pushed anew since."""

    origin = ""

    def __init__(
        self, bucket: Bucket, digest: Digest, record: Record, again: Callable[[], Record | None] = lambda: None
    ) -> None:
        self.descriptor = Descriptor(ANY_TYPE, digest, record.size)
        self._bucket = bucket
        self._record = record
        self._again = again

    def open(self, start: int = 0, end: int | None = None) -> PartStream:
        """Raises BlobNotFound."""
        size = self._record.size
        stop = size if end is None else min(end, size)
        try:
            return PartStream(self._bucket, self._record, start, stop)
        except SystemFailure:
            record = self._again()
            if record is None or record.ident == self._record.ident:
                raise BlobNotFound(f"blob {self.descriptor.digest} is gone", hint="push it again") from None
        self._record = record
        return PartStream(self._bucket, record, start, stop)


class LinkedBlob(ObjectBlob):
    """A blob that clients can read from the storage itself."""

    def url(self) -> str:
        """A URL that is valid for some time; "" if the blob is in several parts, or the storage has no URLs."""
        runs = self._record.runs
        if len(runs) != 1 or runs[0].count != 1:
            return ""
        return self._bucket.url(keys.part(self._record.ident, runs[0].epoch, runs[0].first), VALID)


class PartStream:
    """``Stream`` over a range of a blob. While the end of a part is read, the next one is asked for: nobody waits at
    each part for the time that storage takes to answer. The first part is asked for at once, so that a missing blob
    is known before anything is sent. A broken connection to the storage is made again. Raises SystemFailure,
    RemoteFailure."""

    def __init__(self, bucket: Bucket, record: Record, start: int, end: int) -> None:
        self._bucket, self._ident = bucket, record.ident
        self._parts = slices(record.runs, start, end)
        self._at = 0  # the part that is read
        self._done = 0  # bytes of it
        self._left = b""
        self._aborted = False
        self._next: Future[Iterator[bytes]] | None = None
        self._pieces = self._opened(0) if self._parts else iter(())
        self._left = self._piece()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            found = [self._left]
            while piece := self._piece():
                found.append(piece)
            self._left = b""
            return b"".join(found)
        if not self._left:
            self._left = self._piece()
        if len(self._left) <= size:
            data, self._left = self._left, b""
        else:
            data, self._left = self._left[:size], self._left[size:]
        return data

    def piece(self) -> bytes:
        """The next bytes, as many as have come together; b"" at the end. They are not copied."""
        if self._left:
            data, self._left = self._left, b""
            return data
        return self._piece()

    def abort(self) -> None:
        self._aborted = True

    def source(self) -> int | None:
        """The descriptor that can be read when the next bytes have come; None if they are to be asked for."""
        if self._left or self._aborted or not isinstance(self._pieces, DirectPieces):
            return None
        return self._pieces.source()

    def arrived(self, size: int) -> bytes | memoryview | None:
        """Take at most so many bytes without waiting; None if none has come, b"" if only ``read`` can go on."""
        assert isinstance(self._pieces, DirectPieces)
        piece = self._pieces.arrived(size)
        if piece:
            self._done += len(piece)
            self._look_ahead()
        return piece

    def passable(self) -> int:
        """How many bytes the kernel can take from the descriptor."""
        return self._pieces.passable() if isinstance(self._pieces, DirectPieces) else 0

    def taken(self, size: int) -> None:
        """So many bytes were taken from the descriptor by the kernel."""
        assert isinstance(self._pieces, DirectPieces)
        self._pieces.taken(size)
        self._done += size
        self._look_ahead()

    def close(self) -> None:
        self._parts, self._left = [], b""
        if isinstance(self._pieces, DirectPieces):
            self._pieces.close()
        ahead, self._next = self._next, None
        if ahead is not None:
            ahead.add_done_callback(_close_unread)
        self._pieces = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _piece(self) -> bytes:
        tries = 0
        while self._at < len(self._parts):
            if self._aborted:
                raise SystemFailure("reading the blob was stopped")
            try:
                piece = next(self._pieces, b"")
            except RemoteFailure:
                tries += 1
                if tries > _TRIES:
                    raise
                self._pieces = self._opened(self._done)
                continue
            if piece:
                self._done += len(piece)
                self._look_ahead()
                return piece
            _, _, start, end = self._parts[self._at]
            if self._done != end - start:
                raise SystemFailure(
                    f"a part of an upload ends after {self._done} of {end - start} bytes in {self._bucket.location}",
                    hint="run `lamina fsck --storage URL`",
                )
            self._at, self._done = self._at + 1, 0
            if self._at < len(self._parts):
                self._pieces = self._taken()
        return b""

    def _taken(self) -> Iterator[bytes]:
        """The part that was asked for ahead."""
        ahead, self._next = self._next, None
        if ahead is None:
            return self._opened(0)
        try:
            return ahead.result()
        except RemoteFailure:
            return self._opened(0)

    def _look_ahead(self) -> None:
        """Ask for the next part when little of this one is left: an answer that waits takes memory."""
        _, _, start, end = self._parts[self._at]
        if self._next is None and end - start - self._done <= _AHEAD and self._at + 1 < len(self._parts):
            self._next = ahead_of_need().submit(self._stream, self._parts[self._at + 1], 0)

    def _opened(self, done: int) -> Iterator[bytes]:
        return self._stream(self._parts[self._at], done)

    def _stream(self, part: tuple[int, int, int, int], done: int) -> Iterator[bytes]:
        epoch, number, start, end = part
        return self._bucket.stream(keys.part(self._ident, epoch, number), start + done, end)


def _close_unread(ahead: Future[Iterator[bytes]]) -> None:
    if not ahead.cancelled() and ahead.exception() is None:
        pieces = ahead.result()
        if isinstance(pieces, DirectPieces):
            pieces.close()


@cache
def ahead_of_need() -> ThreadPoolExecutor:
    """Threads that ask for parts before they are read."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(16, "lamina-ahead")
