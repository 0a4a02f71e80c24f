"""What a log says about output that is missing in it (pure)."""

from __future__ import annotations


def note(lost: int, why: str, *, inside_line: bool = False) -> bytes:
    """A line for stderr. ``lost`` in bytes. ``inside_line``: the log does not end with a whole line."""
    start = "\n" if inside_line else ""
    return f"{start}lamina: {lost} bytes of output are missing here: {why}\n".encode("utf-8", "replace")
