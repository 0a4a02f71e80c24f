"""Makes the indexes of layers that are missing. Large layers are read by processes of their own, a few at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.serve.explorer.cached_layer import CachedLayer
from lamina.transfer.parallel import for_each

if TYPE_CHECKING:
    from lamina.events import Cancel
    from lamina.serve.explorer.work import Progress
    from lamina.source.protocols import LayerHandle

AT_ONCE = 2
"""Processes that read layers at the same time, for all images together: clients that pull and push need the
processors too."""


class LayerReading:
    """Reads the layers of several images, each image in a thread of its own."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(AT_ONCE)

    def read(self, layers: Sequence[LayerHandle], progress: Progress) -> None:
        """Make the indexes that are missing. Raises NotFound, InvalidContent, SystemFailure, Cancelled."""
        missing = [layer for layer in layers if not (isinstance(layer, CachedLayer) and layer.is_ready())]
        told = _Told(progress, missing)
        for layer in missing:
            if not _is_large(layer):
                progress.cancel.check()
                told.read(layer, progress.cancel)

        def work(layer: LayerHandle, cancel: Cancel) -> None:
            with self._turn(cancel):
                told.read(layer, cancel)

        for_each(filter(_is_large, missing), work, progress.cancel)

    @contextmanager
    def _turn(self, cancel: Cancel) -> Iterator[None]:
        while not self._turns.acquire(timeout=0.2):
            cancel.check()
        try:
            yield
        finally:
            self._turns.release()


def _is_large(layer: LayerHandle) -> bool:
    return isinstance(layer, CachedLayer) and layer.is_large


class _Told:
    """Tells how many bytes of how many layers are read."""

    def __init__(self, progress: Progress, missing: Sequence[LayerHandle]) -> None:
        self._progress = progress
        self._count = len(missing)
        self._read = 0
        self._guard = threading.Lock()
        if missing:
            progress.begin(self._words(), sum(layer.descriptor.size for layer in missing))

    def read(self, layer: LayerHandle, cancel: Cancel) -> None:
        before = 0

        def on_bytes(done: int) -> None:
            nonlocal before
            with self._guard:
                self._progress.done += done - before
                before = done

        if isinstance(layer, CachedLayer):
            layer.cancel, layer.on_bytes = cancel, on_bytes
        layer.index()
        on_bytes(layer.descriptor.size)
        with self._guard:
            self._read += 1
            if self._read < self._count:
                self._progress.what = self._words()

    def _words(self) -> str:
        return f"reading layer {self._read + 1} of {self._count}"
