"""One fetch of a blob for all clients that wait for it: they read the part file while it grows.

The last byte of each response is held back until the digest of the whole blob was verified. So a client gets the
first bytes early, and never a whole response with wrong bytes: if the digest is wrong, its connection is cut. When
the blob is verified, the part file is renamed, and the same file is the blob.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lamina.errors import (
    DigestMismatch,
    InvalidContent,
    LaminaError,
    RemoteFailure,
    SizeMismatch,
    SystemFailure,
)
from lamina.events import start_threads
from lamina.host.files import failure, reported, write_all
from lamina.host.lock import acquire, is_same, release
from lamina.serve.mirror.turns import Turns
from lamina.source.abilities import can_abort
from lamina.spec.digest import Digest

if TYPE_CHECKING:
    from lamina.serve.mirror.cache import Cache
    from lamina.serve.mirror.sweep import Sweeper
    from lamina.source.protocols import Blob, Stream
    from lamina.spec.descriptor import Descriptor

PIECE = 256 << 10
MOST = 64
"""Blobs that are fetched from a registry at once in each process: docker asks for three at a time."""
WAIT = 30.0
"""Seconds that a request waits for a fetch to begin."""
ATTEMPTS = 3
"""Times that a fetch may break off without a new byte."""
_LOOK = 0.05  # seconds between two looks at a part file that another process fetches
_CHECK_EVERY = 64 << 20  # bytes between two looks at the free space
_log = logging.getLogger("lamina.serve.mirror")


class Fetches:
    """The blobs that are being fetched into a cache."""

    def __init__(self, cache: Cache, sweeper: Sweeper, most: int = MOST) -> None:
        self._cache = cache
        self._sweeper = sweeper
        self._running: dict[Digest, Fetch] = {}
        self._guard = threading.Lock()
        self._most = most
        self._turns: dict[str, Turns] = {}  # of each registry: one that stalls delays no other
        self._closed = False

    def open(self, blob: Blob, start: int, end: int, verified: Callable[[Descriptor], None]) -> GrowingStream:
        """Open a range of a blob that is not in the cache; the first one who does so begins the fetch. ``verified``
        is called when the blob is in the cache. Raises Busy (too many are being fetched), SystemFailure."""
        digest, host = blob.descriptor.digest, _host_of(blob)
        with self._guard:
            turns = self._turns.setdefault(host, Turns(self._guard, self._most))
            if turns.take(WAIT, lambda: self._closed or digest in self._running, lambda: self._stop_unwanted(host)):
                try:
                    fetch = Fetch(blob, self._cache, self._sweeper, verified, self._ended)
                    fetch.begin()
                except BaseException:
                    turns.give_back()
                    raise
                self._running[digest] = fetch
                turns.tell()  # others may wait to fetch the same blob
            if self._closed:
                raise _stopping()
            return GrowingStream(self._running[digest], start, end)

    def close(self) -> None:
        """Break all fetches off; their part files are kept and resumed later."""
        with self._guard:
            self._closed = True
            for turns in self._turns.values():
                turns.tell()
            running = list(self._running.values())
        for fetch in running:
            fetch.stop(_stopping())

    def _stop_unwanted(self, host: str) -> None:
        """Break a fetch from this registry off whose clients have all gone, so that one for a client can begin; it is
        resumed when somebody asks for it again."""
        for digest, fetch in self._running.items():
            if _host_of(fetch) == host and not fetch.is_wanted:
                del self._running[digest]  # nobody joins it any more
                fetch.stop(SystemFailure("its clients have gone, and others wait", hint="ask for it again"))
                return

    def _ended(self, fetch: Fetch) -> None:
        with self._guard:
            if self._running.get(fetch.descriptor.digest) is fetch:
                del self._running[fetch.descriptor.digest]
            self._turns[_host_of(fetch)].give_back()


class Fetch:
    """The fetch of one blob, in a thread of its own. It goes on when the clients that wanted it have gone."""

    def __init__(
        self,
        blob: Blob,
        cache: Cache,
        sweeper: Sweeper,
        verified: Callable[[Descriptor], None],
        ended: Callable[[Fetch], None],
    ) -> None:
        """Open the part file. Raises SystemFailure."""
        self.descriptor = blob.descriptor
        self._blob = blob
        self._cache = cache
        self._sweeper = sweeper
        self._verified = verified
        self._on_end = ended
        self._part = cache.part(self.descriptor.digest)
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int, Callable[[], object]]] = []
        self._received = 0
        self._done = False
        self._error: LaminaError | None = None
        self._stopped = threading.Event()
        self._why = _stopping()
        self._source: Stream | None = None
        self._users = 1  # the thread
        with reported(self._part):
            self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)

    def begin(self) -> None:
        """Start the thread. Raises SystemFailure."""
        thread = threading.Thread(target=self._run, name="lamina-mirror-fetch", daemon=True)
        try:
            start_threads([thread])
        except BaseException:
            self.leave()
            raise

    def stop(self, why: SystemFailure) -> None:
        """Break off; clients are cut off."""
        self._why = why
        self._stopped.set()
        source = self._source
        if source is not None and can_abort(source):
            source.abort()

    # for clients

    @property
    def is_wanted(self) -> bool:
        """Whether a client reads it."""
        with self._changed:
            return self._users > 1

    def join(self) -> None:
        """Keep the file open for a reader, until it calls ``leave``."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        with self._changed:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(self._file)

    def read(self, size: int, at: int, end: int) -> bytes:
        """Read from ``at`` of a response that ends before ``end``; wait for the bytes. Raises why they don't come."""
        with self._changed:
            while (readable := self._readable(end)) <= at and self._error is None:
                self._changed.wait()
            if readable <= at:
                assert self._error is not None
                raise self._error
        with reported(self._part):
            return os.pread(self._file, min(size, readable - at), at)

    def when_ready(self, at: int, end: int, call: Callable[[], object]) -> None:
        """Call ``call`` once, from any thread, when ``read`` would not wait."""
        with self._changed:
            if self._readable(end) <= at and self._error is None:
                self._waiting.append((at, end, call))
                return
        call()

    @property
    def origin(self) -> str:
        """The repository that the blob comes from."""
        return self._blob.origin

    def wait_for_first(self) -> None:
        """Wait until the blob comes in, or was refused. Raises why it does not come."""
        with self._changed:
            while not self._received and not self._done and self._error is None:
                self._changed.wait()
            if self._error is not None and not self._received:
                raise self._error

    def _readable(self, end: int) -> int:
        return end if self._done else min(self._received, end - 1)

    # the thread

    def _run(self) -> None:
        error: LaminaError | None = None
        try:
            self._fetch()
        except LaminaError as known:
            error = self._why if self._stopped.is_set() else known
        except OSError as unreported:
            error = failure(unreported, self._part)
        except BaseException as unexpected:  # noqa: BLE001 - who waits must be told, whatever it is
            _log.exception("the fetch of %s failed", self.descriptor.digest)
            error = SystemFailure(f"{type(unexpected).__name__}: {unexpected}", hint="see the server's log")
        finally:
            self._on_end(self)  # before clients are told: one that asks again begins a new fetch
            with self._changed:
                self._done = error is None
                self._error = error
            self._tell()
            with suppress(OSError):
                release(self._file, self._part)  # slow readers may have the file open for long
            self.leave()
        if error is not None:
            _log.warning("blob %s was not fetched: %s", self.descriptor.digest, error)
        else:
            self._sweeper.added(self.descriptor.size)

    def _fetch(self) -> None:
        if not self._locked():
            return  # another process has fetched it
        digest = self.descriptor.digest
        try:
            hasher = digest.hasher(self.descriptor.size)
            self._receive(hasher.update)
            actual = Digest(digest.algorithm, hasher.hexdigest())
            if actual != digest:
                raise DigestMismatch(
                    f"blob {digest} from {self._blob.origin} does not match its digest: its content has {actual}",
                    hint="report it to the registry's operator",
                )
        except InvalidContent as error:
            self._discard()
            # the bytes are those of the registry, so the fault is not this server's
            raise RemoteFailure(error.message, hint=error.hint) from None
        except BaseException:
            if not os.fstat(self._file).st_size:
                self._discard()
            raise
        os.fsync(self._file)
        self._cache.take(self._part, digest)
        if hasattr(os, "fchmod"):
            os.fchmod(self._file, 0o444)  # only now: a part file that is read-only could not be resumed after a kill
        self._verified(self.descriptor)

    def _locked(self) -> bool:
        """Lock the part file. While another process fetches it, pass on what comes in. Returns False if that one has
        completed it. Raises RemoteFailure if the other one failed after clients got bytes of its file."""
        final = self._cache.path(self.descriptor.digest)
        while not acquire(self._file, self._part, wait=False):
            self._grown(min(os.fstat(self._file).st_size, self.descriptor.size))
            if self._stopped.wait(_LOOK):
                raise self._why
        if is_same(self._file, final):
            return False
        if is_same(self._file, self._part):
            if not self._received and os.path.exists(final):
                self._discard()  # it came in before this part file was made
                self._swap(final)
                return False
            return True
        if self._received:
            raise RemoteFailure(
                f"blob {self.descriptor.digest}: another server of this mirror could not fetch it", hint="try again"
            )
        # the other process has removed the file: begin with a new one
        self._swap(self._part)
        return self._locked()

    def _swap(self, path: str) -> None:
        """Read and write another file from now on; no client has read the old one."""
        other = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            os.dup2(other, self._file, inheritable=False)
        finally:
            os.close(other)

    def _receive(self, update: Callable[[bytes], object]) -> None:
        size = self.descriptor.size
        if os.fstat(self._file).st_size > size:
            raise SizeMismatch(
                f"the part file of blob {self.descriptor.digest} has more than {size} bytes", hint="try again"
            )
        at = 0
        while data := os.pread(self._file, PIECE, at):  # what an interrupted fetch has left
            update(data)
            at += len(data)
        self._grown(at)
        os.lseek(self._file, at, os.SEEK_SET)
        failures, look = 0, at
        while at < size:
            before = at
            try:
                with self._blob.open(at) as source:
                    self._source = source
                    while at < size:
                        if self._stopped.is_set():
                            raise self._why
                        data = source.read(min(PIECE, size - at))
                        if not data:
                            raise RemoteFailure(
                                f"blob {self.descriptor.digest} ends after {at} of {size} bytes", hint="try again"
                            )
                        # not before the registry sends: the size may be what a manifest of a stranger says
                        if at >= look:
                            self._make_room(size - at)
                            look = at + _CHECK_EVERY
                        write_all(self._file, data)
                        update(data)
                        at += len(data)
                        self._grown(at)
            except RemoteFailure as error:
                failures = 1 if at > before else failures + 1
                if not at or failures >= ATTEMPTS or self._stopped.is_set():
                    raise
                _log.info("blob %s: %s; resuming at byte %d", self.descriptor.digest, error.message, at)
                if self._stopped.wait(failures * 0.5):
                    raise self._why from None
            finally:
                self._source = None

    def _make_room(self, size: int) -> None:
        missing = self._cache.missing_room(size)
        if missing:
            self._sweeper.make_room(missing)
            self._cache.check_room(size)

    def _grown(self, size: int) -> None:
        with self._changed:
            if size <= self._received:
                return
            self._received = size
        self._tell()

    def _tell(self) -> None:
        """Wake those who can read now."""
        with self._changed:
            ended = self._done or self._error is not None
            ready = [one for one in self._waiting if ended or self._readable(one[1]) > one[0]]
            self._waiting = [one for one in self._waiting if one not in ready] if ready else self._waiting
            self._changed.notify_all()
        for _, _, call in ready:
            call()

    def _discard(self) -> None:
        with suppress(FileNotFoundError):
            if is_same(self._file, self._part):
                os.unlink(self._part)


