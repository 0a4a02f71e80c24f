"""The format of a bucket: an object says which it is, so that no other version of lamina takes it for its own.

A bucket without this object has format 1: it is empty, or an older lamina has written it. The first write of anything
else writes the object before. Servers look at it again now and then: a newer lamina may have raised the format since.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, RemoteFailure, StoreDamaged, Unsupported
from lamina.objects import keys
from lamina.spec.json import load

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Found, Listed, Version, Writing

FORMAT = 1
"""A lamina that would misread or damage what this one writes has a lower number."""
EVERY = 60.0
"""Seconds after which the object is looked at again."""


def format_document(number: int = FORMAT) -> bytes:
    return json.dumps({"format": number}).encode() + b"\n"


def check_format(found: Found | None, location: str) -> None:
    """Raises Unsupported (a newer format), StoreDamaged (no format)."""
    if found is None:
        return
    number: object = None
    with suppress(LaminaError):
        number = load(found.data, keys.FORMAT).get("format")
    if type(number) is not int or number < 1:
        raise StoreDamaged(
            f"{keys.FORMAT} of {location} is not the format of a registry",
            hint="check the URL: something else may have written there",
        )
    if number > FORMAT:
        raise Unsupported(
            f"{location} has the unknown format {number}", hint="update lamina: a newer version wrote it"
        )


class FormattedBucket:
    """A ``Bucket`` that is used only if its format is known. Each method raises what ``check_format`` raises."""

    def __init__(self, bucket: Bucket, now: Callable[[], float] = time.monotonic) -> None:
        self._bucket, self._now = bucket, now
        self.location = bucket.location
        self._next = float("-inf")
        self._known = self._written = False

    def get(self, key: str) -> Found | None:
        self._check()
        return self._bucket.get(key)

    def head(self, key: str) -> Listed | None:
        self._check()
        return self._bucket.head(key)

    def put(self, key: str, data: bytes) -> Version:
        self._begin(key)
        return self._bucket.put(key, data)

    def write(self, key: str, part: int) -> Writing:
        self._begin(key)
        return self._bucket.write(key, part)

    def create(self, key: str, data: bytes) -> Version | None:
        self._begin(key)
        return self._bucket.create(key, data)

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        self._begin(key)
        return self._bucket.swap(key, data, version)

    def delete(self, key: str) -> None:
        self._check()
        self._bucket.delete(key)

    def delete_all(self, keys: Sequence[str]) -> None:
        self._check()
        self._bucket.delete_all(keys)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        self._check()
        return self._bucket.list(prefix, after)

    def stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        self._check()
        return self._bucket.stream(key, start, end)

    def url(self, key: str, seconds: int) -> str:
        return self._bucket.url(key, seconds)

    def _begin(self, key: str) -> None:
        """Check the format, and write it if it is not there, but not before an object that only tells the time."""
        self._check()
        if self._written or key.startswith(keys.CLOCK):
            return
        if self._bucket.create(keys.FORMAT, format_document()) is None:
            self._look()  # another one has written it since
        self._written = True

    def _check(self) -> None:
        now = self._now()
        if now < self._next:
            return
        if not self._known:
            self._look()
        else:
            self._next = now + EVERY  # other threads go on while this one looks again
            with suppress(RemoteFailure):  # the storage fails: what is asked for will say so
                self._look()

    def _look(self) -> None:
        now = self._now()
        found = self._bucket.get(keys.FORMAT)
        try:
            check_format(found, self.location)
        except LaminaError:
            self._known, self._next = False, float("-inf")
            raise
        self._written = found is not None
        self._known, self._next = True, now + EVERY
