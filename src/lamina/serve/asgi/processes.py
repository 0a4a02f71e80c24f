"""Several processes of one server: they share the listening sockets, and their parent replaces those that end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lamina.host.files import replace_file
from lamina.host.libc import die_with
from lamina.serve.asgi.listen import notify
from lamina.serve.asgi.metrics import Series
from lamina.serve.asgi.running import stopped_by_signals

_TICK = 0.2
_CALM = 1.0  # seconds before a process that has ended is replaced
_FRESH = 10.0  # seconds that the figures of another process count
_log = logging.getLogger("lamina.serve")


class Shared:
    """The metrics of all processes, each in a file of its own."""

    def __init__(self, directory: str, number: int) -> None:
        self._directory, self._number = directory, number

    def write(self, series: Series) -> None:
        path = os.path.join(self._directory, str(self._number))
        with suppress(OSError):
            replace_file(path, [json.dumps(series).encode()], lasting=False)

    def others(self) -> Iterator[Series]:
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if name == str(self._number) or not name.isdigit():
                continue
            with suppress(OSError, ValueError):
                if time.time() - os.stat(path).st_mtime < _FRESH:
                    with open(path, "rb") as file:
                        yield json.loads(file.read())


Work = Callable[[int, Shared, Callable[[], None]], int]


def supervise(count: int, work: Work, announce: Callable[[], None], tick: Callable[[], None]) -> int:
    """Fork ``count`` processes that call ``work(number, shared, ready)``, and wait until all have ended after a
    signal. ``work`` returns an exit code; it calls ``ready`` once it accepts connections. ``announce`` is called when
    all do, ``tick`` several times a second from then on. A process that ends by itself is replaced; if one of the
    first can't begin, all end. SIGINT, SIGTERM and SIGHUP are passed on. Must be called before there are threads.
    Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="lamina-serve-") as directory:
        return _Parent(count, work, directory).run(announce, tick)


class _Parent:
    def __init__(self, count: int, work: Work, directory: str) -> None:
        self._count, self._work, self._directory = count, work, directory
        self._running: dict[int, int] = {}  # process: its number
        self._stopping = False
        self._ready_read, self._ready_write = os.pipe()
        self._pid = os.getpid()

    def run(self, announce: Callable[[], None], tick: Callable[[], None]) -> int:
        with stopped_by_signals(self._stop, self._reload):
            for number in range(self._count):
                self._start(number)
            code = self._until_ready()
            if code == 0:
                announce()
                code = self._watch(tick)
            return code

    def _start(self, number: int) -> None:
        with _held():
            if self._stopping:
                return
            child = os.fork()
            if child:
                self._running[child] = number
                return
            for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(one, signal.SIG_DFL)
        code = 1
        try:
            os.close(self._ready_read)
            die_with(self._pid)
            os.environ.pop("NOTIFY_SOCKET", None)  # systemd listens to the first process of a service alone
            code = self._work(number, Shared(self._directory, number), self._ready)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process ends here
            print(f"lamina serve: {error}", file=sys.stderr)  # noqa: T201 - the process ends here
            code = getattr(error, "exit_code", 1)
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _ready(self) -> None:
        os.write(self._ready_write, b".")

    def _until_ready(self) -> int:
        """Wait until all processes accept connections. Returns 0, or the exit code of the first that has failed."""
        ready = 0
        os.set_blocking(self._ready_read, False)
        while ready < self._count and not self._stopping:
            with suppress(BlockingIOError):
                ready += len(os.read(self._ready_read, self._count))
            ended = self._reaped(wait=False)
            if ended is not None and not self._stopping:
                self._stop()
                self._drain()
                return ended[1] or 1
            time.sleep(0.02)
        return 0

    def _watch(self, tick: Callable[[], None]) -> int:
        code = 0
        while self._running:
            tick()
            ended = self._reaped(wait=False)
            if ended is None:
                time.sleep(_TICK)
                continue
            number, code = ended
            if not self._stopping:
                _log.warning("a process of the server has ended with code %d; another one takes its place", code)
                time.sleep(_CALM)
                if not self._stopping:
                    self._start(number)
        return 0 if self._stopping else code

    def _drain(self) -> None:
        while self._running:
            self._reaped(wait=True)

    def _reaped(self, *, wait: bool) -> tuple[int, int] | None:
        """Take one process that has ended: its number and exit code; None if there is none now."""
        try:
            child, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
        except ChildProcessError:
            self._running.clear()
            return None
        number = self._running.pop(child, None)
        return None if number is None else (number, os.waitstatus_to_exitcode(status))

    def _stop(self) -> None:
        if not self._stopping:
            notify("STOPPING=1")
        self._stopping = True
        self._signal(signal.SIGTERM)

    def _reload(self) -> None:
        self._signal(signal.SIGHUP)

    def _signal(self, number: int) -> None:
        for child in list(self._running):
            with suppress(ProcessLookupError):
                os.kill(child, number)


@contextmanager
def _held() -> Iterator[None]:
    """Hold signals back, so that a fork and what notes it belong together."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
