"""Progress and cancellation (floor 1): what long operations tell, and how they are stopped.

Each long operation takes ``on_event`` (a callable that gets one frozen dataclass at a time, from any thread)
and ``cancel``. Neither is ever required.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lamina.errors import Cancelled
from lamina.spec.digest import Digest


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class BlobStarted(Event):
    """A blob begins to move. ``what`` is "layer", "config", "manifest" or "blob"; size in bytes."""

    digest: Digest
    size: int
    what: str = "blob"


@dataclass(frozen=True, slots=True)
class BlobProgress(Event):
    """So many bytes of the blob have been moved in all."""

    digest: Digest
    done: int
    size: int


@dataclass(frozen=True, slots=True)
class BlobDone(Event):
    """The blob is at its target and verified. ``reused`` if it was there already and nothing moved."""

    digest: Digest
    size: int
    what: str = "blob"
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Tagged(Event):
    """A name points to this digest now."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something worth a word that did not stop the operation."""

    message: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default listener."""


class Cancel:
    """A flag that stops a long operation at its next step; ``set`` may be called from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``Cancelled`` once ``set`` was called."""
        if self._event.is_set():
            raise Cancelled("cancelled")
