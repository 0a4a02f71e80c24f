"""What a reader of a log asks for, and gets (pure): pieces, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

Position = tuple[int, int]
"""Where a piece is in its log: the file, and the place in it. A later piece has a greater one."""


class Piece(NamedTuple):
    """What the program wrote at once, as the log holds it: a line, a part of one, or several. ``time_ns``:
    nanoseconds since 1970. ``stream``: 1 stdout, 2 stderr. ``details``: what the log holds about the container."""

    time_ns: int
    stream: int
    data: bytes
    details: str = ""


class Span(NamedTuple):
    """Bytes of a stream in a file, which the reader of the span copies."""

    stream: int
    descriptor: int
    start: int
    end: int


class Source(Protocol):
    """The files of a log. ``complete``: nobody writes it any more, so its end is read even if it has no record."""

    complete: bool

    def forward(self, apart: Position | None = None) -> Iterable[tuple[Position, Piece]]:
        """What was not read yet, up to the end that the log has now. ``apart``: pieces up to this position begin
        where those of ``backward`` begin; later ones may be larger. Raises OSError."""

    def bulk(self, choice: Choice) -> Iterable[Span | Piece]:
        """What ``forward`` gives and ``choice`` wants, without the times: in large pieces, or as ranges of files.
        Raises OSError."""

    def backward(self) -> Iterable[tuple[Position, Piece]]:
        """The newest first. Raises OSError."""

    def end(self) -> Position:
        """Where the next piece will be. Raises OSError."""

    def seek(self, position: Position) -> None:
        """Read on from here."""

    def watched(self) -> list[str]:
        """Paths that change when the log grows."""

    def close(self) -> None: ...


class Choice:
    """Which pieces are wanted. ``since``, ``until``: nanoseconds since 1970. ``starts``: for each stream where its
    first byte that is wanted is: a position, and how many bytes of that piece are skipped. ``over``: a piece after
    ``until`` was seen."""

    def __init__(
        self,
        since: int | None = None,
        until: int | None = None,
        starts: dict[int, tuple[Position, int]] | None = None,
    ) -> None:
        self.since, self.until, self.starts = since, until, starts
        self.over = False

    @property
    def is_all(self) -> bool:
        """Whether everything from here on is wanted."""
        return self.since is None and self.until is None and self.starts is None

    @property
    def last_start(self) -> Position | None:
        """The last position of ``starts``."""
        return max(position for position, _ in self.starts.values()) if self.starts is not None else None

    def skipped(self, position: Position, time_ns: int, stream: int, size: int) -> int:
        """How many bytes at the start of a piece of this size are not wanted."""
        if self.until is not None and time_ns > self.until:
            self.over = True
            return size
        if self.since is not None and time_ns < self.since:
            return size
        if self.starts is not None:
            start, offset = self.starts[stream]
            if position < start:
                return size
            if position == start:
                return offset
        return 0


def wanted_pieces(source: Source, choice: Choice) -> Iterator[Piece]:
    """What can be read and ``choice`` wants. Raises OSError."""
    for position, piece in source.forward(choice.last_start):
        size = len(piece.data)
        skipped = choice.skipped(position, piece.time_ns, piece.stream, size)
        if choice.over:
            return
        if skipped < size:
            yield piece._replace(data=piece.data[skipped:]) if skipped else piece


def starts_of_tail(
    backward: Iterable[tuple[Position, Piece]], count: int, end: Position
) -> dict[int, tuple[Position, int]]:
    """Where the last ``count`` lines begin, in each stream. Lines are counted in the order of their ends; what comes
    after the last newline of a stream is a line too."""
    starts = {1: (end, 0), 2: (end, 0)}
    seen: set[int] = set()
    inside: set[int] = set()  # streams with a wanted line whose start was not found yet
    left = count
    for position, (_, stream, data, _) in backward:
        if not left and not inside:
            break
        size = len(data)
        if stream not in seen and size:
            seen.add(stream)
            if left and not data.endswith(b"\n"):
                left -= 1
                inside.add(stream)
        ends = data.count(b"\n")
        if ends < left:
            left -= ends
            if ends:
                inside.add(stream)
            if stream in inside:
                starts[stream] = position, 0
            continue
        at = size
        while stream in inside or left:
            newline = data.rfind(b"\n", 0, at)
            if stream in inside and newline + 1 < size:
                starts[stream] = position, newline + 1
            if newline < 0:
                break
            inside.discard(stream)
            if left:
                left -= 1
                inside.add(stream)
            at = newline
    return starts
