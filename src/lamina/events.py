"""Progress and cancellation of long operations.

Each long operation takes ``on_event``, which is called with one event at a time, from any thread, and ``cancel``.
Both are optional.
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
    """The transfer of a blob begins. ``what``: "layer", "config", "manifest" or "blob". ``size``: bytes."""

    digest: Digest
    size: int
    what: str = "blob"


class BlobProgress(Event):
    """``done`` of ``size`` bytes of a blob have been transferred."""

    digest: Digest
    done: int
    size: int


class BlobDone(Event):
    """A blob is at its target and verified. ``reused``: it was there already, and nothing was transferred. ``size``:
    bytes."""

    digest: Digest
    size: int
    what: str = "blob"
    reused: bool = False


class Tagged(Event):
    """A name now points to this digest."""

    name: str
    digest: Digest


class Warned(Event):
    """A warning; the operation goes on."""

    message: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event: the default listener."""


class Cancel:
    """A flag that stops a long operation at its next step; ``set`` may be called from any thread. Blocking code (a
    socket) registers a wake-up with ``calling``. Setting a ``parent`` also sets its children, but not the reverse.
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
        """Stop the operation, and wake blocking code."""
        with self._guard:
            self._event.set()
            waking = list(self._wake.values())
        for wake in waking:
            wake()

    @property
    def is_set(self) -> bool:
        """Whether ``set`` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``Cancelled`` if ``set`` was called."""
        if self._event.is_set():
            raise Cancelled("cancelled")

    def wait(self, seconds: float) -> None:
        """Sleep for ``seconds``. Raises ``Cancelled`` as soon as ``set`` is called."""
        if self._event.wait(seconds):
            raise Cancelled("cancelled")

    @contextmanager
    def calling(self, wake: Callable[[], object]) -> Iterator[None]:
        """Register ``wake`` while the block runs: ``set`` calls it, in its own thread. Raises Cancelled at once if
        ``set`` was called before."""
        key = object()
        self._add(key, wake)
        try:
            self.check()
            yield
        finally:
            with self._guard:
                self._wake.pop(key, None)

    def close(self) -> None:
        """Unregister from the parent."""
        if self._parent is not None:
            with self._parent._guard:
                self._parent._wake.pop(self, None)

    def _add(self, key: object, wake: Callable[[], object]) -> None:
        with self._guard:
            self._wake[key] = wake
            if not self._event.is_set():
                return
        wake()


def start_threads(threads: Iterable[threading.Thread], least: int = 1) -> list[threading.Thread]:
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
    """Wait for threads to end, so that Ctrl-C works: a plain ``Thread.join`` can miss an interrupt that arrives just
    before it blocks, or in another thread."""
    import threading
    import time

    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
        while thread in threading.enumerate():  # Python before 3.13: after an interrupted join, it is not "alive"
            time.sleep(0.01)
