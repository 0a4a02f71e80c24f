"""The system's libz, for a function that Python's wrappers lack: stopping at the end of a deflate block.

Every Linux and macOS has it, because package managers need it. Without it, gzip layers have no checkpoints.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from lamina.layer.checkpoints.checkpoint import Checkpoint
from lamina.layer.codec import GzipDecoder

_NAMES = ("libz.1.dylib", "libz.dylib") if sys.platform == "darwin" else ("libz.so.1",)
_BLOCK, _NO_FLUSH = 5, 0
_OK, _END, _NO_PROGRESS = 0, 1, -5
_WINDOW = 1 << 15
_ROOM = 1 << 20


class _State(ctypes.Structure):
    """z_stream of zlib.h."""

    _fields_ = (
        ("next_in", ctypes.c_char_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@cache
def _library() -> Any:
    """Load libz; None if it is missing or too old."""
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            for function in ("inflateInit2_", "inflate", "inflateReset", "inflateEnd", "inflateGetDictionary"):
                getattr(library, function)
            library.zlibVersion.restype = ctypes.c_char_p
        except (OSError, AttributeError):
            continue
        return library
    return None


def refusal() -> str:
    """Return why gzip layers can't have checkpoints on this host; "" if they can."""
    if _library() is not None:
        return ""
    return f"{_NAMES[0]} was not found: each file is inflated from the start of its layer"


class _Broken(Exception):
    pass


class CheckpointGzip(GzipDecoder):
    """A ``GzipDecoder`` that also records a checkpoint at a block border about every ``spacing`` bytes of output. To
    the loop of its base class it acts as both the zlib module and the decompressor of a member."""

    def __init__(self, spacing: int) -> None:
        super().__init__()
        self._zlib = self
        self._error = _Broken
        self.checkpoints: list[Checkpoint] = []
        self.eof = False
        self.unconsumed_tail = self.unused_data = b""
        self._spacing = spacing
        self._out = self._since = 0
        self._state = _State()
        self._room = ctypes.create_string_buffer(_ROOM)
        self._window = ctypes.create_string_buffer(_WINDOW)
        self._libz = _library()
        version = self._libz.zlibVersion()
        gzip_only = 31
        code = self._libz.inflateInit2_(ctypes.byref(self._state), gzip_only, version, ctypes.sizeof(_State))
        if code != _OK:
            raise MemoryError("libz could not be initialised")

    def __del__(self) -> None:
        if getattr(self, "_libz", None) is not None:
            self._libz.inflateEnd(ctypes.byref(self._state))

    def decompressobj(self, _: int) -> CheckpointGzip:
        """Prepare for the next gzip member."""
        self._libz.inflateReset(ctypes.byref(self._state))
        self.eof = False
        return self

    def decompress(self, data: bytes, most: int) -> bytes:
        """Inflate ``data`` to at most ``most`` bytes; the remaining input is kept in the attributes of zlib's
        decompressor."""
        state, reference, out, most = self._state, ctypes.byref(self._state), 0, min(most, _ROOM)
        where = ctypes.addressof(self._room)
        state.next_in, state.avail_in = data, len(data)
        while out < most:
            due = self._since >= self._spacing
            room = most - out if due else min(most - out, self._spacing - self._since)
            state.next_out, state.avail_out = where + out, room
            code = self._libz.inflate(reference, _BLOCK if due else _NO_FLUSH)
            made = room - state.avail_out
            out += made
            self._since += made
            self._out += made
            if code == _END:
                self.eof = True
                break
            if code == _NO_PROGRESS:
                break
            if code != _OK:
                raise _Broken((state.msg or b"it needs a dictionary").decode("ascii", "replace"))
            if due and state.data_type & 128 and not state.data_type & 64:
                self._add_checkpoint()
            elif not state.avail_in and state.avail_out:
                break
        left = data[len(data) - state.avail_in :] if state.avail_in else b""
        self.unconsumed_tail, self.unused_data = (b"", left) if self.eof else (left, b"")
        return ctypes.string_at(self._room, out)

    def _add_checkpoint(self) -> None:
        """Record a checkpoint: the decoder is between two blocks."""
        length = ctypes.c_uint(0)
        self._libz.inflateGetDictionary(ctypes.byref(self._state), self._window, ctypes.byref(length))
        bits = self.position(self._state.avail_in) * 8 - (self._state.data_type & 7)
        self.checkpoints.append(Checkpoint(bits, self._out, ctypes.string_at(self._window, length.value)))
        self._since = 0
