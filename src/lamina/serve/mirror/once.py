"""Calls that many clients make at the same time, and that are made once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from lamina.errors import LaminaError, RemoteFailure, SystemFailure
from lamina.events import start_threads
from lamina.serve.mirror.turns import Turns

MOST = 64
"""Questions to a registry at once in each process."""
T = TypeVar("T")


class _Call(Generic[T]):
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None


class Once(Generic[T]):
    """Runs calls by key, at most ``most`` at a time: who asks while a call with the same key runs gets its result."""

    def __init__(self, most: int = MOST) -> None:
        self._running: dict[object, _Call[T]] = {}
        self._guard = threading.Lock()
        self._turns = Turns(self._guard, most)

    def run(self, key: object, work: Callable[[], T], seconds: float, who: str) -> T:
        """Return what ``work`` returns; it goes on if nobody waits any more. Raises what it raises; after ``seconds``
        RemoteFailure, or Busy if it could not begin."""
        deadline = time.monotonic() + seconds
        with self._guard:
            if self._turns.take(seconds, lambda: key in self._running):
                self._running[key] = _Call()
                self._turns.tell()
                worker = threading.Thread(
                    target=self._work, args=(key, self._running[key], work), name="lamina-mirror", daemon=True
                )
                try:
                    start_threads([worker])
                except BaseException:
                    del self._running[key]
                    self._turns.give_back()
                    raise
            call = self._running[key]
        if not call.ended.wait(max(0.0, deadline - time.monotonic())):
            raise RemoteFailure(f"no answer from {who} within {seconds:.0f} s", hint="try again later")
        if call.error is not None:
            raise call.error
        return call.value  # type: ignore[return-value]  # set before it ended

    def _work(self, key: object, call: _Call[T], work: Callable[[], T]) -> None:
        try:
            call.value = work()
        except LaminaError as error:
            call.error = error
        except BaseException as error:
            call.error = SystemFailure(f"{type(error).__name__}: {error}", hint="see the server's log")
            raise
        finally:
            with self._guard:
                del self._running[key]
                self._turns.give_back()
            call.ended.set()
