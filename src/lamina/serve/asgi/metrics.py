"""Counts what the server does, and writes it in the text format of Prometheus (version 0.0.4). Pure but for the
figures of this process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lamina.version import __version__

BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of durations, in seconds."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Series = dict[str, float]
"""Lines of metrics: name and labels, value."""


@dataclass
class _Durations:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def note(self, seconds: float) -> None:
        self.total += seconds
        for place, bound in enumerate(BOUNDS):
            if seconds <= bound:
                self.counts[place] += 1
                return
        self.counts[-1] += 1


class Metrics:
    """The figures of one process. Used in the event loop only."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._durations: dict[str, _Durations] = {}
        self._received: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._began = time.time()
        self.gauges: dict[str, Callable[[], float]] = {}
        """What is asked when the metrics are read, by name with labels."""

    def note(self, kind: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Note a request that has ended. ``kind``: one of a small set, it becomes a label; ``status``: 0 if the
        client has gone."""
        self._requests[kind, method if method in _METHODS else "other", status] += 1
        self._durations.setdefault(kind, _Durations()).note(seconds)
        self._received[kind] += received
        self._sent[kind] += sent

    def series(self) -> Series:
        found: Series = {f'lamina_build_info{{version="{__version__}"}}': 1}
        for (kind, method, status), count in sorted(self._requests.items()):
            found[f'lamina_requests_total{{kind="{kind}",method="{method}",status="{status}"}}'] = count
        for kind, durations in sorted(self._durations.items()):
            so_far = 0
            for bound, count in zip((*BOUNDS, "+Inf"), durations.counts, strict=True):
                so_far += count
                found[f'lamina_request_seconds_bucket{{kind="{kind}",le="{bound}"}}'] = so_far
            found[f'lamina_request_seconds_sum{{kind="{kind}"}}'] = round(durations.total, 6)
            found[f'lamina_request_seconds_count{{kind="{kind}"}}'] = so_far
        for name, counter in (("received", self._received), ("sent", self._sent)):
            for kind, count in sorted(counter.items()):
                found[f'lamina_{name}_bytes_total{{kind="{kind}"}}'] = count
        for name, gauge in self.gauges.items():
            try:
                found[name] = gauge()
            except OSError:
                continue
        found |= _process()
        found["process_start_time_seconds"] = round(self._began, 3)
        return found


_TYPES = {
    "lamina_build_info": "gauge",
    "lamina_requests_total": "counter",
    "lamina_request_seconds": "histogram",
    "lamina_received_bytes_total": "counter",
    "lamina_sent_bytes_total": "counter",
    "process_cpu_seconds_total": "counter",
}
_HELP = {
    "lamina_build_info": "The version of lamina.",
    "lamina_requests_total": "Requests that have ended, by kind of route; status 0: the client was gone.",
    "lamina_request_seconds": "How long requests took, with their bodies.",
    "lamina_received_bytes_total": "Bytes of the bodies of requests.",
    "lamina_sent_bytes_total": "Bytes of the bodies of responses.",
    "lamina_requests_running": "Requests that are worked on, without (read, mirror) and with (write) a body.",
    "lamina_connections": "Open connections.",
    "lamina_disk_free_bytes": "Free space where the store is.",
    "lamina_disk_size_bytes": "Size of the file system of the store.",
    "process_resident_memory_bytes": "Memory of the server.",
    "process_cpu_seconds_total": "Processor time of the server.",
    "process_open_fds": "Open files and connections of the server.",
    "process_start_time_seconds": "When the server began.",
}


def render(series: Mapping[str, float]) -> bytes:
    """Write series as text, each metric with its type and help."""
    lines: list[str] = []
    last = ""
    for name, value in series.items():
        family = _family(name)
        if family != last:
            last = family
            if family in _HELP:
                lines.append(f"# HELP {family} {_HELP[family]}")
            lines.append(f"# TYPE {family} {_TYPES.get(family, 'gauge')}")
        lines.append(f"{name} {int(value) if value == int(value) else value!r}")
    return ("\n".join(lines) + "\n").encode()


def added(all_series: Iterable[Mapping[str, float]]) -> Series:
    """Add up the series of several processes; of the time when they began, the first counts. What is the same for all
    of them (the disk) is not added."""
    total: Series = {}
    for series in all_series:
        for name, value in series.items():
            if name not in total:
                total[name] = value
            elif name == "process_start_time_seconds":
                total[name] = min(total[name], value)
            elif not name.startswith(("lamina_build_info", "lamina_disk_")):
                total[name] += value
    return dict(sorted(total.items(), key=lambda one: _family(one[0])))


def _family(name: str) -> str:
    bare = name.partition("{")[0]
    return bare.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")


def _process() -> Series:
    found: Series = {}
    times = os.times()
    found["process_cpu_seconds_total"] = round(times.user + times.system, 2)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            found["process_resident_memory_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found["process_open_fds"] = len(os.listdir("/proc/self/fd"))
    except (OSError, ValueError, AttributeError, IndexError):
        pass  # not Linux
    return found
