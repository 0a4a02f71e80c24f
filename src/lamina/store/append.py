"""A new file written front to back: zeros as holes, and around the page cache where nobody reads it from there.

A mounted tar is read around its page cache (view/attach): what a pull leaves in there is memory that the kernel has
to find, fill and write out for nobody. A pull of 750 MB of tar took 1.7 s in the kernel with it and 0.45 s without.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress

from lamina.files import write_all
from lamina.store.flush import EVERY, start_writing

_BLOCK = 4096  # what O_DIRECT wants of addresses, offsets and lengths, at most
_BUFFER = 1 << 20
_ZEROS = bytes(_BUFFER)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Appender:
    """``write`` pieces, then ``finish``, and ``close`` in any case. Raises OSError."""

    def __init__(self, path: str, *, cached: bool) -> None:
        """``cached``: whether the bytes are to stay in the page cache, for who reads them next."""
        self.written = 0
        """Bytes that take space on the disk, so far."""
        self._size = 0
        self._flushed = 0
        self._descriptor = -1
        self._buffer: mmap.mmap | None = None
        self._filled = 0
        if not cached and sys.platform == "linux":
            with suppress(OSError):  # a file system that has no way around its cache
                self._descriptor = os.open(path, _FLAGS | os.O_DIRECT, 0o600)
                self._buffer = mmap.mmap(-1, _BUFFER)
        if self._descriptor < 0:
            self._descriptor = os.open(path, _FLAGS | getattr(os, "O_BINARY", 0), 0o600)

    def write(self, data: bytes) -> None:
        if self._buffer is None:
            self._write(data)
            return
        view = memoryview(data)
        while view:
            taken = min(len(view), _BUFFER - self._filled)
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]
            if self._filled == _BUFFER:
                self._flush()

    def finish(self, mode: int) -> None:
        """All of it is on the disk then, with these permissions."""
        self._flush()
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        if hasattr(os, "fchmod"):
            os.fchmod(self._descriptor, mode)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def _flush(self) -> None:
        """What stands in the buffer, its last block filled up."""
        if self._buffer is None or not self._filled:
            return
        size, self._filled = self._filled, 0
        whole = -(-size // _BLOCK) * _BLOCK
        self._buffer[size:whole] = bytes(whole - size)
        with memoryview(self._buffer) as view:
            if view[:whole] != _ZEROS[:whole]:
                try:
                    done = os.pwrite(self._descriptor, view[:whole], self._size)
                except OSError:
                    done = 0
                if done < whole:  # refused, or a disk that is nearly full: the cache's way says what is wrong
                    self._around_no_more()
                    os.lseek(self._descriptor, self._size + done, os.SEEK_SET)
                    write_all(self._descriptor, view[done:whole])
                self.written += size
        self._size += size

    def _around_no_more(self) -> None:
        import fcntl

        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def _write(self, data: bytes) -> None:
        if self._size - self._flushed >= EVERY:
            start_writing(self._descriptor, self._flushed, self._size - self._flushed)
            self._flushed = self._size
        if data == _ZEROS[: len(data)]:
            os.lseek(self._descriptor, len(data), os.SEEK_CUR)
        else:
            write_all(self._descriptor, data)
            self.written += len(data)
        self._size += len(data)
