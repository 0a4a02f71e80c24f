"""Progress and cancellation: what long operations tell, and how they are stopped.

Each long operation takes ``on_event`` (a callable that gets one frozen dataclass at a time, from any thread)
and ``cancel``. Neither is ever required.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import Cancelled, SystemFailure
from lamina.light import TYPE_CHECKING, Value
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    import threading


class Event(Value):
    """Base of all events."""


class BlobStarted(Event):
    """A blob begins to move. ``what`` is "layer", "config", "manifest" or "blob"; size in bytes."""

    digest: Digest
    size: int
    what: str = "blob"


class BlobProgress(Event):
    """So many bytes of the blob have been moved in all."""

    digest: Digest
    done: int
    size: int


class BlobDone(Event):
    """The blob is at its target and verified. ``reused`` if it was there already and nothing moved."""

    digest: Digest
    size: int
    what: str = "blob"
    reused: bool = False


class Tagged(Event):
    """A name points to this digest now."""

    name: str
    digest: Digest


class Warned(Event):
    """Something worth a word that did not stop the operation."""

    message: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default listener."""


class Cancel:
    """A flag that stops a long operation at its next step; ``set`` may be called from any thread. What blocks (a
    socket) hangs itself in with ``calling`` and is woken. A child is set with its parent, not the other way round.
    """

    def __init__(self, parent: Cancel | None = None) -> None:
        import threading

        self._event = threading.Event()
        self._guard = threading.Lock()
        self._wake: dict[object, Callable[[], object]] = {}
        self._parent = parent
        if parent is not None:
            parent._add(self, self.set)

    def set(self) -> None:
        with self._guard:
            self._event.set()
            waking = list(self._wake.values())
        for wake in waking:
            wake()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``Cancelled`` once ``set`` was called."""
        if self._event.is_set():
            raise Cancelled("cancelled")

    def wait(self, seconds: float) -> None:
        """Sleep; raise ``Cancelled`` as soon as ``set`` is called."""
        if self._event.wait(seconds):
            raise Cancelled("cancelled")

    @contextmanager
    def calling(self, wake: Callable[[], object]) -> Iterator[None]:
        """``wake`` is called once ``set`` is, from that thread, while this block runs. Raises Cancelled at once
        where it was set before."""
        key = object()
        self._add(key, wake)
        try:
            self.check()
            yield
        finally:
            with self._guard:
                self._wake.pop(key, None)

    def close(self) -> None:
        """Let go of the parent."""
        if self._parent is not None:
            with self._parent._guard:
                self._parent._wake.pop(self, None)

    def _add(self, key: object, wake: Callable[[], object]) -> None:
        with self._guard:
            self._wake[key] = wake
            if not self._event.is_set():
                return
        wake()


def started(threads: Iterable[threading.Thread], least: int = 1) -> list[threading.Thread]:
    """Start threads, as many as the system lets this process have; those that run. Raises SystemFailure where they
    are fewer than ``least``."""
    running: list[threading.Thread] = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError as error:
            if len(running) < least:
                raise SystemFailure(
                    f"no more threads: {error}", hint="raise the limit of processes (ulimit -u, --pids-limit)"
                ) from None
            break
        running.append(thread)
    return running


def join(threads: Iterable[threading.Thread]) -> None:
    """Wait for threads to end. An interrupt comes through: a plain ``Thread.join`` may sleep over one that arrives
    just before it blocks, or in another thread."""
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
