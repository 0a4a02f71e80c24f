"""The verb `logs`."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import click

from lamina.cli import EXIT_INTERRUPTED, EXIT_UNREAD, warn
from lamina.cli.containers.several import chosen, latest_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import UsageError
from lamina.run.logs.pieces import Piece

if TYPE_CHECKING:
    from lamina.run.container.log import Log
    from lamina.run.logs.pieces import Span
    from lamina.store.containers import Container

_COPY = 1 << 20
_COLORS = tuple(f"\033[{number}m".encode() for number in (37, 31, 32, 33, 34, 35, 36))
_PLAIN = b"\033[0m"


@command(
    "logs",
    "lamina logs web\nlamina logs -f --tail 20 web\nlamina logs -t --since 10m web\n"
    "lamina logs -f --names web db worker",
)
@click.argument("names", nargs=-1, metavar="CONTAINER...")
@click.option("-f", "--follow", is_flag=True, help="Wait for more output, until the container ends.")
@click.option("--tail", default="all", metavar="N", help="Show only the last N lines (default: all).")
@click.option("-n", "short", default="", metavar="N", help="As --tail; or, as in podman, before a name: as --names.")
@click.option("--since", default=None, metavar="TIME", help="Show output from TIME on: 10m, 2026-01-31T12:00:00Z.")
@click.option("--until", default=None, metavar="TIME", help="Show output before TIME.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--details", is_flag=True, help="Show what --log-opt labels, env and tag have put into the log.")
@click.option(
    "--names",
    "by_name",
    is_flag=True,
    help="With several containers: their names instead of their IDs.",
)
@click.option("--color", is_flag=True, help="With several containers: give each a color.")
@latest_option
@click.pass_obj
def logs(
    session: Session,
    names: tuple[str, ...],
    follow: bool,
    tail: str,
    short: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    details: bool,
    by_name: bool,
    color: bool,
    latest: bool,
) -> int:
    """Show what containers have written to standard output and standard error, on the same streams. With several
    containers each line begins with the ID of its container.

    TIME is a length of time up to now (10m, 1h30m), a date (2026-01-31, 2026-01-31T12:00:00Z; local without a zone),
    or seconds since 1970. With --tail, the last lines are chosen first."""
    if short and not _is_count(short):  # podman's -n
        names, by_name = (short, *names), True
    elif short:
        tail = short
    lines = count(tail)
    found = [session.store.containers.get(name) for name in chosen(session, names, latest=latest) or ()]
    times = {"since": since, "until": until}
    form = Form(timestamps=timestamps, details=details)
    return show(session, found, form, **times, tail=lines, follow=follow, by_name=by_name, color=color)


def show(
    session: Session,
    found: Sequence[Container],
    form: Form,
    *,
    since: str | None,
    until: str | None,
    tail: int | None,
    follow: bool,
    by_name: bool,
    color: bool,
) -> int:
    """Show the logs of containers; the exit code. The arguments are those of the verb."""
    from lamina.run.container.log import Log
    from lamina.spec.moment import parse_moment

    now = time.time_ns()
    times = {
        name: None if text is None else parse_moment(text, now) for name, text in (("since", since), ("until", until))
    }
    with ExitStack() as stack:
        opened = [
            stack.enter_context(closing(Log(session.store, one, follow=follow, **times, tail=tail, on_warning=warn)))
            for one in found
        ]
        heads = _heads(found, by_name, color) if len(found) > 1 else [b""]
        with suppress(KeyboardInterrupt):
            return _show(opened, heads, form, follow)
    return EXIT_INTERRUPTED


def _is_count(text: str) -> bool:
    return text == "all" or text.removeprefix("-").isdigit()


def count(text: str) -> int | None:
    """The number of ``--tail``; None for all lines, which docker understands by a negative number too."""
    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"--tail {text!r:.60} is not a number", hint="give a number of lines, or all") from None
    return None if number < 0 else number


def _heads(chosen: Sequence[Container], by_name: bool, color: bool) -> list[bytes]:
    """What the lines of each container begin with."""
    heads = []
    for number, one in enumerate(chosen):
        head = (one.name if by_name else one.id[:12]).encode()
        if color:
            head = _COLORS[number % len(_COLORS)] + head + _PLAIN
        heads.append(head + b" ")
    return heads


def _show(opened: Sequence[Log], heads: Sequence[bytes], form: Form, follow: bool) -> int:
    """Write the logs, and what comes to them. Returns the exit code."""
    from lamina.run.container.log import Waiter

    output = _Output()
    if len(opened) == 1 and not form.is_needed:
        shown: list[_Lines] = []
    else:
        shown = [_Lines(output, head, form, whole=len(opened) > 1) for head in heads]
    with closing(Waiter([log for log in opened if log.follows], output.waiting if follow else -1)) as waiter:
        while True:
            for number, log in enumerate(opened):
                if not shown:
                    output.copy(log.bulk())
                elif not (log.is_over and shown[number].is_closed):
                    shown[number].show(log.available())
                    if log.is_over:
                        shown[number].close()
            if all(log.is_over for log in opened):
                return 0
            if not waiter.wait():
                return EXIT_UNREAD


class Form:
    """What each line begins with."""

    def __init__(self, *, timestamps: bool, details: bool) -> None:
        self.timestamps, self.details = timestamps, details

    @property
    def is_needed(self) -> bool:
        return self.timestamps or self.details

    def head(self, piece: Piece) -> bytes:
        """What each line of a piece begins with."""
        head = b""
        if self.timestamps:
            from lamina.run.logs.stamp import fixed

            head = fixed(piece.time_ns).encode() + b" "
        if self.details:
            head += piece.details.encode("utf-8", "replace") + b" "
        return head


class _Lines:
    """The lines of one container, each with its beginning. ``whole``: a line is written when it is complete, so that
    lines of several containers do not mix."""

    def __init__(self, output: _Output, head: bytes, form: Form, *, whole: bool) -> None:
        self._output, self._head, self._form, self._whole = output, head, form, whole
        self._held = {1: b"", 2: b""}
        self._is_inside = {1: False, 2: False}
        self.is_closed = False

    def show(self, pieces: Iterator[Piece]) -> None:
        """Write the lines of these pieces, many at once."""
        held: list[bytes] = []
        stream, size = 1, 0
        for piece in pieces:
            if piece.stream != stream or size > _COPY:
                self._write(stream, b"".join(held))
                held, stream, size = [], piece.stream, 0
            held.append(self._with_heads(piece))
            size += len(held[-1])
        self._write(stream, b"".join(held))

    def _write(self, stream: int, data: bytes) -> None:
        if self._whole:
            whole, newline, rest = (self._held[stream] + data).rpartition(b"\n")
            self._held[stream] = rest
            data = whole + newline
        self._output.write(stream, data)

    def close(self) -> None:
        self.is_closed = True
        for stream, rest in self._held.items():
            if rest:
                self._output.write(stream, rest + b"\n")

    def _with_heads(self, piece: Piece) -> bytes:
        head, data = self._head + self._form.head(piece), piece.data
        if not head or not data:
            return data
        begins_inside, ends = self._is_inside[piece.stream], data.endswith(b"\n")
        self._is_inside[piece.stream] = not ends
        text = data[:-1] if ends else data
        text = text.replace(b"\n", b"\n" + head)
        return (b"" if begins_inside else head) + text + (b"\n" if ends else b"")


class _Output:
    """Standard output and standard error, as bytes."""

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._descriptors = {1: sys.stdout.fileno(), 2: sys.stderr.fileno()}
        self._plain: set[int] = set()  # streams to which the kernel can't copy

    @property
    def waiting(self) -> int:
        """The descriptor whose reader's end is noticed."""
        return self._descriptors[1]

    def write(self, stream: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptors[stream], view) :]
            except BlockingIOError:
                _until_writable(self._descriptors[stream])

    def copy(self, parts: Iterator[Span | Piece]) -> None:
        held: list[bytes] = []  # small pieces are written together
        stream, size = 1, 0
        for part in parts:
            if isinstance(part, Piece):
                if part.stream != stream or size > _COPY:
                    self.write(stream, b"".join(held))
                    stream, held, size = part.stream, [], 0
                held.append(part.data)
                size += len(part.data)
            else:
                self._copy_span(part)
        self.write(stream, b"".join(held))

    def _copy_span(self, span: Span) -> None:
        at = span.start if span.stream in self._plain else self._copied(span)
        while at < span.end:
            data = os.pread(span.descriptor, min(_COPY, span.end - at), at)
            if not data:
                break
            self.write(span.stream, data)
            at += len(data)

    def _copied(self, span: Span) -> int:
        """Let the kernel copy as much as it can; returns where that ends."""
        target, at = self._descriptors[span.stream], span.start
        while at < span.end:
            try:
                copied = os.sendfile(target, span.descriptor, at, min(span.end - at, 1 << 30))
            except BlockingIOError:
                _until_writable(target)
                continue
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EDQUOT):
                    raise
                self._plain.add(span.stream)
                break
            if not copied:
                break
            at += copied
        return at


def _until_writable(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
