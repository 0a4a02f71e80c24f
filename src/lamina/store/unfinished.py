"""What a session of writing to the store has begun."""

from __future__ import annotations

from lamina.host.files import remove
from lamina.host.lock import unheld


class Pace:
    """How the disk keeps up with what a session writes: ``behind`` is set by the first file that notices."""

    def __init__(self) -> None:
        self.behind = False


class Unfinished:
    """The files that one session has begun and not brought to their end. Who brings them in takes them away; but a
    thread that is deep in the disk when the session is interrupted dies before it comes to that."""

    def __init__(self) -> None:
        self.tars: set[str] = set()
        self.parts: set[str] = set()
        self.pace = Pace()

    def drop(self, *, parts: bool) -> None:
        """Remove the tars, and the ``parts`` too (what could be gone on with) unless another process has them."""
        for path in filter(None, list(self.tars)):
            remove(path)
        for path in list(self.parts) if parts else ():
            # its holder may have ended meanwhile, and another process may have begun it anew
            with unheld(path) as free:
                if free:
                    remove(path)
