"""What goes over a monitor's socket (pure): packets of a letter and its data. A socket keeps their bounds
(SOCK_SEQPACKET)."""

from __future__ import annotations

ATTACH = b"A"
"""To the monitor, first: connect these streams. Letters of "ioe": standard input, output and error."""
INPUT, INPUT_END = b"I", b"E"
SIZE = b"W"
"""To the monitor: the size of the terminal, as ``ROWS COLUMNS``."""
SIGNAL = b"S"
"""To the monitor: a signal for the program, by number."""
DETACH = b"D"
"""To the monitor: go without ending the program's input."""
WAKE = b"K"
"""To the monitor: look at the container's files again."""
PROGRAM = b"P"
"""To the monitor: run a further program, and tell on this connection how it started (``run.further``). The data is
its ID; a descriptor of the process, as JSON, comes with it."""
STOP = b"T"
"""To the monitor: somebody has stopped the container, so do not start it again."""
OUTPUT, ERROR = b"O", b"R"
EXIT = b"X"
"""From the monitor: the program has ended, with this exit code."""

PIECE = 1 << 15
"""Bytes of data in a packet at most."""


def two_numbers(data: bytes) -> tuple[int, int] | None:
    """The numbers of a SIZE; None if it is malformed."""
    words = data.split()
    if len(words) != 2 or not all(word.isdigit() and len(word) < 6 for word in words):
        return None
    rows, columns = map(int, words)
    return (rows, columns) if rows < 1 << 16 and columns < 1 << 16 else None
