"""Quotas: how many bytes repositories may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
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


class Quotas:
    """Checks quotas by counts that are remembered for a short time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[Quota | tuple[Quota, str], tuple[int, float]] = {}

    def check(self, quotas: Sequence[Quota], repository: str, more: int, place: Holdings) -> None:
        """Check that ``more`` bytes fit into every quota of a repository. Raises ApiError (403 DENIED)."""
        for quota in self._of(quotas, repository):
            held = self._held(quota, repository, place)
            if held + more > quota.size:
                what = familiar(repository) if quota.each else ", ".join(p.text for p in quota.repositories)
                raise ApiError(
                    403,
                    "DENIED",
                    f"the quota of {what} is {human_size(quota.size)}: {human_size(held)} are in use, "
                    f"{human_size(more)} more do not fit",
                )

    def add(self, quotas: Sequence[Quota], repository: str, more: int) -> None:
        """Count bytes that were taken in."""
        for quota in self._of(quotas, repository):
            key = _key(quota, repository)
            with self._guard:
                if key in self._counts:
                    held, until = self._counts[key]
                    self._counts[key] = held + more, until

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


def _key(quota: Quota, repository: str) -> Quota | tuple[Quota, str]:
    return (quota, repository) if quota.each else quota
