"""The lease of gc: one gc runs at a time on a bucket. It saves work; blobs are safe without it."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from lamina.errors import Conflict
from lamina.objects import keys

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lamina.objects.bucket import Bucket, Version

EXPIRES = 600.0
_RENEWED = 60.0


def storage_time(bucket: Bucket) -> float:
    """The time by the clock of the storage, which dates all objects. Seconds; never later than now."""
    key = f"{keys.CLOCK}{secrets.token_hex(4)}"
    bucket.put(key, b"1")
    found = bucket.head(key)
    bucket.delete(key)
    assert found is not None
    return found.modified


class Lease:
    """A context manager. Raises Conflict if a gc is running elsewhere, or has ended less than ``unless_since``
    seconds ago."""

    def __init__(self, bucket: Bucket, now: float, *, unless_since: float = 0.0) -> None:
        self._bucket, self._now, self._unless = bucket, now, unless_since
        self._version: Version | None = None
        self._renewed = 0.0

    def __enter__(self) -> Self:
        self._renewed = time.monotonic()
        self._version = self._bucket.create(keys.LEASE, _data())
        if self._version is None:
            found = self._bucket.get(keys.LEASE)
            free = found is not None and b"free" in found.data and self._now - found.modified >= self._unless
            if found is not None and (free or self._now - found.modified > EXPIRES):
                self._version = self._bucket.swap(keys.LEASE, _data(), found.version)
        if self._version is None:
            raise Conflict(
                f"gc is running on {self._bucket.location} already",
                hint=f"wait until it has ended, or {EXPIRES / 60:.0f} minutes if it was killed",
            )
        return self

    def renew(self) -> None:
        """Raises Conflict if the lease was lost."""
        if self._version is None or time.monotonic() - self._renewed < _RENEWED:
            return
        self._renewed = time.monotonic()
        self._version = self._bucket.swap(keys.LEASE, _data(), self._version)
        if self._version is None:
            raise Conflict(f"another gc has begun on {self._bucket.location}", hint="let it end")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._version is not None:
            self._bucket.swap(keys.LEASE, _data("free"), self._version)  # deleting it could hit the next one


def _data(state: str = "running") -> bytes:
    return json.dumps({"gc": state, "nonce": secrets.token_hex(8)}).encode()
