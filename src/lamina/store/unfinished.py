"""What a session of writing to the store has begun."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.files import READ_FLAGS, remove
from lamina.store.lock import acquire


class Unfinished:
    """The files that one session has begun and not brought to their end. Who brings them in takes them away; but a
    thread that is deep in the disk when the session is interrupted dies before it comes to that."""

    def __init__(self) -> None:
        self.tars: set[str] = set()
        self.parts: set[str] = set()

    def drop(self, *, parts: bool) -> None:
        """Remove the tars, and the ``parts`` too (what could be gone on with) unless another process has them."""
        for path in list(self.tars):
            remove(path)
        for path in list(self.parts) if parts else ():
            with suppress(FileNotFoundError):
                descriptor = os.open(path, READ_FLAGS)
                try:
                    # who had it may have ended meanwhile, and somebody else have begun anew
                    if acquire(descriptor, path, wait=False) and os.path.samestat(
                        os.fstat(descriptor), os.stat(path)
                    ):
                        remove(path)
                finally:
                    os.close(descriptor)