class GrowingStream:
    """A ``Stream`` of a range of a blob that is being fetched."""

    def __init__(self, fetch: Fetch, start: int, end: int) -> None:
        fetch.join()
        self._fetch: Fetch | None = fetch
        self._at, self._end = start, end
        self._guard = threading.Lock()

    def wait_for_first(self) -> None:
        """Wait until the blob comes in. Raises why it does not: before a client was told that it will."""
        if self._fetch is not None:
            self._fetch.wait_for_first()

    @property
    def origin(self) -> str:
        """The repository that the blob comes from."""
        return self._fetch.origin if self._fetch is not None else ""

    def when_ready(self, call: Callable[[], object]) -> None:
        """As ``Growing.when_ready``."""
        fetch = self._fetch
        if fetch is None or self._at >= self._end:
            call()
        else:
            fetch.when_ready(self._at, self._end, call)

    def read(self, size: int = -1, /) -> bytes:
        """Read some bytes, as they come. Raises why they don't come: RemoteFailure, SystemFailure."""
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        if self._at >= self._end or self._fetch is None or not size:
            return b""
        data = self._fetch.read(size, self._at, self._end)
        self._at += len(data)
        return data

    def close(self) -> None:
        with self._guard:
            fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _host_of(one: Blob | Fetch) -> str:
    return one.origin.partition("/")[0]


def _stopping() -> SystemFailure:
    return SystemFailure("the server stops", hint="try again")
