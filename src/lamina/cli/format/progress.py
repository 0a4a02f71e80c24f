"""Progress on standard error: a bar for each layer on a terminal, else a line for each finished blob."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType
from typing import Any, Self

import click

from lamina.cli import warning
from lamina.cli.format.text import clean, human_size
from lamina.events import BlobDone, BlobProgress, BlobStarted, Event, Tagged, Warned
from lamina.spec.digest import Digest


class Progress:
    """A listener for ``on_event``, used as a context manager. ``quiet``: show only warnings. ``moved``, ``there``:
    the words for a blob that was copied, or existed already."""

    def __init__(self, *, quiet: bool = False, moved: str = "fetched", there: str = "already here") -> None:
        self.quiet = quiet
        self._moved = moved
        self._there = there
        self._lock = threading.Lock()
        self._bars: Any = None
        self._tasks: dict[Digest, Any] = {}
        self._terminal = (
            not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "CI" not in os.environ
        )

    @property
    def lists_blobs(self) -> bool:
        """Whether each blob gets a line as soon as it is copied, so that a table at the end is not needed. If
        standard output is a terminal and standard error is not, the table is shown as well."""
        return not (self.quiet or self._terminal or sys.stdout.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Warned):
                self._line(warning(event.message))
            elif self.quiet:
                return
            elif self._terminal:
                self._draw(event)
            else:
                self._tell(event)

    def _line(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def _tell(self, event: Event) -> None:
        if isinstance(event, BlobDone):
            state = self._there if event.reused else self._moved
            self._line(f"{event.what} {event.digest.short} {human_size(event.size)} {state}")
        elif isinstance(event, Tagged):
            self._line(f"{clean(event.name) or '(untagged)'} -> {event.digest}")

    def _draw(self, event: Event) -> None:
        if isinstance(event, BlobStarted):
            bars = self._started()
            if event.digest not in self._tasks:
                label = f"{event.what} {event.digest.short}"
                self._tasks[event.digest] = bars.add_task(label, total=event.size)
        elif isinstance(event, BlobProgress):
            task = self._tasks.get(event.digest)
            if task is not None:
                self._started().update(task, completed=event.done)
        elif isinstance(event, BlobDone):
            task = self._tasks.get(event.digest)
            if task is not None:
                self._started().update(task, completed=event.size)
            elif event.reused:
                self._line(f"{event.what} {event.digest.short} {human_size(event.size)} {self._there}")
        elif isinstance(event, Tagged):
            self._line(f"{clean(event.name) or '(untagged)'} -> {event.digest}")

    def _started(self) -> Any:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True, no_color="NO_COLOR" in os.environ),
            )
            self._bars.start()
        return self._bars
