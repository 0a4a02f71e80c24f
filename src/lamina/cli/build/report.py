"""What `build` prints besides its progress: an excerpt of the Dockerfile, why steps ran (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.cli.build.trace import shown
from lamina.text import clean, counted

if TYPE_CHECKING:
    from lamina.build.errors import Finding
    from lamina.build.events import Ran
    from lamina.build.instructions import At

_RULE = "--------------------"
_AROUND = 4  # lines in all before and after an instruction of one line, as in BuildKit
_MOST = 50  # lines of an instruction that are shown


def excerpt(source: str, at: At) -> list[str]:
    """Return the lines around an instruction; those of the instruction itself are marked, as in BuildKit."""
    lines = source.split("\n")
    first, last = at.line, min(max(at.last, at.line), at.line + _MOST, len(lines))
    if not 1 <= first <= len(lines):
        return []
    start, end = first, last
    shown_around = _AROUND if first == last else _AROUND // 2
    count = 0
    while count < shown_around:
        if start > 1:
            start -= 1
            count += 1
        if end < len(lines):
            end += 1
            count += 1
        count += 1
    from lamina.build.planning.plan import without_any_credentials

    found = [f"{clean(at.file)}:{at.line}", _RULE]
    for number in range(start, end + 1):
        mark = ">>>" if first <= number <= last else "   "
        found.append(f" {number:3} | {mark} {shown(without_any_credentials(lines[number - 1]))}")
    return [*found, _RULE]


def reasons(steps: Iterable[Ran]) -> Iterator[str]:
    """Yield the lines of `--why`: for each step that ran, the inputs that differ from the last time."""
    ran = [step for step in steps if not step.cached]
    if not ran:
        yield "every step was in the cache"
    for step in ran:
        yield f"{clean(step.label)} ({clean(step.at.file)}:{step.at.line})"
        if step.reason and not step.differs:
            yield f"    {clean(step.reason)}"
        for name, before, now in step.differs:
            yield f"    {clean(name)}: {_short(before)} -> {_short(now)}"


def warnings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines about the findings of the checks, as they stand at the end of a build."""
    if findings:
        yield f" {counted(len(findings), 'warning')} found (see `lamina build --check`):"
    for one in findings:
        yield f" - {one.rule}: {clean(one.text)} (line {one.at.line})"


def _short(value: str) -> str:
    text = clean(value)
    if not text:
        return "(nothing)"
    if text.startswith("sha256:") and len(text) == 71:
        return text[:19]
    return text if len(text) <= 100 else text[:97] + "..."
