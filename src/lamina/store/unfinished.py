"""The unfinished files of one session of writing to the store."""

from __future__ import annotations

from lamina.host.files import remove
from lamina.host.lock import unheld


class DiskDelay:
    """Whether the disk is slower than the writes of a session: the first file that waits too long sets
    ``noticed``."""

    def __init__(self) -> None:
        self.noticed = False


class Unfinished:
    """The files that one session has begun and not finished. The code that brings a file in normally removes it after
    an error; this covers threads that die while they wait for the disk, when the session is interrupted."""

    def __init__(self) -> None:
        self.tars: set[str] = set()
        self.parts: set[str] = set()
        self.delay = DiskDelay()

    def drop(self, *, parts: bool) -> None:
        """Remove the tars; with ``parts`` also the part files (which a later run could resume), unless another
        process holds them."""
        for path in filter(None, list(self.tars)):
            remove(path)
        for path in list(self.parts) if parts else ():
            # The thread that held it may have ended, and another process may have begun the same part file again.
            with unheld(path) as free:
                if free:
                    remove(path)
