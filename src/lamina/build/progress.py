"""Vertices of progress: numbered, timed, told to the build's listener."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.build.events import VertexDone, VertexEvent, VertexLog, VertexNote, VertexStarted
from lamina.build.instructions import At
from lamina.errors import Cancelled, LaminaError
from lamina.events import Event, OnEvent


class Vertex:
    """One line of progress while its block runs. Set ``cached`` if nothing had to be done."""

    def __init__(self, number: int, tell: OnEvent) -> None:
        self.number = number
        self.cached = False
        self._tell = tell

    def log(self, data: bytes) -> None:
        """Output of the step."""
        if data:
            self._tell(VertexLog(self.number, data))

    def note(self, text: str) -> None:
        """A line about the work."""
        self._tell(VertexNote(self.number, text))

    def event(self, event: Event) -> None:
        """An event of the work inside: a blob of a pull, a warning."""
        self._tell(VertexEvent(self.number, event))


class Progress:
    """Tells one event at a time, from any thread."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._lock = threading.Lock()
        self._count = 0

    def tell(self, event: Event) -> None:
        with self._lock:
            self._on_event(event)

    @contextmanager
    def vertex(self, label: str, at: At | None = None) -> Iterator[Vertex]:
        """A vertex that lasts as long as the block, and fails with it."""
        with self._lock:
            self._count += 1
            number = self._count
            self._on_event(VertexStarted(number, label, at))
        began = time.monotonic()
        vertex = Vertex(number, self.tell)
        try:
            yield vertex
        except Cancelled:
            self.tell(VertexDone(number, time.monotonic() - began, error="CANCELED"))
            raise
        except BaseException as error:
            why = error.message if isinstance(error, LaminaError) else str(error) or type(error).__name__
            self.tell(VertexDone(number, time.monotonic() - began, error=why))
            raise
        self.tell(VertexDone(number, time.monotonic() - began, cached=vertex.cached))
