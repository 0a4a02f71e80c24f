"""Read the log of a container: all of it, the last lines, a span of time; to its end, or as long as it grows."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress

from lamina.errors import LaminaError, NotFound
from lamina.host.files import reported
from lamina.host.inotify import Watch
from lamina.host.process_identity import start_time
from lamina.light import TYPE_CHECKING
from lamina.run.container.record import wanted_of
from lamina.run.logs.drivers import DEFAULT, log_path, parse_driver
from lamina.run.logs.local_source import LocalSource
from lamina.run.logs.pieces import Choice, Piece, Source, Span, starts_of_tail, wanted_pieces
from lamina.store.containers import CREATED
from lamina.text import counted

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store

DIRECTORY = "log"
"""The name of the log's directory in that of the container."""
_SECOND = 10**9
_POLL = 0.2  # seconds between two looks where the kernel does not tell of changes
_REST = 2.0  # seconds without a look at the lock where the kernel tells when the monitor ends


def read(
    store: Store,
    container: Container,
    *,
    follow: bool = False,
    since: int | None = None,
    until: int | None = None,
    tail: int | None = None,
    on_warning: Callable[[str], object] = lambda text: None,
) -> Iterator[Piece]:
    """Yield what the container wrote, in the order in which it came. ``since``, ``until``: nanoseconds since 1970.
    ``tail``: only the last lines, chosen before the times are. ``follow``: wait for more until nobody writes the log:
    the container has ended, or its monitor was killed. Raises LaminaError (there is no log to read), SystemFailure.
    """
    choice: dict[str, int | None] = {"since": since, "until": until, "tail": tail}
    with (
        closing(Log(store, container, follow=follow, **choice, on_warning=on_warning)) as log,
        closing(Waiter([log] if log.follows else ())) as waiter,
    ):
        while True:
            yield from log.available()
            if log.is_over:
                return
            waiter.wait()


