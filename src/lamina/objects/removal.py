"""Safe removal of objects that others may write again at the same moment.

Storage deletes without a condition. So an object is first changed to a tombstone, by comparison: a writer that has
read it before fails to write. Only the maker of the tombstone deletes it, and only within ``BUDGET`` seconds. Others
wait until it is deleted. If it stays for ``LEASE`` seconds, its maker has died, and they may write over it. Each
measures the time by its own clock: clocks need not agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lamina.errors import RemoteFailure

LEASE = 90.0
"""More than ``BUDGET`` and all tries of one deletion together."""

BUDGET = 10.0
_ROUNDS = 100
"""Times that others may change an object first: of those who do so at the same time, one always succeeds."""

POLL = 0.05


@dataclass(frozen=True)
class Clock:
    """The time in seconds, and how to wait; tests have their own."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


REAL = Clock()


class Deadline:
    """How long the maker of a tombstone may begin to delete."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end = clock.now() + BUDGET

    def over(self) -> bool:
        return self._clock.now() > self._end


class Patience:
    """Waiting for the end of a removal, and for one's turn among others who change an object."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rounds = 0
        self._seen: object = None
        self._first = self._since = clock.now()

    def is_over(self, version: object) -> bool:
        """Whether this tombstone has outlived its maker's lease. If not, wait a moment. Raises RemoteFailure if this
        goes on for too long."""
        now = self._clock.now()
        if version != self._seen:
            self._seen, self._since = version, now
        if now - self._since > LEASE:
            return True
        if now - self._first > 4 * LEASE:
            raise RemoteFailure("an object in the storage does not come to rest", hint="try again later")
        self._clock.pause(POLL)
        return False

    def again(self) -> None:
        """Another one changed the object first. Raises RemoteFailure if this happens too often."""
        self._rounds += 1
        if self._rounds > _ROUNDS:
            raise RemoteFailure(
                "the storage refuses each change of an object, as if it had just changed",
                hint="check that what is between this server and the storage passes ETag and If-Match on as they are",
            )
        if self._rounds > 5:
            self._clock.pause(POLL)
