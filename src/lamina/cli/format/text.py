"""Text in the output: ages and modes (pure); sizes, counts, safe names and paths in JSON come from
``lamina.text``."""

from __future__ import annotations

from functools import lru_cache

from lamina.text import clean, counted, human_size, json_path, json_text, some

__all__ = ["ago", "clean", "counted", "human_size", "json_path", "json_text", "lasted", "mode_text", "some"]


def lasted(seconds: float) -> str:
    """Format a length of time as docker does: ``5 minutes``, ``About an hour``."""
    whole = max(0, int(seconds))
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return counted(whole, "second")
    if whole < 3600:
        return "About a minute" if whole < 120 else f"{whole // 60} minutes"
    hours = (whole + 1800) // 3600
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    hours = whole // 3600
    for limit, unit, word in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 365 * 2, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // unit} {word}"
    return f"{hours // 24 // 365} years"


def ago(seconds: float) -> str:
    """Format an age as docker does."""
    return f"{lasted(seconds)} ago"


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
