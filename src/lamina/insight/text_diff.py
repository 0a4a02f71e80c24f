"""Two contents as a unified diff (pure)."""

from __future__ import annotations

MAX_TEXT = 4 << 20  # bytes of one side
_MAX_WORK = 4_000_000  # pairs of equal lines that difflib would look at in one step
_POPULAR = 200  # from this many lines on, difflib leaves out lines that are more than 1 % of all


def decoded(data: bytes) -> str | None:
    """The text, or None for what is none: zero bytes, or not UTF-8."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def unified(before: bytes, after: bytes, names: tuple[str, str], *, context: int = 3) -> list[str] | None:
    """The lines of a unified diff, without line ends; None where a side is no text, or comparing would take too long.
    A last line without its end is followed by git's remark."""
    old, new = decoded(before), decoded(after)
    if old is None or new is None:
        return None
    ours, theirs = _lines(old), _lines(new)
    if _work(ours, theirs) > _MAX_WORK:
        return None
    from difflib import unified_diff

    found = []
    for line in unified_diff(ours, theirs, *names, n=context, lineterm="\n"):
        found.append(line.removesuffix("\n"))
        if not line.endswith("\n"):
            found.append("\\ No newline at end of file")
    return found


def _lines(text: str) -> list[str]:
    """Lines with their ends, cut at line feeds only."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop().removesuffix("\n")
    return [*lines, last] if last else lines


def _work(ours: list[str], theirs: list[str]) -> int:
    """How many pairs of equal lines there are between the ends that are alike; bounds difflib's time."""
    start = 0
    while start < min(len(ours), len(theirs)) and ours[start] == theirs[start]:
        start += 1
    from collections import Counter

    counts = Counter(theirs)
    most = len(theirs) // 100 + 1 if len(theirs) >= _POPULAR else len(theirs)
    return sum(counts[line] for line in ours[start:] if counts[line] <= most)
