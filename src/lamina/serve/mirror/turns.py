"""A bounded number of things at a time, whose others wait for their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import ceil

from lamina.serve.busy import Busy

MOST_WAITING = 64
"""Requests that wait for a turn: half of those that a server works on for mirrored registries, so that the others get
what is here."""
_LOOK = 0.5  # seconds after which room may have come without a word
AGAIN = 10.0
"""Seconds after which a client that got no turn may ask again."""


class Turns:
    """``most`` at a time. ``guard`` is the lock of what they are for: each method is called with it."""

    def __init__(self, guard: threading.Lock, most: int) -> None:
        self._changed = threading.Condition(guard)
        self._most = most
        self._taken = self._waiting = 0

    def take(self, seconds: float, needless: Callable[[], bool], make_room: Callable[[], object] = bool) -> bool:
        """Take a turn; wait for it for so many seconds. Returns False if it is ``needless`` by then. ``make_room`` is
        called where there is none. Raises Busy."""
        deadline = time.monotonic() + seconds
        while not needless():
            if self._taken < self._most:
                self._taken += 1
                return True
            make_room()
            left = deadline - time.monotonic()
            if left <= 0 or self._waiting >= MOST_WAITING:
                raise Busy(
                    f"too much is being fetched from other registries: try again in {ceil(AGAIN)} s",
                    hint="the limit is set by --mirror-fetches",
                    retry_after=AGAIN,
                )
            self._waiting += 1
            try:
                self._changed.wait(min(left, _LOOK))
            finally:
                self._waiting -= 1
        return False

    def give_back(self) -> None:
        """End a turn."""
        self._taken -= 1
        self._changed.notify_all()

    def tell(self) -> None:
        """Let those who wait look whether their turn is needless now."""
        self._changed.notify_all()
