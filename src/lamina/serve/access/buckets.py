"""Token buckets: how often each client may do something. Bounded in memory (pure)."""

from __future__ import annotations

import threading
from collections import OrderedDict

MAX_KEYS = 10_000


class Buckets:
    """One bucket for each key: it holds up to ``burst`` tokens and gains ``rate`` a second. The keys that were used
    least recently are forgotten when there are too many."""

    def __init__(self, rate: float, burst: float, most: int = MAX_KEYS) -> None:
        self._rate, self._burst, self._most = rate, max(burst, 1.0), most
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._guard = threading.Lock()

    def take(self, key: str, now: float) -> float:
        """Take a token. Returns 0, or the seconds until there is one (nothing was taken then)."""
        with self._guard:
            level = self._level(key, now)
            if level < 1:
                self._levels[key] = (level, now)
                return max((1 - level) / self._rate, 0.001)
            self._put(key, level - 1, now)
            return 0.0

    def charge(self, key: str, now: float) -> None:
        """Take a token even if there is none: the next one comes later then. For what is only known afterwards, so
        that requests that run at once can't get more than one after the other."""
        with self._guard:
            self._put(key, max(self._level(key, now) - 1, -10 * self._burst), now)

    def wait(self, key: str, now: float) -> float:
        """The seconds until there is a token; 0 if there is one. Nothing is taken."""
        with self._guard:
            level = self._level(key, now)
        return 0.0 if level >= 1 else max((1 - level) / self._rate, 0.001)

    def _level(self, key: str, now: float) -> float:
        level, seen = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + max(now - seen, 0.0) * self._rate)

    def _put(self, key: str, level: float, now: float) -> None:
        self._levels[key] = (level, now)
        self._levels.move_to_end(key)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
