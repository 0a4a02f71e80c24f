"""The progress of a build on standard error: live lines on a terminal, BuildKit's plain lines elsewhere, or JSON.

Each display is a listener for the events of a build and a context manager.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lamina.build.events import VertexDone, VertexEvent, VertexLog, VertexNote, VertexStarted
from lamina.cli import warning
from lamina.cli.build.trace import CANCELED, Trace, Vertex, failure_lines, shown
from lamina.errors import Cancelled, LaminaError, UsageError
from lamina.events import BlobDone, BlobProgress, BlobStarted, Event, Warned

if TYPE_CHECKING:
    from lamina.cli.build.live import Screen

MODES = ("auto", "plain", "tty", "json", "rawjson", "quiet", "none")
_HELD = 5.0  # seconds that lines of another vertex wait for the current one
_MOST_HELD = 1000  # lines that wait; more are shown at once, so that they take no memory


def display(mode: str, *, quiet: bool = False) -> Display:
    """Return the display for ``--progress``. Raises UsageError (tty without a terminal, an unknown mode)."""
    if mode not in MODES:
        raise UsageError(f"--progress {mode!r:.60} is unknown", hint=f"use {', '.join(MODES)}")
    if quiet or mode in ("quiet", "none"):
        return Display()
    if mode in ("json", "rawjson"):
        return Json()
    is_terminal = sys.stderr.isatty()
    if mode == "tty" and not is_terminal:
        raise UsageError("--progress tty: standard error is not a terminal", hint="use --progress plain")
    if mode == "tty" or (mode == "auto" and is_terminal and os.environ.get("TERM") != "dumb"):
        return Live()
    return Plain()


class Display:
    """Shows nothing while the build runs; the base of all displays. Afterwards it shows the last output of a step
    that failed."""

    is_json = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.trace = Trace(clock)
        self._lock = threading.Lock()
        self.color = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def __call__(self, event: Event) -> None:
        with self._lock:
            vertex, lines = self.trace.update(event)
            self.show(event, vertex, lines)

    def show(self, event: Event, vertex: Vertex | None, lines: list[str]) -> None:
        """Show one event, whose vertex has these new lines."""
        if vertex is None and isinstance(event, Warned):
            self.write(warning(event.message))

    def close(self) -> None:
        """Show what is still to be shown."""

    def write(self, text: str) -> None:
        """Print a line to standard error."""
        import click

        click.echo(text, err=True, color=self.color or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self.close()
            if not self.is_json:
                for vertex in self.trace.failed:
                    if vertex.lines:
                        for line in failure_lines(vertex, color=self.color):
                            self.write(line)

    @contextmanager
    def vertex(self, label: str) -> Iterator[Callable[[Event], None]]:
        """Show the block as a vertex of its own. Yields the listener for its events."""
        number = max(self.trace.vertices, default=0) + 1
        began = self.trace.clock()
        self(VertexStarted(number, label))
        try:
            yield lambda event: self(VertexEvent(number, event))
        except LaminaError as error:
            said = CANCELED if isinstance(error, Cancelled) else error.message
            self(VertexDone(number, self.trace.clock() - began, error=said))
            raise
        except BaseException:
            self(VertexDone(number, self.trace.clock() - began, error=CANCELED))
            raise
        self(VertexDone(number, self.trace.clock() - began))


class Plain(Display):
    """The lines of BuildKit's plain progress. Lines of several vertices are not mixed: while one is shown, the
    lines of the others wait, at most a few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._current: Vertex | None = None
        self._waiting: dict[int, list[str]] = {}
        self._since: dict[int, float] = {}
        self._is_first = True

    def show(self, event: Event, vertex: Vertex | None, lines: list[str]) -> None:
        if vertex is None:
            super().show(event, vertex, lines)
            return
        if self._current is None or self._current is vertex:
            self._tell(vertex, lines)
        else:
            self._waiting.setdefault(vertex.number, []).extend(lines)
            self._since.setdefault(vertex.number, self.trace.clock())
        self._switch()

    def close(self) -> None:
        for number in list(self._waiting):
            self._tell(self.trace.vertices[number], self._waiting.pop(number))

    def _switch(self) -> None:
        """Show other vertices: when the current one is done, or when their lines have waited for long."""
        while self._waiting:
            ready = [number for number in self._waiting if self.trace.vertices[number].ended is not None]
            if self._current is None:
                number = (ready or list(self._waiting))[0]
            else:
                limit = self.trace.clock() - _HELD
                late = [
                    number
                    for number, lines in self._waiting.items()
                    if lines and (self._since[number] <= limit or len(lines) > _MOST_HELD)
                ]
                if not late:
                    return
                number = late[0]
            self._since.pop(number, None)
            self._tell(self.trace.vertices[number], self._waiting.pop(number))

    def _tell(self, vertex: Vertex, lines: list[str]) -> None:
        if self._current is not vertex:
            if self._current is not None:
                self.write(f"#{self._current.number} ...")
            if not self._is_first:
                self.write("")
            self._is_first = False
            self.write(f"#{vertex.number} {vertex.label}")
        for line in lines:
            self.write(f"#{vertex.number} {shown(line, color=self.color)}")
        self._current = None if vertex.ended is not None else vertex


