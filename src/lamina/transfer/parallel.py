"""Runs work on several blobs at once: threads, the first error, and an interrupt that ends them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from lamina.events import Cancel, join, start_threads
from lamina.host.files import first_error

T = TypeVar("T")
PATIENCE = 0.7  # seconds that workers have to stop after an interrupt


def for_each(items: Iterable[T], work: Callable[[T, Cancel], None], cancel: Cancel | None) -> None:
    """Call ``work`` for every item, in at most twice as many threads as there are cores. The first error sets the
    Cancel that all calls got; it is raised when they have ended."""
    waiting = list(items)[::-1]
    errors: list[BaseException] = []
    guard = threading.Lock()
    stop = Cancel(cancel)

    def run() -> None:
        while not errors:
            with guard:
                if not waiting:
                    return
                item = waiting.pop()
            try:
                stop.check()
                work(item, stop)
            except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
                errors.append(error)
                stop.set()

    count = min(len(waiting), 2 * (os.cpu_count() or 1))
    threads = [threading.Thread(target=run, name="lamina-worker", daemon=True) for _ in range(count)]
    try:
        join(start_threads(threads))
    except BaseException:
        stop.set()
        deadline = time.monotonic() + PATIENCE
        # a thread that waits for another process's lock is left behind; it ends with this process
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    finally:
        stop.close()
    error = first_error(errors)
    if error is not None:
        raise error
