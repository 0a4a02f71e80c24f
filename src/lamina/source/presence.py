"""Where the bytes of a blob or layer are: at this place, elsewhere, or nowhere that is known."""

from __future__ import annotations

from lamina.light import Value


class Presence(Value):
    """True if the object is at this place. ``origin``: if it is not, the repository (``host/path``) from which it can
    be fetched at any time; "" if no such repository is known."""

    here: bool
    origin: str = ""

    def __bool__(self) -> bool:
        return self.here


HERE, ABSENT = Presence(True), Presence(False)


def elsewhere(origin: str) -> Presence:
    """The presence of an object that is only at the repository ``origin``; ``ABSENT`` if that is ""."""
    return Presence(False, origin) if origin else ABSENT


def here_if(there: bool) -> Presence:
    """The presence of an object at a place that does not record origins."""
    return HERE if there else ABSENT
