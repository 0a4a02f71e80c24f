"""A file written front to back: zeros as holes, and around the page cache where nobody reads it from there.

A mounted tar is read around its page cache (view/erofs/attach), and a blob whose tar is here when it is pushed: what
a pull leaves in there is memory that the kernel has to find, fill and write out for nobody. A pull of 750 MB of tar
took 1.7 s in the kernel with it and 0.45 s without.

But a write around the cache waits for the disk. Where the disk is slower than the decompressor, a file that need not
last goes on through the cache: then only what has to be on the disk waits for it (docs/decisions/0024-durable.md).
"""

from __future__ import annotations

import mmap
import os
import queue
import sys
import threading
import time

from lamina.events import started
from lamina.host.files import write_all
from lamina.light import TYPE_CHECKING
from lamina.store.flush import EVERY, start_writing
from lamina.store.unfinished import Pace

if TYPE_CHECKING:
    from lamina.spec.digest import Hasher

BLOCK = 4096
"""Bytes: what O_DIRECT wants of addresses, offsets and lengths, at most."""
_BUFFER = 1 << 20
_BUFFERS = 4
_ZEROS = bytes(_BUFFER)
_LATE = 6e-9
"""Seconds a byte (170 MB/s): a disk that takes longer, while the next writes wait, is late."""
_LATE_FACTOR = 3
"""How many times longer than hashing the same bytes: on a busy machine everything takes long."""
_WATCHED = 3
"""Writes in a row that are looked at together."""
Piece = bytes | mmap.mmap


