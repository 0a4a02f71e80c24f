"""What a build has done so far, for its displays: vertices, their times, and the last lines of their output."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lamina.build.events import VertexDone, VertexEvent, VertexLog, VertexNote, VertexStarted
from lamina.cli.format.text import clean, human_size
from lamina.events import BlobDone, BlobProgress, BlobStarted, Event, Warned

if TYPE_CHECKING:
    from lamina.spec.digest import Digest

KEPT_LINES = 10
"""Lines of output that are shown again for a step that failed, as BuildKit does."""
_LONGEST = 16 << 10  # bytes of one line; a longer one is cut into several
_MOST_OUTPUT = 2 << 20
_COLOR = re.compile(r"\x1b\[[0-9;:]*m")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


class Transfer:
    """A blob that is copied in a vertex. ``told``: when a line said how far it is."""

    def __init__(self, what: str, size: int, began: float) -> None:
        self.what = what
        self.size = size
        self.began = self.told = began
        self.done = 0
        self.is_done = False


class Vertex:
    """One line of progress. Times are seconds of ``Trace.clock``. ``partial``: output that has no end of line yet,
    which began at ``partial_at``."""

    def __init__(self, number: int, label: str, began: float) -> None:
        self.number = number
        self.label = label
        self.began = began
        self.ended: float | None = None
        self.cached = False
        self.error = ""
        self.lines: deque[tuple[float, str]] = deque(maxlen=KEPT_LINES)
        self.output = 0  # bytes
        self.partial = bytearray()
        self.partial_at = began
        self.transfers: dict[Digest, Transfer] = {}

    def add(self, data: bytes, now: float) -> Iterator[tuple[float, str]]:
        """Take a piece of output; yield each line that is complete now, with its time since the vertex began."""
        if not self.partial:
            self.partial_at = now
        self.output += len(data)
        self.partial += data
        while True:
            end = self.partial.find(b"\n", 0, _LONGEST)
            if end < 0 and len(self.partial) < _LONGEST:
                return
            size = _LONGEST if end < 0 else end
            line = bytes(self.partial[:size])
            del self.partial[: size + (end >= 0)]
            yield self._kept(line)
            self.partial_at = now

    def rest(self) -> Iterator[tuple[float, str]]:
        """Yield the last line if it had no end."""
        if self.partial:
            line, self.partial = bytes(self.partial), bytearray()
            yield self._kept(line)

    def _kept(self, line: bytes) -> tuple[float, str]:
        made = (self.partial_at - self.began, line.decode("utf-8", "backslashreplace"))
        self.lines.append(made)
        return made


def shown(line: str, *, color: bool = False) -> str:
    """Return a line of output as it is safe to show (pure): what a carriage return would overwrite is left out, tabs
    become spaces, escape sequences are removed (``color``: those of colors stay), other control characters are
    escaped."""
    text = line.rstrip("\r").rpartition("\r")[2].expandtabs(8)
    if text.isprintable():
        return text
    pieces, at = [], 0
    for found in _SEQUENCE.finditer(text):
        pieces.append(clean(text[at : found.start()]))
        if color and _COLOR.fullmatch(found[0]):
            pieces.append(found[0])
        at = found.end()
    pieces.append(clean(text[at:]))
    ends_colored = color and any(piece.startswith("\x1b") for piece in pieces)
    return "".join(pieces) + ("\x1b[0m" if ends_colored else "")


def seconds(time: float) -> str:
    """``0.3s``, as BuildKit prints times (pure)."""
    return f"{max(0.0, time):.1f}s"


def _limit() -> int:
    """Bytes of output that are shown of one step: BUILDKIT_STEP_LOG_MAX_SIZE, -1 for all."""
    text = os.environ.get("BUILDKIT_STEP_LOG_MAX_SIZE", "")
    if text == "-1":
        return 1 << 62
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else _MOST_OUTPUT


class Trace:
    """The vertices of a build by number. ``update`` takes its events, from one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = clock()
        self.vertices: dict[int, Vertex] = {}
        self.warnings: list[str] = []
        self._most_output = _limit()

    def update(self, event: Event) -> tuple[Vertex | None, list[str]]:
        """Take an event. Returns its vertex (None: it belongs to none) and the lines that are new for it, without
        their number."""
        if isinstance(event, VertexStarted):
            found = self.vertices[event.number] = Vertex(event.number, clean(event.label), self.clock())
            return found, []
        if isinstance(event, VertexLog):
            return self._output(self.vertices[event.number], event.data)
        if isinstance(event, VertexNote):
            return self.vertices[event.number], [clean(event.text)]
        if isinstance(event, VertexEvent):
            vertex = self.vertices[event.number]
            return vertex, list(self._inner(vertex, event.event))
        if isinstance(event, VertexDone):
            return self._done(self.vertices[event.number], event)
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        return None, []

    def _output(self, vertex: Vertex, data: bytes) -> tuple[Vertex, list[str]]:
        before = vertex.output
        lines = [_stamped(line) for line in vertex.add(data, self.clock())]
        if vertex.output <= self._most_output:
            return vertex, lines
        if before > self._most_output:
            return vertex, []
        return vertex, [*lines, f"[output clipped, log limit {human_size(self._most_output)} reached]"]

    def is_clipped(self, vertex: Vertex) -> bool:
        """Whether the vertex has written more than is shown."""
        return vertex.output > self._most_output

    def _done(self, vertex: Vertex, event: VertexDone) -> tuple[Vertex, list[str]]:
        vertex.ended = vertex.began + event.seconds if event.seconds else self.clock()
        vertex.cached, vertex.error = event.cached, clean(event.error)
        rest = [_stamped(line) for line in vertex.rest()]
        lines = [] if self.is_clipped(vertex) else rest
        if vertex.error == CANCELED:
            lines.append(CANCELED)
        elif vertex.error:
            lines.append(f"ERROR: {vertex.error}")
        elif vertex.cached:
            lines.append("CACHED")
        else:
            lines.append(f"DONE {seconds(vertex.ended - vertex.began)}")
        return vertex, lines

    def _inner(self, vertex: Vertex, event: Event) -> Iterator[str]:
        now = self.clock()
        if isinstance(event, Warned):
            self.warnings.append(event.message)
            yield f"WARN: {clean(event.message)}"
        elif isinstance(event, BlobStarted):
            vertex.transfers.setdefault(event.digest, Transfer(event.what, event.size, now))
        elif isinstance(event, BlobProgress):
            transfer = vertex.transfers.get(event.digest)
            if transfer is not None:
                transfer.done = event.done
                if now - transfer.told >= TOLD_EVERY:
                    transfer.told = now
                    sizes = f"{human_size(event.done)} / {human_size(event.size)}"
                    yield f"{event.digest.short} {sizes} {seconds(now - transfer.began)}"
        elif isinstance(event, BlobDone):
            transfer = vertex.transfers.setdefault(event.digest, Transfer(event.what, event.size, now))
            if not transfer.is_done:
                transfer.is_done, transfer.done = True, event.size
                took = "already there" if event.reused else f"{seconds(now - transfer.began)} done"
                yield f"{event.what} {event.digest.short} {human_size(event.size)} {took}"

    @property
    def failed(self) -> list[Vertex]:
        """The vertices that failed by themselves."""
        return [one for one in self.vertices.values() if one.error and one.error != CANCELED]


CANCELED = "CANCELED"
TOLD_EVERY = 5.0
"""Seconds between two lines about a blob that is still being copied."""


def _stamped(line: tuple[float, str]) -> str:
    return f"{line[0]:.3f} {line[1]}"


def failure_lines(vertex: Vertex, *, color: bool = False) -> list[str]:
    """Return the last output of a step that failed, between two rules as in BuildKit (pure)."""
    rule = "------"
    lines = [f"{at:.3f} {shown(line, color=color)}" for at, line in vertex.lines]
    return [rule, f" > {vertex.label}:", *lines, rule]
