"""Quotas: how many bytes repositories may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.serve.access.rules import Quota
from lamina.serve.access.scopes import familiar
from lamina.serve.routes import ApiError
from lamina.text import human_size

if TYPE_CHECKING:
    from lamina.serve.permit import Holdings

LIFE = 10.0
"""Seconds for which a count is believed. What this server takes in meanwhile is added; what another one takes in is
not, so a quota may be exceeded by what arrives elsewhere in this time."""
_MOST = 10_000

Key = Quota | tuple[Quota, str]


class Quotas:
    """Checks quotas by counts that are remembered for a short time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[Key, tuple[int, float]] = {}
        self._coming: dict[Key, int] = {}
        """Bytes that are being taken in, of which a count may not know yet."""

    def check(self, quotas: Sequence[Quota], repository: str, more: int, place: Holdings) -> None:
        """Check that ``more`` bytes fit into every quota of a repository. Raises ApiError (403 DENIED)."""
        for quota in self._of(quotas, repository):
            held = self._held(quota, repository, place)
            with self._guard:
                self._fit(quota, repository, held, more)

    @contextmanager
    def room(self, quotas: Sequence[Quota], repository: str, more: int, place: Holdings) -> Iterator[None]:
        """Check the same, and count the bytes: as coming while the block runs, as held if it succeeds. Raises
        ApiError."""
        coming: list[Key] = []
        try:
            for quota in self._of(quotas, repository):
                held, key = self._held(quota, repository, place), _key(quota, repository)
                with self._guard:
                    self._fit(quota, repository, held, more)
                    self._coming[key] = self._coming.get(key, 0) + more
                    coming.append(key)
            yield
        except BaseException:
            self._came(coming, more, taken=0)
            raise
        self._came(coming, more, taken=more)

    def _came(self, keys: Sequence[Key], more: int, *, taken: int) -> None:
        """Bytes that were coming are no longer; ``taken`` of them are held."""
        with self._guard:
            for key in keys:
                left = self._coming.pop(key) - more
                if left:
                    self._coming[key] = left
                if key in self._counts:
                    held, until = self._counts[key]
                    self._counts[key] = held + taken, until

    def _fit(self, quota: Quota, repository: str, held: int, more: int) -> None:
        """Under the guard: raise ApiError unless ``more`` bytes fit. ``held``: as it was counted before."""
        key = _key(quota, repository)
        held = max(held, self._counts.get(key, (0, 0.0))[0]) + self._coming.get(key, 0)
        if held + more > quota.size:
            what = familiar(repository) if quota.each else ", ".join(p.text for p in quota.repositories)
            raise ApiError(
                403,
                "DENIED",
                f"the quota of {what} is {human_size(quota.size)}: {human_size(held)} are in use, "
                f"{human_size(more)} more do not fit",
            )

    @staticmethod
    def _of(quotas: Sequence[Quota], repository: str) -> list[Quota]:
        if not quotas:
            return []
        name = familiar(repository)
        return [quota for quota in quotas if quota.covers(name)]

    def _held(self, quota: Quota, repository: str, place: Holdings) -> int:
        key, now = _key(quota, repository), time.monotonic()
        with self._guard:
            held, until = self._counts.get(key, (0, -1.0))
        if now < until:
            return held
        if quota.each:
            held = place.usage(repository)
        else:
            held = sum(place.usage(name) for name in place.names() if quota.covers(familiar(name)))
        with self._guard:
            if len(self._counts) >= _MOST:
                self._counts.clear()
            self._counts[key] = held, now + LIFE
        return held


def _key(quota: Quota, repository: str) -> Key:
    return (quota, repository) if quota.each else quota