class Appender:
    """``write`` pieces, then ``finish``, and ``close`` in any case. From the first MiB on a thread of its own hashes
    and writes them, while more are made. Raises OSError, now or at a later call."""

    def __init__(
        self,
        descriptor: int,
        *,
        cached: bool,
        at: int = 0,
        lasting: bool = True,
        hasher: Hasher | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``descriptor``: an open file, which stays its owner's. ``cached``: whether the bytes are to stay in the
        page cache, for who reads them next. ``at``: where they begin, a multiple of ``BLOCK``. ``lasting``: whether
        the disk is to have them at once. ``hasher`` gets the bytes too; it has them all after ``finish``. ``pace``:
        of the session that this file belongs to."""
        self.written = 0
        """Bytes that take space on the disk, so far."""
        self._descriptor = descriptor
        self._lasting = lasting
        self._hasher = hasher
        self._start = self._size = at
        self._at = self._flushed = at  # how far it is written, and told to go to the disk
        self._pace = pace or Pace()
        self._watched = (0, 0.0, 0.0)  # writes in a row while others waited; seconds of hashing and of writing
        cached = cached or (self._pace.behind and not lasting)
        self._around = self._direct = not cached and _go_around(descriptor, True)  # what comes; how the file is open
        self._free: queue.Queue[mmap.mmap] = queue.Queue()
        for _ in range(_BUFFERS if self._around else 0):
            self._free.put(mmap.mmap(-1, _BUFFER))
        self._buffer: mmap.mmap | None = None
        self._filled = 0
        self._full: queue.Queue[tuple[Piece, int] | None] = queue.Queue(_BUFFERS)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if not self._around:
            os.lseek(descriptor, at, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        self._size += len(data)
        view = memoryview(data)
        while view:
            if self._buffer is None:
                if self._pace.behind and not self._lasting:
                    self._around = False
                if not self._around:
                    self._hand_on(data if len(view) == len(data) else bytes(view), len(view))
                    return
                self._buffer = self._free.get()
            took = min(len(view), _BUFFER - self._filled)
            self._buffer[self._filled : self._filled + took] = view[:took]
            self._filled += took
            view = view[took:]
            if self._filled == _BUFFER:
                self._hand_on_buffer()

    def finish(self) -> None:
        """The file holds all of it then; ``fsync`` is the owner's."""
        self._hand_on_buffer()
        self._end()
        self._check()
        os.ftruncate(self._descriptor, self._size)

    def close(self) -> None:
        self._end()
        self._around = False
        if self._direct:
            self._direct = _go_around(self._descriptor, False)

    def _end(self) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _hand_on_buffer(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._hand_on(buffer, self._filled)
            self._filled = 0

    def _hand_on(self, piece: Piece, size: int) -> None:
        self._check()
        if self._thread is None:
            alone = self._hasher is None and not self._around
            if alone or self._size - self._start < _BUFFER:  # not worth a thread
                self._take(piece, size)
                return
            thread = threading.Thread(target=self._work, name="lamina-disk", daemon=True)
            started([thread])
            self._thread = thread  # one that could not be started is not waited for
        self._full.put((piece, size))

    def _work(self) -> None:
        while (given := self._full.get()) is not None:
            try:
                if self._error is None:
                    self._take(*given)
            except BaseException as error:  # noqa: BLE001  (it is raised again by whoever gives the next piece)
                self._error = error
            if isinstance(given[0], mmap.mmap) and self._error is not None:
                self._free.put(given[0])

    def _take(self, piece: Piece, size: int) -> None:
        with memoryview(piece) as view:
            began = time.monotonic()
            if self._hasher is not None:
                self._hasher.update(view[:size])
            if isinstance(piece, mmap.mmap) and (self._lasting or not self._pace.behind):
                hashed = time.monotonic()
                self._write_around(view, size)
                self._watch(hashed - began, time.monotonic() - hashed)
            else:
                if self._direct:
                    self._direct = _go_around(self._descriptor, False)
                    os.lseek(self._descriptor, self._at, os.SEEK_SET)
                self._write_through(view[:size])
        self._at += size
        if isinstance(piece, mmap.mmap):
            self._free.put(piece)

    def _watch(self, hashing: float, writing: float) -> None:
        """See whether the disk falls behind the one who fills the buffers, a MiB each."""
        if self._lasting or self._full.qsize() < _BUFFERS - 2:  # one is written, one is filled: none waits
            self._watched = (0, 0.0, 0.0)
            return
        count, hashed, written = self._watched
        count, hashed, written = count + 1, hashed + hashing, written + writing
        if count == _WATCHED:
            late = count * _BUFFER * _LATE
            self._pace.behind = self._pace.behind or written > max(late, hashed * _LATE_FACTOR)
            count, hashed, written = 0, 0.0, 0.0
        self._watched = (count, hashed, written)

    def _write_through(self, view: memoryview) -> None:
        size = len(view)
        if view == _ZEROS[:size]:
            os.lseek(self._descriptor, size, os.SEEK_CUR)
        else:
            write_all(self._descriptor, view)
            self.written += size
        if self._lasting and self._at + size - self._flushed >= EVERY:
            start_writing(self._descriptor, self._flushed, self._at + size - self._flushed)
            self._flushed = self._at + size

    def _write_around(self, view: memoryview, size: int) -> None:
        """The last block is filled up: the file is cut to its length in the end."""
        whole = -(-size // BLOCK) * BLOCK
        view[size:whole] = bytes(whole - size)
        if view[:whole] == _ZEROS[:whole]:
            return
        try:
            done = os.pwrite(self._descriptor, view[:whole], self._at)
        except OSError:
            done = 0
        if done < whole:  # refused, or a disk that is nearly full: the cache's way says what is wrong
            _go_around(self._descriptor, False)
            os.lseek(self._descriptor, self._at + done, os.SEEK_SET)
            write_all(self._descriptor, view[done:whole])
        self.written += size


def _go_around(descriptor: int, wanted: bool) -> bool:
    """Whether the file's reads and writes go around the page cache now: not every file system has a way."""
    if sys.platform != "linux":
        return False
    try:
        import fcntl

        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except (OSError, ImportError):
        return False
    return wanted
