"""Which uploads are open, of all servers of a bucket: for quotas, and for the limit of their number."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from lamina.errors import RateLimited, StoreDamaged, SystemFailure
from lamina.objects import keys
from lamina.objects.documents import Upload
from lamina.objects.memory import Memory
from lamina.source.upload_limits import Open, Opener, check_open_uploads, client_mark_in, mark_of_client, new_ident

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
        self._of_clients: Counter[str] = Counter()
        self._key = b""
        self._counted: float | None = None
        self._states: Memory[tuple[str, str], tuple[str, int]] = Memory(_MOST)

    def begin(self, repository: str, opener: Opener | None) -> str:
        """Count one more upload. Returns its ident. Raises RateLimited if there are too many."""
        ident = new_ident(mark_of_client(opener.name, self._client_key()) if opener is not None else "")
        self._count_if_older(BELIEVED)
        try:
            self._add(repository, ident, opener)
        except RateLimited:
            self._count_if_older(_AGAIN)
            self._add(repository, ident, opener)
        return ident

    def ended(self, repository: str, ident: str) -> None:
        """Count one upload less."""
        with self._guard:
            for counts, mark in (
                (self._counts, keys.mark(repository)),
                (self._of_clients, client_mark_in(ident)),
            ):
                counts[mark] -= 1
                if counts[mark] <= 0:
                    del counts[mark]

    def received(self, repository: str = "") -> dict[str, tuple[str, int]]:
        """The uploads to this repository ("": to all): by ident, the repository and the bytes received."""
        there = list(self._bucket.list(keys.uploads(repository) if repository else keys.UPLOADS))
        found = zip(there, self._pool.map(self._state, there), strict=True)
        return {one.key.rpartition("/")[2]: state for one, state in found if state is not None}

    def _add(self, repository: str, ident: str, opener: Opener | None) -> None:
        """Raises RateLimited."""
        mark, client = keys.mark(repository), client_mark_in(ident)
        with self._guard:
            check_open_uploads(Open(self._counts[mark], self._of_clients[client], self._counts.total()), opener)
            self._counts[mark] += 1
            self._of_clients[client] += 1

    def _client_key(self) -> bytes:
        """The key for the marks of clients, the same for all servers: the idents of uploads are in the URLs of blobs
        (``--redirect``), by which nobody may find out who has pushed them."""
        if not self._key:
            found = self._bucket.get(keys.CLIENT_KEY)
            if found is None:
                self._bucket.create(keys.CLIENT_KEY, secrets.token_bytes(32))  # unless another server has made it now
                found = self._bucket.get(keys.CLIENT_KEY)
            if found is None:
                raise SystemFailure(f"{self._bucket.location}: {keys.CLIENT_KEY} was removed", hint="try again")
            self._key = found.data
        return self._key

    def _count_if_older(self, seconds: float) -> None:
        with self._guard:
            if self._counted is not None and time.monotonic() - self._counted < seconds:
                return
            self._counted = time.monotonic()  # others need not count meanwhile
        try:
            since = time.time() - _IDLE
            found = [one.key for one in self._bucket.list(keys.UPLOADS) if one.modified > since]
        except BaseException:
            self._counted = None
            raise
        with self._guard:
            self._counts = Counter(map(keys.mark_of_upload, found))
            self._of_clients = Counter(map(client_mark_in, found))

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
