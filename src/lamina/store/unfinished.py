"""The unfinished files of one session of writing to the store."""

from __future__ import annotations

from lamina.host.files import remove
from lamina.host.lock import unheld


class Pace:
    """Whether the disk keeps up with the writes of a session: the first file that notices a delay sets ``behind``."""

    def __init__(self) -> None:
        self.behind = False


class Unfinished:
    """The files that one session has begun and not finished. The code that brings a file in normally removes it after
    an error; this covers threads that die while they wait for the disk, when the session is interrupted."""

    def __init__(self) -> None:
        self.tars: set[str] = set()
        self.parts: set[str] = set()
        self.pace = Pace()

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
