"""What a build tells its listener, besides the events of pulls (``lamina.events``).

A vertex is one line of progress: a base image, a context, a step, the export. Vertices are numbered from 1 in the
order in which they begin.
"""

from __future__ import annotations

from lamina.build.instructions import At
from lamina.events import Event
from lamina.light import Value


class BuildEvent(Event):
    """Base of all events of a build."""


class VertexStarted(BuildEvent):
    """``label``: ``[build 2/5] RUN make``, ``[internal] load build context``. ``at``: its instruction, if it has
    one."""

    number: int
    label: str
    at: At | None = None


class VertexLog(BuildEvent):
    """Output of a step: a piece of text, not a whole line."""

    number: int
    data: bytes


class VertexEvent(BuildEvent):
    """An event of the work in a vertex: the progress of a blob of a base image, a warning."""

    number: int
    event: Event


class VertexNote(BuildEvent):
    """A line about the work in a vertex: what was read, written or named."""

    number: int
    text: str


class VertexDone(BuildEvent):
    """``cached``: nothing had to be done. ``error``: why it failed, "" if it did not; "CANCELED" where another one
    failed. ``seconds``: how long it took."""

    number: int
    seconds: float = 0.0
    cached: bool = False
    error: str = ""


class Ran(Value):
    """A step of a build, for `--why`. ``key``: its key. ``cached``: its result was there. ``differs``: the named
    parts that differ from the newest record of the same place: (name, before, now); () where there was no such
    record, or it was cached. ``reason``: why it ran, in one line."""

    label: str
    at: At
    key: str
    cached: bool
    reason: str = ""
    differs: tuple[tuple[str, str, str], ...] = ()
