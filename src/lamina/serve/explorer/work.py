"""Long computations: in threads of their own, each once, with progress; their results are kept within a bound.

The threads are few, so that people who look at images do not slow down clients that pull and push.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lamina.errors import LaminaError
from lamina.events import Cancel

T = TypeVar("T")
_log = logging.getLogger("lamina.serve")

_FAILED_FOR = 10.0
"""Seconds that a failure is kept, so that a client that asks again learns of it."""
FOREVER = math.inf


class Progress:
    """How far a computation is: ``done`` of ``total`` units of ``what``; a ``total`` of 0 is not known."""

    def __init__(self, cancel: Cancel) -> None:
        self.what = "waiting for other work"
        self.done = self.total = 0
        self.cancel = cancel

    def begin(self, what: str, total: int = 0) -> None:
        self.what, self.total, self.done = what, total, 0

    def to_json(self) -> dict[str, Any]:
        done, total = self.done, self.total
        percent = round(min(100.0, 100 * done / total), 1) if total else None
        return {"what": self.what, "done": done, "total": total, "percent": percent, "retry_ms": 300}


class Working(Exception):
    """The result is not ready yet."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress.what)
        self.progress = progress


class Busy(Exception):
    """Too much work waits already."""


@dataclass
class _Job:
    compute: Callable[[Progress], Any]
    weigh: Callable[[Any], int]
    lasts: Callable[[Any], float]
    progress: Progress
    ended: threading.Event = field(default_factory=threading.Event)
    taken: bool = False
    value: Any = None
    error: Exception | None = None


class Work:
    """``threads`` compute at the same time, at most ``waiting`` wait, results of ``room`` bytes are kept."""

    def __init__(self, threads: int = 2, waiting: int = 32, room: int = 256 << 20) -> None:
        self._threads = threads
        self._waiting = waiting
        self._room = room
        self._guard = threading.Condition()
        self._queue: deque[tuple[Hashable, _Job]] = deque()
        self._jobs: dict[Hashable, _Job] = {}
        self._kept: OrderedDict[Hashable, tuple[Any, int, float]] = OrderedDict()
        self._failed: OrderedDict[Hashable, tuple[float, Exception]] = OrderedDict()
        self._size = 0
        self._idle = self._running = 0
        self._cancel = Cancel()

    def get(
        self,
        key: Hashable,
        compute: Callable[[Progress], T],
        *,
        weigh: Callable[[T], int] = lambda value: 10_000,
        lasts: Callable[[T], float] = lambda value: FOREVER,
        wait: float = 0.25,
    ) -> T:
        """Return the result of ``compute``, kept or new. ``weigh``: its bytes in memory; ``lasts``: the seconds for
        which it may be kept. Raises what ``compute``
        raises, Working if it takes longer than ``wait`` seconds, Busy."""
        with self._guard:
            job: _Job | None = self._known(key)
            if job is None:
                if len(self._jobs) >= self._waiting or self._cancel.is_set:
                    raise Busy
                job = self._jobs[key] = _Job(compute, weigh, lasts, Progress(self._cancel))
                self._queue.append((key, job))
                self._more_threads()
                self._guard.notify()
        if not job.ended.wait(wait):
            raise Working(job.progress)
        return _result(job)  # type: ignore[no-any-return]

    def within(
        self,
        key: Hashable,
        compute: Callable[[Progress], T],
        progress: Progress,
        *,
        weigh: Callable[[T], int] = lambda value: 10_000,
    ) -> T:
        """Like ``get``, for a computation that needs the result of another: it waits, or computes it itself. The
        other must not need further ones."""
        with self._guard:
            job = self._known(key)
            if job is None:
                job = self._jobs[key] = _Job(compute, weigh, lambda value: FOREVER, progress)
            mine = not job.taken and not job.ended.is_set()
            job.taken = True
            if mine:
                job.progress = progress
        if mine:
            self._compute(key, job)
        while not job.ended.wait(0.2):
            progress.what, progress.done, progress.total = (
                job.progress.what,
                job.progress.done,
                job.progress.total,
            )
            self._cancel.check()
        return _result(job)  # type: ignore[no-any-return]

    @property
    def has_waiting(self) -> bool:
        """Whether work waits for a thread."""
        with self._guard:
            return any(not job.taken for _, job in self._queue)

    def close(self) -> None:
        """Stop the threads; what they compute is cancelled at its next step."""
        with self._guard:
            self._cancel.set()
            self._queue.clear()
            self._guard.notify_all()

    def _known(self, key: Hashable) -> _Job | None:
        found = self._kept.get(key)
        if found is not None:
            if time.monotonic() < found[2]:
                self._kept.move_to_end(key)
                return _ended(found[0], None)
            self._size -= self._kept.pop(key)[1]
        failed = self._failed.get(key)
        if failed is not None:
            if time.monotonic() < failed[0]:
                return _ended(None, failed[1])
            del self._failed[key]
        return self._jobs.get(key)

    def _more_threads(self) -> None:
        if self._idle or self._running >= self._threads:
            return
        self._running += 1
        try:
            threading.Thread(target=self._work, name="lamina-explorer", daemon=True).start()
        except RuntimeError:  # no more threads
            self._running -= 1
            if not self._running:
                raise Busy from None

    def _work(self) -> None:
        while True:
            with self._guard:
                self._idle += 1
                while not self._queue and not self._cancel.is_set:
                    self._guard.wait()
                self._idle -= 1
                if self._cancel.is_set:
                    self._running -= 1
                    return
                key, job = self._queue.popleft()
                if job.taken:
                    continue
                job.taken = True
            self._compute(key, job)

    def _compute(self, key: Hashable, job: _Job) -> None:
        weight, until = 0, FOREVER
        try:
            job.value = job.compute(job.progress)
            weight, until = job.weigh(job.value), time.monotonic() + job.lasts(job.value)
        except LaminaError as error:
            job.error = error
        except Exception as error:  # noqa: BLE001  (those who wait get it)
            _log.exception("the explorer failed")
            job.error = error
        with self._guard:
            self._jobs.pop(key, None)
            if job.error is None:
                self._keep(key, job.value, weight, until)
            else:
                self._failed[key] = time.monotonic() + _FAILED_FOR, job.error
                while len(self._failed) > 100:
                    self._failed.popitem(last=False)
        job.ended.set()

    def _keep(self, key: Hashable, value: Any, weight: int, until: float) -> None:
        self._kept[key] = value, weight, until
        self._size += weight
        while self._size > self._room and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1][1]


def _ended(value: Any, error: Exception | None) -> _Job:
    progress = Progress(Cancel())
    job = _Job(lambda _: None, lambda _: 0, lambda _: 0, progress, taken=True, value=value, error=error)
    job.ended.set()
    return job


def _result(job: _Job) -> Any:
    if job.error is not None:
        raise job.error.with_traceback(None)
    return job.value
