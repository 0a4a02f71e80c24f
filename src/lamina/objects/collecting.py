"""gc that a server runs from time to time. Of all servers of a bucket one does it at a time."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.errors import Cancelled, Conflict, LaminaError
from lamina.objects.gc import Collector

if TYPE_CHECKING:
    from lamina.objects.bucket import Bucket

_PATIENCE = 5.0
_log = logging.getLogger("lamina.objects")


@contextmanager
def collecting(bucket: Bucket, every: float | None) -> Iterator[None]:
    """While this block runs, a thread collects garbage every so many seconds; None: never."""
    if every is None:
        yield
        return
    stopped = threading.Event()
    collector = Collector(bucket, stopped=stopped.is_set)
    thread = threading.Thread(target=_run, args=(collector, every, stopped), name="lamina-gc", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_PATIENCE)
        if not thread.is_alive():
            collector.close()


def _run(collector: Collector, every: float, stopped: threading.Event) -> None:
    # servers that begin together do not stay together
    while not stopped.wait(every * random.uniform(0.8, 1.2)):
        try:
            done = collector.run(unless_since=every / 2)
        except (Cancelled, Conflict) as error:
            _log.debug("%s", error)  # stopped, or another server does it
        except LaminaError as error:
            _log.warning("gc failed: %s", error)
        except Exception:  # noqa: BLE001 - a fault of ours, which must not end gc for as long as the server runs
            _log.exception("gc failed")
        else:
            _log.info("gc deleted %d blobs, %d bytes, %d uploads", len(done.blobs), done.size, done.uploads)
