"""Text in the output: ages and modes (pure); sizes, counts, safe names and paths in JSON come from
``lamina.text``."""

from __future__ import annotations

from functools import lru_cache

from lamina.text import clean, counted, human_size, json_path, json_text, some

__all__ = ["ago", "clean", "counted", "human_size", "json_path", "json_text", "mode_text", "some"]


def ago(seconds: float) -> str:
    """Format an age as docker does."""
    seconds = max(0, int(seconds))
    for limit, unit, word in (
        (60, 1, "second"),
        (3600, 60, "minute"),
        (86400, 3600, "hour"),
        (86400 * 14, 86400, "day"),
        (86400 * 60, 86400 * 7, "week"),
        (86400 * 365 * 2, 86400 * 30, "month"),
    ):
        if seconds < limit:
            count = seconds // unit
            return f"{counted(count, word)} ago"
    return f"{seconds // (86400 * 365)} years ago"


@lru_cache(maxsize=1000)
def mode_text(kind_letter: str, mode: int) -> str:
    """Format a mode as ls does: ``-rwxr-xr-x``."""
    out = [kind_letter]
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = mode >> shift
        out.append("r" if bits & 4 else "-")
        out.append("w" if bits & 2 else "-")
        if mode & special:
            out.append(letter if bits & 1 else letter.upper())
        else:
            out.append("x" if bits & 1 else "-")
    return "".join(out)
