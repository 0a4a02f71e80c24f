"""Whether something is at a place: here, elsewhere, or not at all."""

from __future__ import annotations

from lamina.light import Value


class Presence(Value):
    """True where it is here. ``origin``: where it is not here, the repository (``host/path``) that has it and gives
    it again at any time; "" where nobody is known to have it."""

    here: bool
    origin: str = ""

    def __bool__(self) -> bool:
        return self.here


HERE, ABSENT = Presence(True), Presence(False)


def elsewhere(origin: str) -> Presence:
    """Not here but at ``origin``; "" is as ``ABSENT``."""
    return Presence(False, origin) if origin else ABSENT


def here_if(there: bool) -> Presence:
    """For a place that keeps no note of other places."""
    return HERE if there else ABSENT
