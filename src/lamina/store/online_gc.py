"""Garbage collection by a registry server, beside pushes, pulls and commands. Several servers of one store take
turns."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.errors import LaminaError
from lamina.host.files import reported
from lamina.host.lock import acquire, release
from lamina.store import clock
from lamina.store.gc import collect
from lamina.store.leftovers import leftovers
from lamina.store.members import Members

if TYPE_CHECKING:
    from lamina.store.store import Store

_PATIENCE = 2.0  # seconds
_log = logging.getLogger("lamina.store")


@contextmanager
def collecting(store: Store, every: float | None) -> Iterator[None]:
    """While this block runs, a thread collects garbage each ``every`` seconds (None: never)."""
    if every is None:
        yield
        return
    stopped = threading.Event()
    thread = threading.Thread(target=_collect_until, args=(store, every, stopped), name="lamina-gc", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_PATIENCE)  # a gc may end at any moment, as by kill -9


def _collect_until(store: Store, every: float, stopped: threading.Event) -> None:
    wait = every
    while not stopped.wait(wait):
        try:
            wait = collect_in_turn(store, every)
        except (LaminaError, OSError) as error:
            _log.warning("garbage collection: %s", error)
            wait = every
        except Exception:  # noqa: BLE001 - a fault of ours, which must not end gc for as long as the server runs
            _log.exception("garbage collection")
            wait = every


def collect_in_turn(store: Store, every: float) -> float:
    """Delete what nothing needs, and the leftovers of interrupted work; but not if another server of this store has
    done so less than ``every`` seconds ago, or does it now. Documents without a name stay: they are found by their
    digests until somebody deletes or prunes them. Returns the seconds until the next turn. Raises StoreDamaged,
    SystemFailure."""
    with reported(store.paths.repositories):
        path = Members(store.paths).turn_file()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if not acquire(descriptor, path, wait=False):
                return every
            try:
                state, now = os.fstat(descriptor), clock.now(store.paths)
                if state.st_size and clock.is_younger(state.st_mtime_ns, every, now):
                    return max(0.01, every - (now - state.st_mtime_ns) / 1e9)
                _collect(store)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, b"last\n")
            finally:
                release(descriptor, path)
        finally:
            os.close(descriptor)
    return every


def _collect(store: Store) -> None:
    store.roots.remove_ended()
    freed = sum(one.size for one in leftovers(store.paths, take=True) if one.due)
    done = collect(store)
    _log.info("garbage collection: %d objects, %d bytes", len(done.deleted), done.freed + freed)
