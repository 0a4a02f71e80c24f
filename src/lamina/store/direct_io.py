"""Appender: writes a file from front to back, with zeros as holes, and around the page cache if nobody will read it
from there.

A mounted tar is read around its page cache (view/erofs/attach). A blob is read only by a push, if its tar is kept. If
a pull put their bytes into the page cache, the kernel would find, fill and write out memory that nobody reads: for
750 MB of tar, that took 1.7 s in the kernel instead of 0.45 s.

But a write around the cache waits for the disk. If the disk is slower than the decompressor, a file that need not be
on the disk at once is written through the cache; then only the files that must be on the disk wait for it
(docs/decisions/0024-durable.md).
"""

from __future__ import annotations

import mmap
import os
import queue
import sys
import threading
import time

from lamina.events import start_threads
from lamina.host.files import write_all
from lamina.light import TYPE_CHECKING
from lamina.store.unfinished import DiskDelay
from lamina.store.writeback import EVERY, start_writing

if TYPE_CHECKING:
    from lamina.spec.digest import Hasher

BLOCK = 4096
"""In bytes: O_DIRECT requires addresses, offsets and lengths to be multiples of at most this."""
_BUFFER = 1 << 20
_BUFFERS = 4
_ZEROS = bytes(_BUFFER)
_LATE = 6e-9
"""In seconds per byte (170 MB/s): a disk that takes longer while further writes wait counts as late."""
_LATE_FACTOR = 3
"""A late disk also takes this many times longer than hashing the same bytes: on a busy machine everything is slow."""
_WATCHED = 3
"""Number of consecutive writes that are measured together."""
Piece = bytes | mmap.mmap


class Appender:
    """Call ``write`` for each piece, then ``finish``; call ``close`` in any case. From the first MiB on, a separate
    thread hashes and writes the pieces while the caller makes more. Raises OSError, in this call or in a later
    one."""

    def __init__(
        self,
        descriptor: int,
        *,
        cached: bool,
        at: int = 0,
        lasting: bool = True,
        hasher: Hasher | None = None,
        delay: DiskDelay | None = None,
    ) -> None:
        """``descriptor``: an open file; the caller closes it. ``cached``: whether the bytes stay in the page cache
        for the next reader. ``at``: the offset of the first byte, a multiple of ``BLOCK``. ``lasting``: whether the
        bytes must be on the disk soon. ``hasher``: also gets the bytes; it has all of them after ``finish``.
        ``delay``: shared by all files of the session."""
        self.written = 0
        """Bytes written so far, without holes."""
        self._descriptor = descriptor
        self._lasting = lasting
        self._hasher = hasher
        self._start = self._size = at
        self._at = self._flushed = at  # end of what was written; end of what the disk was told to take
        self._delay = delay or DiskDelay()
        self._watched = (0, 0.0, 0.0)  # count of writes while others waited; seconds hashing, seconds writing
        cached = cached or (self._delay.noticed and not lasting)
        self._around = self._direct = not cached and _go_around(descriptor, True)  # next pieces; file now
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
                if self._delay.noticed and not self._lasting:
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
        """Write what is left. Then the file holds all bytes; the caller calls ``fsync``."""
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
            if alone or self._size - self._start < _BUFFER:  # too few bytes for a thread
                self._take(piece, size)
                return
            thread = threading.Thread(target=self._work, name="lamina-disk", daemon=True)
            start_threads([thread])
            self._thread = thread  # set only after the start: ``_end`` joins it
        self._full.put((piece, size))

    def _work(self) -> None:
        while (given := self._full.get()) is not None:
            try:
                if self._error is None:
                    self._take(*given)
            except BaseException as error:  # noqa: BLE001  (raised again by the call that gives the next piece)
                self._error = error
            if isinstance(given[0], mmap.mmap) and self._error is not None:
                self._free.put(given[0])

    def _take(self, piece: Piece, size: int) -> None:
        with memoryview(piece) as view:
            began = time.monotonic()
            if self._hasher is not None:
                self._hasher.update(view[:size])
            if isinstance(piece, mmap.mmap) and (self._lasting or not self._delay.noticed):
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
        """Check whether the disk is slower than the caller that fills the buffers, 1 MiB each."""
        if self._lasting or self._full.qsize() < _BUFFERS - 2:  # one is written, one is filled: none waits
            self._watched = (0, 0.0, 0.0)
            return
        count, hashed, written = self._watched
        count, hashed, written = count + 1, hashed + hashing, written + writing
        if count == _WATCHED:
            late = count * _BUFFER * _LATE
            self._delay.noticed = self._delay.noticed or written > max(late, hashed * _LATE_FACTOR)
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
        """Write a buffer around the cache. The last block is padded with zeros; ``finish`` cuts the file to its
        length."""
        whole = -(-size // BLOCK) * BLOCK
        view[size:whole] = bytes(whole - size)
        if view[:whole] == _ZEROS[:whole]:
            return
        try:
            done = os.pwrite(self._descriptor, view[:whole], self._at)
        except OSError:
            done = 0
        if done < whole:  # refused, or the disk is full: a write through the cache tells which
            _go_around(self._descriptor, False)
            os.lseek(self._descriptor, self._at + done, os.SEEK_SET)
            write_all(self._descriptor, view[done:whole])
        self.written += size


def _go_around(descriptor: int, wanted: bool) -> bool:
    """Switch O_DIRECT on or off; returns whether it is on now. Not every file system has it."""
    if sys.platform != "linux":
        return False
    try:
        import fcntl

        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except (OSError, ImportError):
        return False
    return wanted
