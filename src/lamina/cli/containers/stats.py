"""The verb `stats`: what running containers use, live or once."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import warn
from lamina.cli.containers.several import chosen, latest_option
from lamina.cli.format.output import emit
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import human_size
from lamina.cli.options import no_trunc_option, short_format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.run.inspection.usage import Usage
    from lamina.store.containers import Container
    from lamina.store.store import Store

_COLUMNS = [
    *(("ID", "CONTAINER ID"), ("Name", "NAME"), ("CPUPerc", "CPU %"), ("MemUsage", "MEM USAGE / LIMIT")),
    *(("MemPerc", "MEM %"), ("NetIO", "NET I/O"), ("BlockIO", "BLOCK I/O"), ("PIDs", "PIDS")),
]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FIRST = 0.5  # seconds between the first two measurements
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


@command(
    "stats",
    "lamina stats\nlamina stats --no-stream web db\nlamina stats --format '{{.Name}}: {{.CPUPerc}} {{.MemUsage}}'",
)
@click.argument("names", nargs=-1, metavar="[CONTAINER]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Also show containers that do not run.")
@latest_option
@click.option("--no-stream", is_flag=True, help="Show the numbers once.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    metavar="SECONDS",
    help="Seconds between two measurements (default: 1).",
)
@click.option("--no-reset", is_flag=True, help="Do not clear the screen.")
@no_trunc_option
@short_format_option
@click.pass_obj
def stats(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    latest: bool,
    no_stream: bool,
    interval: float,
    no_reset: bool,
    no_trunc: bool,
    format: str | None,
) -> None:
    """Show what running containers use: processor time, memory, network, disks, processes. The numbers come from the
    cgroup of the container. Without one they are sums over its processes. On a terminal the list is renewed until
    Ctrl-C; if names are given, until these containers have ended."""
    if latest or (all_ and names):
        names = chosen(session, names, all_=all_, latest=latest) or ()
    store = session.store if names else session.store_if_any
    if store is None:
        emit([], _COLUMNS, format)
        return
    for name in names:
        store.containers.get(name)  # an unknown name is an error at the start only
    view = View(store, names, all_=all_, whole=no_trunc)
    watch(view, _COLUMNS, format, interval=interval, once=no_stream, clear=not no_reset, ends=bool(names))


def watch(
    view: View,
    columns: Sequence[tuple[str, str]],
    format: str | None,
    *,
    interval: float = 1.0,
    once: bool,
    clear: bool,
    ends: bool,
) -> None:
    """Show what the view has, each ``interval`` seconds. ``clear``: renew the list on a terminal. ``ends``: stop when
    none of the containers runs."""
    view.measure()
    time.sleep(min(_FIRST, interval))
    live = sys.stdout.isatty() and not once and clear
    if live:
        click.clear()
    while True:
        view.measure()
        rows = view.rows()
        if live:
            sys.stdout.write(_HOME + _REST)
        emit([row for row, _ in rows], columns, format, json_rows=[row for _, row in rows])
        sys.stdout.flush()
        if once or (ends and not view.any_runs):
            return
        time.sleep(interval)


class View:
    """The containers that are shown, and the last two measurements of each."""

    def __init__(self, store: Store, names: Sequence[str], *, all_: bool, whole: bool) -> None:
        self._store, self._names, self._all, self._whole = store, names, all_, whole
        self._before: dict[str, Usage] = {}
        self._now: dict[str, Usage] = {}
        self._shown: list[Container] = []
        self._called: dict[str, str] = {}  # the words that name the containers, by ID
        self._warned = False

    @property
    def any_runs(self) -> bool:
        return bool(self._now)

    def measure(self) -> None:
        from lamina.run.inspection.usage import measure

        self._before, self._now = self._now, {}
        self._shown = self._containers()
        for one in self._shown:
            with suppress(LaminaError):  # it does not run
                self._now[one.id] = measure(self._store, one)
        if not self._warned and any(not usage.exact for usage in self._now.values()):
            self._warned = True
            warn("containers without a cgroup: their numbers are sums over the processes that live")

    def _containers(self) -> list[Container]:
        containers = self._store.containers
        if self._names:
            found = []
            for name in self._names:
                with suppress(LaminaError):  # it was removed
                    found.append(containers.get(name))
                    self._called[found[-1].id] = name
            return found
        return [one for one in list(containers)[::-1] if self._all or containers.is_running(one)]

    def rows(self) -> list[tuple[Record, dict[str, Any]]]:
        """For each container docker's fields, and podman's for JSON."""
        return [self._row(one) for one in self._shown]

    def _row(self, one: Container) -> tuple[Record, dict[str, Any]]:
        from lamina.run.inspection.usage import Usage

        usage = self._now.get(one.id, Usage())
        cpu = f"{usage.cpu_percent(self._before.get(one.id, usage)):.2f}%"
        identity = one.id if self._whole else one.id[:12]
        memory = f"{binary_size(usage.memory)} / {binary_size(usage.limit)}"
        percent = f"{usage.memory_percent:.2f}%"
        network = f"{human_size(usage.received)} / {human_size(usage.sent)}"
        disks = f"{human_size(usage.read)} / {human_size(usage.written)}"
        pids = str(usage.pids)
        fields = {
            "BlockIO": disks,
            "CPUPerc": cpu,
            "Container": self._called.get(one.id, identity),
            "ID": identity,
            "MemPerc": percent,
            "MemUsage": memory,
            "Name": one.name,
            "NetIO": network,
            "PIDs": pids,
        }
        podmans = {
            "id": identity,
            "name": one.name,
            "cpu_time": f"{usage.cpu / 1e9:.6f}s",
            "cpu_percent": cpu,
            "avg_cpu": _average(usage, one),
            "mem_usage": memory,
            "mem_percent": percent,
            "net_io": network,
            "block_io": disks,
            "pids": pids,
        }
        return Record(fields, {"CPU": cpu, "MemUsageBytes": memory, "AVGCPU": podmans["avg_cpu"]}), podmans


def _average(usage: Usage, one: Container) -> str:
    lived = time.time() - (one.since or one.created)
    return f"{100 * usage.cpu / 1e9 / lived:.2f}%" if usage.cpu and lived > 0 else "0.00%"


def binary_size(size: int) -> str:
    """Format bytes in powers of 1024 with four digits, as docker does: 660KiB, 1.5GiB."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.4g}{_UNITS[unit]}"