class Log:
    """The log of a container that is being read. Use: ``available`` or ``spans``, then ``is_over``, then ``wait``,
    and again."""

    def __init__(
        self,
        store: Store,
        container: Container,
        *,
        follow: bool = False,
        since: int | None = None,
        until: int | None = None,
        tail: int | None = None,
        on_warning: Callable[[str], object] = lambda text: None,
    ) -> None:
        """Raises LaminaError (there is no log to read), SystemFailure."""
        self.container = container
        self._store, self._on_warning = store, on_warning
        self._until = until
        grows = store.containers.is_supervised(container)
        self.follows = follow and grows
        self._ended = not self.follows
        self._pidfd = _pidfd(container) if self.follows else -1
        self._checked = time.monotonic()
        self._damaged = 0
        self._source = self._opened(complete=not grows)
        starts = None
        with reported(self._directory):
            if tail is not None:
                end = self._source.end()
                starts = starts_of_tail(self._source.backward() if tail else (), tail, end)
                self._source.seek(min(position for position, _ in starts.values()))
        self._choice = Choice(since, until, starts)

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        if self._choice.over or self._ended:
            return True
        return self._until is not None and time.time_ns() > self._until

    def available(self) -> Iterator[Piece]:
        """What there is now and was not read before. Raises SystemFailure."""
        self._look()
        with reported(self._directory):
            yield from wanted_pieces(self._source, self._choice)
        self._report()

    def bulk(self) -> Iterator[Span | Piece]:
        """The same without the times: in large pieces, or as ranges of files. Raises SystemFailure."""
        self._look()
        with reported(self._directory):
            yield from self._source.bulk(self._choice)
        self._report()

    def close(self) -> None:
        self._source.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def watched(self) -> list[str]:
        return self._source.watched()

    def descriptors(self) -> list[int]:
        """What becomes readable when the log may have ended."""
        return [self._pidfd] if self._pidfd >= 0 else []

    def seconds_left(self) -> float:
        """How long to wait for changes before the next look."""
        rest = _REST if self._pidfd >= 0 else _POLL
        if self._until is not None:
            rest = min(rest, max(0.0, (self._until - time.time_ns()) / _SECOND + 0.001))
        return rest

    @property
    def _directory(self) -> str:
        return self._store.containers.path(self.container.id, DIRECTORY)

    def _look(self) -> None:
        """See whether the log grows, before it is read: then its last bytes are not missed."""
        if self._ended:
            return
        now = time.monotonic()
        if self._pidfd >= 0 and not _readable(self._pidfd) and now < self._checked + _REST:
            return
        self._checked = now
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._ended = True
        if self._store.containers.is_supervised(self.container):
            with suppress(NotFound):  # another process supervises it now
                self.container = self._store.containers.get(self.container.id)
                self._pidfd = _pidfd(self.container)
                self._ended = False
                return
        self._source.complete = True

    def _report(self) -> None:
        if self._damaged:
            count, self._damaged = self._damaged, 0
            self._on_warning(f"{counted(count, 'line')} of the log of {self.container.name} can't be read")

    def _note_damage(self, count: int) -> None:
        self._damaged += count

    def _opened(self, *, complete: bool) -> Source:
        """Raises LaminaError (there is no log to read), SystemFailure."""
        one, wanted = self.container, wanted_of(self.container)
        driver = parse_driver(wanted.log_driver or DEFAULT)
        if driver in ("none", "passthrough"):
            raise LaminaError(
                f"the container {one.name} has no log: its log driver is {driver}",
                hint="leave out --log-driver, or choose another one, when you run it",
            )
        if driver == "journald":
            from lamina.run.logs.journal_source import JournalSource

            return JournalSource(one.id, complete=complete)
        never_logged = not os.path.isdir(self._directory) and "path" not in dict(wanted.log_options)
        if never_logged and one.remove and one.status != CREATED and one.since is None:
            raise LaminaError(
                f"the container {one.name} has no log: its output went to the terminal of its `lamina run`",
                hint="run it with -d, or without --rm",
            )
        if driver == "local":
            return LocalSource(self._directory, complete=complete)
        from lamina.run.logs.text_source import CRI, JSON, TextSource

        form = JSON if driver == "json-file" else CRI
        path = log_path(self._directory, driver, wanted.log_options, one.id)
        with reported(path):
            return TextSource(path, form, complete=complete, on_damage=self._note_damage)


class Waiter:
    """Waits for changes of logs. It watches them from the start: make it before the logs are read."""

    def __init__(self, logs: Sequence[Log], output: int = -1) -> None:
        """``output``: a descriptor to which the caller writes."""
        self._logs, self._output = logs, output
        self._watch = Watch()
        self._watched = self._add()

    def wait(self) -> bool:
        """Wait until one of the logs may have changed. Returns False once nobody reads the output any more."""
        logs = [log for log in self._logs if not log.is_over]
        rest = min((log.seconds_left() for log in logs), default=0.0)
        poll = select.poll()
        if not self._watched:
            self._watched = self._add()
            rest = min(rest, _POLL)
        elif self._watch.works:
            poll.register(self._watch.fileno(), select.POLLIN)
        for log in logs:
            for descriptor in log.descriptors():
                poll.register(descriptor, select.POLLIN)
        if self._output >= 0:
            poll.register(self._output, 0)
        found = dict(poll.poll(rest * 1000))
        self._watch.clear()
        return not found.get(self._output, 0) & (select.POLLERR | select.POLLNVAL | select.POLLHUP)

    def close(self) -> None:
        self._watch.close()

    def _add(self) -> bool:
        paths = [log.watched() for log in self._logs]
        return all(paths) and self._watch.add(path for some in paths for path in some)


def _pidfd(container: Container) -> int:
    """A descriptor that becomes readable when the process that supervises the container ends; -1 where there is
    none."""
    if not hasattr(os, "pidfd_open") or container.is_elsewhere or container.pid <= 0:
        return -1
    try:
        found = os.pidfd_open(container.pid)
    except OSError:
        return -1
    if start_time(container.pid) != container.started:
        os.close(found)
        return -1
    return found


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