class Json(Display):
    """BuildKit's raw progress: one JSON object a line, with vertexes, statuses, logs or warnings."""

    is_json = True

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._offset = time.time() - self.trace.clock()

    def show(self, event: Event, vertex: Vertex | None, lines: list[str]) -> None:
        from json import dumps

        said = self._said(event, vertex)
        if said:
            self.write(dumps(said, ensure_ascii=True))

    def _said(self, event: Event, vertex: Vertex | None) -> dict[str, Any]:
        from base64 import b64encode

        if vertex is None:
            return {"warnings": [_warned(event, None)]} if isinstance(event, Warned) else {}
        mine = _identity(vertex)
        now = self._time(self.trace.clock())
        if isinstance(event, (VertexStarted, VertexDone)):
            found: dict[str, Any] = {"digest": mine, "name": vertex.label, "started": self._time(vertex.began)}
            if vertex.ended is not None:
                found["completed"] = self._time(vertex.ended)
            if vertex.cached:
                found["cached"] = True
            if vertex.error:
                found["error"] = vertex.error
            return {"vertexes": [found]}
        if isinstance(event, VertexNote):
            noted = {"id": event.text, "vertex": mine, "timestamp": now, "started": now, "completed": now}
            return {"statuses": [noted]}
        if isinstance(event, VertexLog) and self.trace.is_clipped(vertex):
            return {}
        if isinstance(event, VertexLog):
            data = b64encode(event.data).decode("ascii")
            return {"logs": [{"vertex": mine, "stream": 1, "data": data, "timestamp": now}]}
        inner = event.event if isinstance(event, VertexEvent) else event
        if isinstance(inner, Warned):
            return {"warnings": [_warned(inner, mine)]}
        if isinstance(inner, (BlobStarted, BlobProgress, BlobDone)):
            transfer = vertex.transfers.get(inner.digest)
            began = self._time(transfer.began) if transfer is not None else now
            status: dict[str, Any] = {"id": str(inner.digest), "vertex": mine, "total": inner.size}
            status |= {"current": transfer.done if transfer is not None else 0, "timestamp": now, "started": began}
            if isinstance(inner, BlobDone):
                status["completed"] = now
            return {"statuses": [status]}
        return {}

    def _time(self, moment: float) -> str:
        import datetime

        at = datetime.datetime.fromtimestamp(moment + self._offset, datetime.UTC)
        return at.isoformat().replace("+00:00", "Z")


def _warned(event: Event, vertex: str | None) -> dict[str, Any]:
    from base64 import b64encode

    assert isinstance(event, Warned)
    short = b64encode(event.message.encode("utf-8", "backslashreplace")).decode("ascii")
    return {"vertex": vertex or "", "level": 1, "short": short}


def _identity(vertex: Vertex) -> str:
    """The digest by which raw progress names a vertex."""
    import hashlib

    name = f"{vertex.number} {vertex.label}".encode("utf-8", "surrogateescape")
    return f"sha256:{hashlib.sha256(name).hexdigest()}"


class Live(Display):
    """Lines that change, on a terminal: a step that is done is one line, a running one has its last output below."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._screen: Screen | None = None

    def show(self, event: Event, vertex: Vertex | None, lines: list[str]) -> None:
        if self._screen is None:
            from lamina.cli.build.live import Screen

            self._screen = Screen(self.trace, color=self.color)
            self._screen.start()
        super().show(event, vertex, lines)

    def write(self, text: str) -> None:
        if self._screen is not None:
            self._screen.write(text)
        else:
            super().write(text)

    def close(self) -> None:
        if self._screen is not None:
            screen, self._screen = self._screen, None
            screen.stop()
