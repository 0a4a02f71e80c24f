"""Makes a unified diff of two contents (pure)."""

from __future__ import annotations

MAX_TEXT = 4 << 20  # bytes of one side
_MAX_WORK = 4_000_000  # pairs of equal lines that difflib may compare in one step
_POPULAR = 200  # from this many lines on, difflib ignores lines that make up more than 1 % of all


def decoded(data: bytes) -> str | None:
    """Return the text, or None if it has zero bytes or is not UTF-8."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def unified(before: bytes, after: bytes, names: tuple[str, str], *, context: int = 3) -> list[str] | None:
    """Return the lines of a unified diff, without line ends; None if a side is not text, or the comparison would take
    too long. git's remark follows a last line without an end."""
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
    """Split into lines with their ends, at line feeds only."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop().removesuffix("\n")
    return [*lines, last] if last else lines


def _work(ours: list[str], theirs: list[str]) -> int:
    """Return the number of pairs of equal lines between the common start and the end; it limits difflib's time."""
    start = 0
    while start < min(len(ours), len(theirs)) and ours[start] == theirs[start]:
        start += 1
    from collections import Counter

    counts = Counter(theirs)
    most = len(theirs) // 100 + 1 if len(theirs) >= _POPULAR else len(theirs)
    return sum(counts[line] for line in ours[start:] if counts[line] <= most)
