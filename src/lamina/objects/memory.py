"""What a server remembers, within bounds, for many threads. All of it can be forgotten at any time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The values that were used last. ``weigh``: the weight of a value, so that the sum stays below ``limit``;
    ``seconds``: how long a value is remembered."""

    def __init__(
        self,
        limit: int,
        *,
        weigh: Callable[[V], int] = lambda _: 1,
        seconds: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._weigh, self._seconds, self._now = limit, weigh, seconds, now
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._weight = 0
        self._guard = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._guard:
            found = self._values.get(key)
            if found is None:
                return None
            if self._seconds is not None and self._now() - found[1] > self._seconds:
                self._drop(key)
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V) -> None:
        with self._guard:
            self._drop(key)
            weight = self._weigh(value)
            if weight > self._limit:
                return
            self._values[key] = (value, self._now())
            self._weight += weight
            while self._weight > self._limit:
                self._drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        with self._guard:
            self._drop(key)

    def _drop(self, key: K) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._weight -= self._weigh(found[0])
