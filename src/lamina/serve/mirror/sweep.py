"""Removal of what a mirror has not used for long, and of what does not fit: the least recently used blobs first."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.host.files import remove
from lamina.host.lock import unheld

if TYPE_CHECKING:
    from lamina.serve.mirror.cache import Cache

EVERY = 3600.0
"""Seconds between two sweeps that nothing else causes."""
_TARGET = 0.9  # a sweep that is needed frees a tenth, so that the next blob does not need one
_PART_AGE = 86_400.0  # seconds that the rest of an interrupted fetch is kept
_log = logging.getLogger("lamina.serve.mirror")


class Sweeper:
    """Keeps a cache below ``size`` bytes (None: no limit), and removes what was not used for ``age`` seconds (None:
    never). Blobs in use may be removed: who reads one has it open."""

    def __init__(self, cache: Cache, *, size: int | None, age: float | None) -> None:
        self._cache = cache
        self._size = size
        self._age = age
        self._total = 0
        self._guard = threading.Lock()
        self._sweeping = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lamina-mirror-sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def added(self, size: int) -> None:
        """Note that the cache has so many bytes more; sweep if that is too much."""
        with self._guard:
            self._total += size
            full = self._size is not None and self._total > self._size
        if full:
            self.sweep()

    def make_room(self, size: int) -> None:
        """Remove blobs of so many bytes, because the disk is full; none if all of them were not enough."""
        self.sweep(free=size)

    def sweep(self, *, free: int = 0) -> None:
        """Remove what is too old, and what is too much; ``free``: at least so many bytes, if there are as many."""
        with self._sweeping:
            now = time.time()
            blobs = sorted(_files(os.path.join(self._cache.directory, "blobs")))
            total = sum(size for _, size, _ in blobs)
            limit = total if self._size is None or total <= self._size else int(self._size * _TARGET)
            limit = min(limit, total - free) if free <= total else limit
            removed = 0
            for used, size, path in blobs:
                old = self._age is not None and now - used > self._age
                if (old or total > limit) and remove(path):
                    total -= size
                    removed += 1
            self._remove_parts(now)
            if self._age is not None:
                self._remove_records(now - self._age)
            with self._guard:
                self._total = total
            if removed:
                _log.info("removed %d blobs; the mirror has %d bytes now", removed, total)

    def _remove_parts(self, now: float) -> None:
        for changed, _, path in _files(os.path.join(self._cache.directory, "parts")):
            if now - changed > _PART_AGE:
                with unheld(path) as free:
                    if free:
                        remove(path)

    def _remove_records(self, before: float) -> None:
        for path in self._cache.records():
            try:
                if os.stat(path).st_mtime < before:
                    remove(path)
            except FileNotFoundError:
                continue

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.sweep()
            except Exception:  # noqa: BLE001 - whatever it is, the next sweep may work
                _log.exception("the mirror was not swept")
            self._ended.wait(EVERY)


def _files(top: str) -> Iterator[tuple[float, int, str]]:
    """Yield when each file was last used, its size and its path."""
    for directory, _, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            try:
                state = os.stat(path)
            except FileNotFoundError:
                continue
            yield state.st_mtime, state.st_size, path
