"""The size of a terminal."""

from __future__ import annotations

import fcntl
import struct
import termios
from contextlib import suppress


def set_size(terminal: int, rows: int, columns: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def size_of(terminal: int) -> tuple[int, int]:
    """Rows and columns. Raises OSError."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns
