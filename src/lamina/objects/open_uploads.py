"""Which uploads are open, of all servers of a bucket: for quotas, and for the limit of their number."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from lamina.errors import RateLimited, StoreDamaged
from lamina.objects import keys
from lamina.objects.documents import Upload
from lamina.objects.memory import Memory
from lamina.source.upload_limits import check_open_uploads

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket, Listed

BELIEVED = 10.0
"""Seconds for which a server believes its count, to which it adds its own uploads: those of other servers are seen so
much later."""
_AGAIN = 1.0  # seconds between two counts, if there is no room by the first
_IDLE = 3600.0
"""Seconds without a change after which an upload does not count: what clients have left behind must not keep others
out until gc removes it. A running request changes the state at least each half an hour."""
_MOST = 20_000  # states that are remembered


class OpenUploads:
    """The states of uploads in a bucket."""

    def __init__(self, bucket: Bucket, pool: Executor) -> None:
        self._bucket, self._pool = bucket, pool
        self._guard = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._counted: float | None = None
        self._states: Memory[tuple[str, str], tuple[str, int]] = Memory(_MOST)

    def begin(self, repository: str) -> None:
        """Count one more upload. Raises RateLimited if there are too many."""
        mark = keys.mark(repository)
        self._count_if_older(BELIEVED)
        try:
            self._check(mark)
        except RateLimited:
            self._count_if_older(_AGAIN)
            self._check(mark)
        with self._guard:
            self._counts[mark] += 1

    def ended(self, repository: str) -> None:
        """Count one upload less."""
        mark = keys.mark(repository)
        with self._guard:
            self._counts[mark] = max(0, self._counts[mark] - 1)

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        """The uploads to this repository ("": to all): by ident, the repository and the bytes received."""
        there = list(self._bucket.list(keys.uploads(repository) if repository else keys.UPLOADS))
        found = zip(there, self._pool.map(self._state, there), strict=True)
        return {one.key.rpartition("/")[2]: state for one, state in found if state is not None}

    def _check(self, mark: str) -> None:
        with self._guard:
            check_open_uploads(self._counts[mark], self._counts.total())

    def _count_if_older(self, seconds: float) -> None:
        with self._guard:
            if self._counted is not None and time.monotonic() - self._counted < seconds:
                return
            self._counted = time.monotonic()  # others need not count meanwhile
        try:
            since = time.time() - _IDLE
            counts = Counter(
                keys.mark_of_upload(one.key) for one in self._bucket.list(keys.UPLOADS) if one.modified > since
            )
        except BaseException:
            self._counted = None
            raise
        with self._guard:
            self._counts = counts

    def _state(self, one: Listed) -> tuple[str, int] | None:
        known = self._states.get((one.key, one.tag)) if one.tag else None
        if known is not None:
            return known
        found = self._bucket.get(one.key)
        if found is None:
            return None
        try:
            state = Upload.from_bytes(found.data, one.key)
        except StoreDamaged:
            return None  # gc removes it
        if one.tag and found.version.get("e_tag") == one.tag:
            self._states.put((one.key, one.tag), (state.repository, state.size))
        return state.repository, state.size
