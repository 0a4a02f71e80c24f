"""An object of any length that is written while its bytes arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING

from lamina.objects.filling import Budget, Filling

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Writing

PART = 8 << 20
"""Bytes of a part of a multipart upload. S3 wants at least 5 MiB."""

SENDERS = 4
"""Threads that send parts. A part is in memory as a whole only while one of them sends it."""

WAITING = 16 << 20
"""Bytes in memory of all parts that fill or wait for a sender."""

_SMALL = 256 << 10


class Senders:
    """What all uploads of a server share: the threads that send, and the memory."""

    def __init__(self, pool: Executor, budget: Budget) -> None:
        self.pool, self.budget = pool, budget


class LongObject:
    """An object that grows. Nobody sees it before it is closed. A part is sent while the next one fills. What is not
    longer than a part becomes a plain object."""

    def __init__(self, bucket: Bucket, key: str, senders: Senders) -> None:
        self._bucket, self._key, self._senders = bucket, key, senders
        self._filling = Filling(senders.budget)
        self._writing: Writing | None = None
        self._under_way: Future[None] | None = None
        self.size = 0

    @property
    def is_short(self) -> bool:
        """Whether nothing was sent yet."""
        return self._writing is None

    def add(self, piece: bytes) -> None:
        """Add bytes; waits while the storage is slower than they come. After a failure the object can't be closed."""
        self.size += len(piece)
        while True:
            # one byte more than a part: with it the storage's client waits until the part has arrived
            room = PART - self._filling.size + (1 if self._writing is None else 0)
            if len(piece) < room:
                if piece:
                    self._filling.add(piece)
                return
            self._filling.add(piece[:room])
            piece = piece[room:]
            self._send()

    def take(self) -> bytes:
        """Take out the bytes of a short object, which is not made then."""
        filling, self._filling, self.size = self._filling, Filling(self._senders.budget), 0
        return b"".join(filling.pieces())

    def close(self) -> None:
        """Make the object: it is durable, and seen by all, when this returns."""
        if self._writing is None:
            put(self._bucket, self._key, self.take(), self._senders)
            return
        self._arrived()
        filling, writing = self._filling, self._writing

        def finish() -> None:
            writing.write(filling.pieces())
            writing.close()

        self._run(filling, finish).result()

    def drop(self) -> None:
        """Forget what has not been sent."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            wait([under_way])
        self._filling.drop()

    def _send(self) -> None:
        self._arrived()
        if self._writing is None:
            self._writing = self._bucket.write(self._key, PART)
        writing = self._writing
        filling, self._filling = self._filling, Filling(self._senders.budget)
        self._under_way = self._run(filling, lambda: writing.write(filling.pieces()))

    def _arrived(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _run(self, filling: Filling, work: Callable[[], None]) -> Future[None]:
        def run() -> None:
            try:
                work()
            finally:
                filling.drop()

        return self._senders.pool.submit(run)


def put(bucket: Bucket, key: str, data: bytes, senders: Senders) -> None:
    """Put an object that is not longer than a part."""
    if len(data) <= _SMALL:
        bucket.put(key, data)
    else:
        senders.pool.submit(bucket.put, key, data).result()
