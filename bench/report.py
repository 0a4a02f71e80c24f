"""bench/RESULTS.md as text: what was asked and measured, and the rows that it comes from. Pure, but for the facts."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meter import Series


@dataclass(frozen=True)
class Verdict:
    """One row of the table. ``reached``: None where it could not be measured."""

    measure: str
    asked: str
    measured: str
    reached: bool | None


@dataclass
class Section:
    """What one measure gave: verdicts, rows, and remarks (or another program's words)."""

    title: str
    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[Series] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """Of medians, and the smallest and the largest of a single round: the first lies between them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f}-{self.high:.2f})"


def ratio(over: Series, under: Series) -> Ratio:
    each = [one / other for one, other in zip(over.seconds, under.seconds, strict=True)]
    return Ratio(over.median / under.median, min(each), max(each))


def faster(measure: str, asked: float, peer: Series, ours: Series, *, strictly: bool = False) -> Verdict:
    """Whether ours takes ``asked`` times less than the peer."""
    told = f"over {asked:g}x: ahead" if strictly else f"{asked:g}x"
    wrong = unmeasured(peer, ours)
    if wrong:
        return Verdict(f"{measure}, against {peer.name}", told, wrong, None)
    found = ratio(peer, ours)
    reached = found.median > asked if strictly else found.median >= asked
    return Verdict(f"{measure}, against {peer.name}", told, str(found), reached)


def within(measure: str, asked: float, ours: Series, other: Series) -> Verdict:
    """Whether ours takes at most ``asked`` of the other's time."""
    wrong = unmeasured(other, ours)
    told = f"at most {asked:g}x"
    if wrong:
        return Verdict(measure, told, wrong, None)
    found = ratio(ours, other)
    return Verdict(measure, told, str(found), found.median <= asked)


def unmeasured(*all_: Series) -> str:
    return "; ".join(f"{one.name}: {one.failure or 'not measured'}" for one in all_ if not one.complete)


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    return (
        f"{statistics.median(values):.{digits}f} {unit} ({min(values):.{digits}f}-{max(values):.{digits}f})".replace(
            "  ", " "
        )
    )


def render(facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    lines = [
        "# Measured",
        "",
        "Written whole by `bench/mounted.py` (`make bench`); what is asked is issue 10's table. Ratios are of",
        "medians; in parentheses the smallest and the largest of a single round. Engines take turns, A B C A B C,",
        "each time on an empty store; before the clock starts, all that was written is synced to the disk.",
        "",
        *(f"- {name}: {value}" for name, value in facts),
        "",
        "| measure | asked | measured | reached |",
        "|---|---|---|---|",
    ]
    for section in sections:
        for one in section.verdicts:
            reached = {True: "yes", False: "**no**", None: "not measured"}[one.reached]
            lines.append("| " + " | ".join(map(_cell, (one.measure, one.asked, one.measured, reached))) + " |")
    lines += [
        "",
        "CPU is user and system time of all its processes; peak is the largest process's resident memory.",
        "",
    ]
    for section in sections:
        lines += [f"## {section.title}", ""]
        if section.rows:
            lines += ["| engine | median s | each round, s | CPU s | peak MB |", "|---|---|---|---|---|"]
            lines += [_row(one) for one in section.rows]
            lines += ["", *(f"- {one.name}: {one.detail}" for one in section.rows if one.detail), ""]
        for remark in section.remarks:
            lines += [remark, ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(one: Series) -> str:
    if not one.seconds:
        return f"| {_cell(one.name)} | {_cell(one.failure or 'not measured')} | | | |"
    digits = 3 if one.median < 1 else 2
    each = " ".join(f"{seconds:.{digits}f}" for seconds in one.seconds)
    if one.failure:
        each += f"; then {one.failure}"
    return (
        f"| {_cell(one.name)} | {one.median:.{digits}f} | {_cell(each)} | {statistics.median(one.cpu):.2f} "
        f"| {one.peak / 1e6:.0f} |"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def machine(place: Path) -> list[tuple[str, str]]:
    """What it ran on."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cores = len(re.findall(r"^processor\s*:", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    release = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    load = Path("/proc/loadavg").read_text().split()[0]
    return [
        ("machine", f"{model[1] if model else platform.machine()}, {cores} cores, "
                    f"{int(memory[1]) / 1e6 if memory else 0:.1f} GB of memory; load {load} at the start"),
        ("system", f"Linux {platform.release()}, {release[1] if release else '?'}"),
        ("file system of all stores", _file_system(place)),
    ]  # fmt: skip


def _file_system(place: Path) -> str:
    told = subprocess.run(["findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", str(place)], capture_output=True,
                          text=True, check=False).stdout.split()  # fmt: skip
    if len(told) < 3:
        return "?"
    image = subprocess.run(["losetup", "-n", "-O", "BACK-FILE", told[1]], capture_output=True, text=True,
                           check=False).stdout.strip()  # fmt: skip
    under = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", image or "/"], capture_output=True, text=True,
                           check=False).stdout.strip()  # fmt: skip
    journal = subprocess.run(["dumpe2fs", "-h", told[1]], capture_output=True, text=True, check=False).stdout
    told_journal = "with a journal" if "has_journal" in journal else "no journal seen"
    loop = f", made for this in a loop image (direct I/O) on {under}" if image else ""
    return f"{told[0]} {told_journal} ({told[2]}){loop}"
