"""How many connections each client address has, in all processes of a server.

The processes share a table of counts: one row for each process, which alone writes to it, and one column for all
addresses with the same hash. So nobody needs a lock, and the row of a process that was killed is cleared by the one
that takes its place. The hash is keyed: nobody can choose an address that shares a column with another one.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence

from lamina.serve.asgi.forwarded import Network, is_in
from lamina.serve.client_key import address_key

_COLUMNS = 1 << 15
_SIZE = 2  # bytes of a count


class Callers:
    """``most``: connections at once from one address (IPv6: from one /64 network). Trusted proxies and Unix sockets
    have no limit. It is made before the processes are forked; each of them calls ``begin``."""

    def __init__(self, most: int, trusted: Sequence[Network] = (), processes: int = 1) -> None:
        self._most, self._trusted, self._processes = most, trusted, processes
        self._counts = memoryview(mmap.mmap(-1, processes * _COLUMNS * _SIZE)).cast("H")
        self._key = os.urandom(16)
        self._row = 0

    def begin(self, number: int) -> None:
        """Count in the row of this process, which has no connections yet."""
        self._row = number * _COLUMNS
        for column in range(_COLUMNS):
            if self._counts[self._row + column]:
                self._counts[self._row + column] = 0

    def enter(self, address: str) -> int | None:
        """Count a connection. Returns its column; None if the address ("": of a Unix socket) has no limit."""
        if not address or is_in(address, self._trusted):
            return None
        hashed = hashlib.blake2b(address_key(address).encode(), digest_size=4, key=self._key).digest()
        column = int.from_bytes(hashed, "big") % _COLUMNS
        self._counts[self._row + column] += 1
        return column

    def is_over(self, column: int) -> bool:
        """Whether the addresses of a column have more connections than they may."""
        rows = range(column, self._processes * _COLUMNS, _COLUMNS)
        return sum(self._counts[at] for at in rows) > self._most

    def leave(self, column: int) -> None:
        """Count one connection less."""
        self._counts[self._row + column] -= 1
