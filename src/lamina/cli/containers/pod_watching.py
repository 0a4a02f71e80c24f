"""`pod top`, `pod stats` and `pod logs`: the verbs of containers, for all containers of pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lamina.cli.containers import logs, stats, top
from lamina.cli.format.output import emit
from lamina.cli.format.template_record import Record
from lamina.cli.options import named_once, short_format_option
from lamina.cli.session import Session
from lamina.cli.verbs import Command
from lamina.errors import Conflict, NotFound, UsageError
from lamina.run.container.pods import members
from lamina.store.pods import Pod, Pods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.store.containers import Container
    from lamina.store.store import Store

latest_option = click.option("-l", "--latest", is_flag=True, help="The pod that was made last.")


def newest(store: Store | None) -> str:
    """Return the ID of the pod that was made last. Raises NotFound."""
    every = list(Pods(store.paths)) if store is not None else []
    if not every:
        raise NotFound("there are no pods", hint="make one with `lamina pod create`")
    return max(every, key=lambda one: one.created).id


def _one(session: Session, name: str | None, latest: bool) -> Pod:
    """Return the pod that is named. Raises UsageError, NotFound."""
    named_once(bool(name), "pods", latest=latest)
    store = session.store
    return Pods(store.paths).get(newest(store) if latest else name or "")


@click.command("top", cls=Command)
@latest_option
@click.argument("words", nargs=-1, metavar="POD [OPTION OF PS]... | [COLUMN]...", type=click.UNPROCESSED)
@click.pass_obj
def pod_top(session: Session, latest: bool, words: tuple[str, ...]) -> None:
    """Show the processes of the running containers of a pod. The columns are those of `lamina top`; by default
    podman's.

    \b
    Example:
      lamina pod top site
      lamina pod top site pid args
    """
    one = _one(session, None if latest else "".join(words[:1]), latest)
    store, words = session.store, words if latest else words[1:]
    running = [each for each in members(store, one) if store.containers.is_running(each)]
    if not running:
        raise Conflict(f"no container of the pod {one.name} runs", hint=f"start it: lamina pod start {one.name}")
    top.show(top.rows_of(session, running, words or _TOP), None)


pod_top.allow_interspersed_args = False
_TOP = ("user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args")
_COLUMNS = [
    *(("Pod", "POD"), ("CID", "CID"), ("Name", "NAME"), ("CPU", "CPU %"), ("MemUsage", "MEM USAGE / LIMIT")),
    *(("Mem", "MEM %"), ("NetIO", "NET IO"), ("BlockIO", "BLOCK IO"), ("PIDS", "PIDS")),
]
_FIELDS = {"CPU": "CPUPerc", "Mem": "MemPerc", "PIDS": "PIDs"}


class _PodView(stats.View):
    """The running containers of pods. ``pods``: IDs; none: all."""

    def __init__(self, store: Store, pods: Sequence[str]) -> None:
        super().__init__(store, (), all_=False, whole=False)
        self._pods = pods

    def _containers(self) -> list[Container]:
        from lamina.run.container.pods import pod_of

        return [one for one in super()._containers() if (pod_of(one) in self._pods if self._pods else pod_of(one))]

    def _row(self, one: Container) -> tuple[Record, dict[str, Any]]:
        from lamina.run.container.pods import pod_of

        record, _ = super()._row(one)
        fields = {name: record[_FIELDS.get(name, name)] for name, _ in _COLUMNS[2:]}
        fields = {"Pod": pod_of(one)[:12], "CID": one.id[:12], **fields}
        return Record(fields, {}), {**fields, "MemUsageBytes": fields["MemUsage"]}


@click.command("stats", cls=Command)
@click.argument("names", nargs=-1, metavar="[POD]...")
@click.option("-a", "--all", "all_", is_flag=True, help="Show all pods, as without a name.")
@latest_option
@click.option("--no-stream", is_flag=True, help="Show the numbers once.")
@click.option("--no-reset", is_flag=True, help="Do not clear the screen.")
@short_format_option
@click.pass_obj
def pod_stats(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    latest: bool,
    no_stream: bool,
    no_reset: bool,
    format: str | None,
) -> None:
    """Show what the running containers of pods use, as `lamina stats` does.

    \b
    Example:
      lamina pod stats --no-stream site
      lamina pod stats --no-stream --format json
    """
    if all_ + latest + bool(names) > 1:
        raise UsageError("names, --all and --latest exclude each other", hint="give one of them")
    store = session.store_if_any
    pods = Pods(store.paths) if store is not None else None
    if pods is None or store is None:
        if names or latest:
            raise NotFound("there are no pods", hint="make one with `lamina pod create`")
        emit([], _COLUMNS, format)
        return
    chosen = [newest(store)] if latest else [pods.get(name).id for name in names]
    view = _PodView(store, chosen)
    stats.watch(view, _COLUMNS, format, once=no_stream, clear=not no_reset, ends=bool(chosen))


@click.command("logs", cls=Command)
@click.argument("name", required=False, metavar="POD")
@latest_option
@click.option("-c", "--container", "only", default="", metavar="NAME", help="Show only this container of the pod.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more output, until all containers have ended.")
@click.option("--tail", default="all", metavar="N", help="Show only the last N lines of each (default: all).")
@click.option("--since", default=None, metavar="TIME", help="Show output from TIME on: 10m, 2026-01-31T12:00:00Z.")
@click.option("--until", default=None, metavar="TIME", help="Show output before TIME.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option(
    "-n", "--names", "by_name", is_flag=True, help="Begin lines with the name of the container, not its ID."
)
@click.option("--color", is_flag=True, help="Give each container a color.")
@click.pass_obj
def pod_logs(
    session: Session,
    name: str | None,
    latest: bool,
    only: str,
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    by_name: bool,
    color: bool,
) -> int:
    """Show what the containers of a pod have written. Each line begins with the ID of its container.

    \b
    Example:
      lamina pod logs --names site
      lamina pod logs -f -c web site
    """
    one = _one(session, name, latest)
    found = members(session.store, one)
    if only:
        wanted = session.store.containers.get(only).id
        found = [each for each in found if each.id == wanted]
        if not found:
            raise NotFound(
                f"the container {only!r:.100} is not in the pod {one.name}",
                hint=f"see `lamina pod inspect {one.name}`",
            )
    lines, form = logs.count(tail), logs.Form(timestamps=timestamps, details=False)
    times = {"since": since, "until": until}
    return logs.show(session, found, form, **times, tail=lines, follow=follow, by_name=by_name, color=color)
