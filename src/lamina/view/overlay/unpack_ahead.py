"""Unpacks the lower layers of a pull while higher ones are still downloading, in a process of its own. Best effort:
the caller finishes, and reports, whatever it leaves undone."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lamina.errors import Cancelled, LaminaError
from lamina.events import BlobDone, Event
from lamina.host import privileges

if TYPE_CHECKING:
    from types import TracebackType

    from lamina.source.stack import Stack
    from lamina.spec.image_config import ImageConfig
    from lamina.store.store import Store

_END = b"end"


class UnpackAhead:
    """A listener for a pull's events and a context manager around the pull. Enter it before any thread is started.
    Does nothing if this process can't be forked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._process = 0
        self._telling = -1

    def __enter__(self) -> Self:
        if not hasattr(os, "fork") or threading.active_count() > 1:
            return self
        reading, self._telling = os.pipe()
        self._process = os.fork()
        if not self._process:
            try:
                os.close(self._telling)
                with suppress(LaminaError, OSError):
                    _work(self._store, reading)
            finally:
                os._exit(0)
        os.close(reading)
        os.set_blocking(self._telling, False)
        return self

    def __call__(self, event: Event) -> None:
        if isinstance(event, BlobDone) and event.what in ("config", "layer"):
            self._tell(b"%s %s %d" % (event.what.encode(), str(event.digest).encode(), event.size))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the layers that have arrived are unpacked; after an error, stop at once."""
        if not self._process:
            return
        try:
            if kind is None:
                self._tell(_END)
            os.close(self._telling)
            if kind is None:
                os.waitpid(self._process, 0)
                self._process = 0
        finally:
            if self._process:
                import signal

                os.kill(self._process, signal.SIGTERM)
                os.waitpid(self._process, 0)

    def _tell(self, line: bytes) -> None:
        """Send a line to the process. A line that can't be sent does no harm: the next one makes the process look
        into the store again."""
        if self._process:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._telling, line + b"\n")


def _work(store: Store, reading: int) -> None:
    import signal

    from lamina.view.upper_check import refusal

    def stop(*_: object) -> None:
        raise Cancelled("cancelled")

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets SIGINT too, and ends this process
    signal.signal(signal.SIGTERM, stop)
    if not privileges.may_mount():
        privileges.become_root()  # files get the ids of the user namespace that will mount them
    if refusal(store.paths.unions):
        return  # one tree of all layers is used then
    images: list[_Image] = []
    text = b""
    while data := os.read(reading, 1 << 16):
        *lines, text = (text + data).split(b"\n")
        for what, *words in (line.split() for line in lines):
            if what == b"config":
                images.append(_Image(store, words[0].decode(), int(words[1])))
        for image in images:
            image.go_on()
        if _END in lines:
            return


class _Image:
    """An image that is being pulled, as far as its config is known."""

    def __init__(self, store: Store, digest: str, size: int) -> None:
        from lamina.spec.descriptor import Descriptor
        from lamina.spec.digest import Digest

        self._store = store
        self._descriptor = Descriptor("", Digest.parse(digest), size)
        self._config: ImageConfig | None = None
        self._done = 0

    def go_on(self) -> None:
        """Unpack the layers that have arrived, up to the first missing one."""
        from lamina.spec.image_config import ImageConfig
        from lamina.spec.json import MAX_DOCUMENT
        from lamina.view.overlay.lower import unpack_tree
        from lamina.view.parts import is_deep, layer_parts

        if self._descriptor.size > MAX_DOCUMENT:
            return  # too large for the config of an image
        try:
            if self._config is None:
                self._config = ImageConfig.parse(self._store.blobs.read(self._descriptor))
            diff_ids = self._config.diff_ids
            if is_deep(len(diff_ids)):
                return
            there = 0
            while there < len(diff_ids) and self._store.layers.has_derived_files(diff_ids[there]):
                there += 1
            if there > self._done:
                self._done = there
                stack = self._stack(there)
                for part in layer_parts(stack):  # parts that are already unpacked cost little
                    unpack_tree(self._store, stack, part)
        except Cancelled:
            raise
        except LaminaError:
            self._done = 1 << 30

    def _stack(self, count: int) -> Stack:
        """Return a stack of the lowest layers. The manifest may not have arrived, so one is made in which each
        layer's blob is its tar."""
        from lamina.source.stack import Stack
        from lamina.spec import mediatype
        from lamina.spec.descriptor import Descriptor
        from lamina.spec.manifest import build_manifest

        assert self._config is not None
        layers = tuple(
            self._store.layers.get(Descriptor(mediatype.OCI_LAYER, diff_id, 0), diff_id)
            for diff_id in self._config.diff_ids[:count]
        )
        config = Descriptor(mediatype.OCI_CONFIG, self._descriptor.digest, self._descriptor.size)
        manifest = build_manifest(config, [layer.descriptor for layer in layers])
        return Stack("an image that is being pulled", manifest, self._config, layers)
