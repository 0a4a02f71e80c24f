"""The verb `pod` of podman: groups of containers."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from lamina.cli import warn
from lamina.cli.containers.pod_watching import latest_option, newest, pod_logs, pod_stats, pod_top
from lamina.cli.containers.verbs import end, time_option
from lamina.cli.format.output import ask, emit, emit_json, emit_template, write
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import ago, clean
from lamina.cli.option_table import MANY
from lamina.cli.options import Switch, format_option, named_once, no_trunc_option
from lamina.cli.session import Session
from lamina.cli.verbs import VERBS, Command, Group
from lamina.errors import LaminaError, NotFound, UsageError
from lamina.store.containers import PAUSED, RUNNING
from lamina.store.pods import Pod, Pods

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.store.containers import Container
    from lamina.store.store import Store


@click.group("pod", cls=Group, short_help=VERBS["pod"][2])
def pod() -> None:
    """Group containers that belong together. The containers of a pod share its network, unless it was made with
    `--share=`. The first container that is created in a pod makes the network.

    \b
    Example:
      lamina pod create --name site -p 8080:80
      lamina run -d --pod site nginx
      lamina pod rm --force site
    """


_names = click.argument("names", nargs=-1, metavar="[POD]...")
_all = click.option("-a", "--all", "all_", is_flag=True, help="All pods.")
_ignore = click.option("-i", "--ignore", is_flag=True, help="Do not fail if a pod does not exist.")


@pod.command("create", cls=Command)
@click.argument("word", required=False, metavar="[NAME]")
@click.option("--name", "-n", default="", metavar="NAME", help="Name of the pod (default: from its ID).")
@click.option("--infra", cls=Switch, help="Accepted as in podman; lamina needs no container that holds the network.")
@click.option("--share", default=None, metavar="net|none", help="What the containers share (default: the network).")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Set a label on the pod.")
@click.option("-p", "--publish", multiple=True, metavar="PORT", help="Publish a port of the pod's network.")
@click.option("--network", "--net", multiple=True, metavar="NETWORK", help="Network of the pod.")
@click.option("--hostname", default="", metavar="NAME", help="Host name of the container that makes the network.")
@click.option("--replace", is_flag=True, help="Remove an existing pod with the same name first.")
@click.option("--pod-id-file", metavar="FILE", help="Write the ID of the pod to a file.")
@click.option("--exit-policy", type=click.Choice(["continue", "stop"]), hidden=True, expose_value=False)
@click.pass_obj
def create(
    session: Session,
    word: str | None,
    name: str,
    infra: str | None,
    share: str | None,
    labels: tuple[str, ...],
    publish: tuple[str, ...],
    network: tuple[str, ...],
    hostname: str,
    replace: bool,
    pod_id_file: str | None,
) -> None:
    """Make a pod, and print its ID. `lamina run --pod NAME` puts a container into it.

    \b
    Example:
      lamina pod create --name site -p 8080:80
      lamina pod create --name group --infra=false --share=
    """
    from lamina.run.container.pods import as_options, parse_share
    from lamina.run.options import parse_labels

    if word and name:
        raise UsageError("the pod has two names", hint="give one name")
    shared, not_shared = parse_share("" if share is None and infra == "false" else share)
    if not_shared:
        warn(f"containers of a pod share only their network, not {', '.join(not_shared)}")
    options = _network_options(publish, network, hostname)
    if options and not shared:
        raise UsageError(
            "a pod that shares no network has no ports and no network",
            hint="give them to `lamina run`, or leave out --share=",
        )
    name = name or word or ""
    store = session.writable_store
    pods = Pods(store.paths)
    if replace and name:
        with suppress(NotFound):
            _remove(store, pods.get(name), force=True)
    stored = as_options(options) if options else {}
    made = pods.create(name, labels=parse_labels(labels), share=shared, options=stored)
    _note(store, made, "create")
    if pod_id_file:
        from lamina.host.files import replace_file, reported

        with reported(pod_id_file):
            replace_file(os.path.abspath(pod_id_file), [made.id.encode()])
    write(made.id)


def _network_options(publish: tuple[str, ...], network: tuple[str, ...], hostname: str) -> Any:
    """The options of the pod's network; None if none is given."""
    if not (publish or network or hostname):
        return None
    from lamina.cli.containers.run_command import OPTIONS, wanted_by

    many = {one.argument for one in OPTIONS if one.kind == MANY}
    return wanted_by(
        publish=publish,
        network=network if "network" in many else "".join(network[-1:]),
        hostname=hostname,
    )


@pod.command("exists", cls=Command)
@click.argument("name", metavar="POD")
@click.pass_obj
def exists(session: Session, name: str) -> int:
    """Check whether a pod exists: exit code 0 if it does, else 1.

    \b
    Example:
      lamina pod exists site || lamina pod create --name site
    """
    store = session.store_if_any
    try:
        if store is not None:
            Pods(store.paths).get(name)
            return 0
    except NotFound:
        pass
    return 1


@pod.command("rm", cls=Command)
@_names
@_all
@click.option("-f", "--force", is_flag=True, help="Also remove running containers.")
@_ignore
@click.option("-t", "--time", "seconds", type=click.FloatRange(min=-1), default=None, metavar="SECONDS", hidden=True)
@latest_option
@click.pass_obj
def rm(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    latest: bool,
    force: bool,
    ignore: bool,
    seconds: float | None,
) -> None:
    """Remove pods and their containers, with their anonymous volumes. A pod with a running container is only removed
    with --force.

    \b
    Example:
      lamina pod rm site
      lamina pod rm --force --all
    """

    def remove_one(store: Store, one: Pod) -> None:
        _remove(store, one, force=force)
        write(one.id)

    _each(session, names, all_, latest, remove_one, ignore=ignore or force)


def _remove(store: Store, one: Pod, *, force: bool) -> None:
    from lamina.errors import Conflict
    from lamina.run.container.ending import remove
    from lamina.run.container.pods import members

    mine = members(store, one)
    running = [each.name for each in mine if store.containers.is_running(each)]
    if running and not force:
        raise Conflict(
            f"the pod {one.name} has running containers: {', '.join(running)[:200]}",
            hint=f"stop them with `lamina pod stop {one.name}`, or use --force",
        )
    for each in reversed(mine):
        remove(store, each, force=force, volumes=True)  # as podman
    Pods(store.paths).remove(one)
    _note(store, one, "remove")


def _note(store: Store, one: Pod, action: str) -> None:
    from lamina.store.journal import note

    note(store.paths.root, "pod", action, one.id, {"name": one.name, **dict(one.labels)})


def _each(
    session: Session,
    names: Sequence[str],
    all_: bool,
    latest: bool,
    work: Callable[[Store, Pod], object],
    *,
    ignore: bool = False,
) -> None:
    """Call ``work`` with each pod, even if it fails for others; raise the first failure at the end."""
    from lamina.cli import say

    named_once(bool(names), "pods", all=all_, latest=latest)
    store = session.store_if_any
    names = [newest(store)] if latest else names
    pods = Pods(store.paths) if store is not None else None
    failed: list[LaminaError] = []
    for name in [one.name for one in pods or ()] if all_ else names:
        try:
            if pods is None or store is None:
                raise NotFound(f"no pod {name!r:.100}", hint="make it with `lamina pod create`")
            found = pods.get(name)
        except NotFound as error:
            if not ignore:
                failed.append(error)
            continue
        try:
            work(store, found)
        except LaminaError as error:
            failed.append(error)
    for other in failed[1:]:
        say(str(other))
    if failed:
        raise failed[0]


def _on_containers(
    session: Session,
    names: tuple[str, ...],
    all_: bool,
    latest: bool,
    work: Callable[[Container], object],
    *,
    ignore: bool = False,
) -> None:
    """Call ``work`` with each container of each pod, in the order in which they were made; then print the ID of the
    pod, as podman does."""
    from lamina.cli.containers.several import each
    from lamina.run.container.pods import members

    def on_pod(store: Store, one: Pod) -> None:
        each(members(store, one), work)
        write(one.id)

    _each(session, names, all_, latest, on_pod, ignore=ignore)


@pod.command("start", cls=Command)
@_names
@_all
@latest_option
@click.pass_obj
def start(session: Session, names: tuple[str, ...], all_: bool, latest: bool) -> None:
    """Start the containers of pods that do not run.

    \b
    Example:
      lamina pod start site
    """
    from lamina.cli.containers.living import start_behind

    def start_one(one: Container) -> None:
        if not session.store.containers.is_running(one):
            start_behind(session, one)

    _on_containers(session, names, all_, latest, start_one)


@pod.command("stop", cls=Command)
@_names
@_all
@_ignore
@time_option
@latest_option
@click.pass_obj
def stop(
    session: Session, names: tuple[str, ...], all_: bool, latest: bool, ignore: bool, seconds: float | None
) -> None:
    """Stop the containers of pods.

    \b
    Example:
      lamina pod stop --time 2 site
    """

    def stop_all(store: Store, one: Pod) -> None:
        _stop(session, store, one, seconds)
        write(one.id)

    _each(session, names, all_, latest, stop_all, ignore=ignore)


def _stop(session: Session, store: Store, one: Pod, seconds: float | None) -> None:
    """Stop the containers of a pod at the same time: each may need its whole time."""
    from lamina.cli.containers.several import each_at_once
    from lamina.run.container.pods import members

    mine = members(store, one)
    each_at_once(list(reversed(mine)), lambda each_one: end(session, each_one, None, seconds))


@pod.command("kill", cls=Command)
@_names
@_all
@click.option("-s", "--signal", default="KILL", help="Signal to send (default: KILL).")
@latest_option
@click.pass_obj
def kill(session: Session, names: tuple[str, ...], all_: bool, latest: bool, signal: str) -> None:
    """Send a signal to the containers of pods that run.

    \b
    Example:
      lamina pod kill --signal HUP site
    """
    from lamina.run.container.ending import signal_container

    def kill_one(one: Container) -> None:
        if session.store.containers.is_running(one):
            signal_container(session.store, one, signal)

    _on_containers(session, names, all_, latest, kill_one)


@pod.command("restart", cls=Command)
@_names
@_all
@latest_option
@click.pass_obj
def restart(session: Session, names: tuple[str, ...], all_: bool, latest: bool) -> None:
    """Stop the containers of pods, and start them again.

    \b
    Example:
      lamina pod restart site
    """
    from lamina.cli.containers.living import start_behind
    from lamina.run.container.pods import members

    def restart_all(store: Store, one: Pod) -> None:
        _stop(session, store, one, None)
        for now in members(store, one):
            if not store.containers.is_running(now):  # else another one has required it
                start_behind(session, now)
        write(one.id)

    _each(session, names, all_, latest, restart_all)


@pod.command("pause", cls=Command)
@_names
@_all
@latest_option
@click.pass_obj
def pause(session: Session, names: tuple[str, ...], all_: bool, latest: bool) -> None:
    """Freeze all programs of pods.

    \b
    Example:
      lamina pod pause site
    """
    from lamina.run.container.pause import pause as freeze

    _on_containers(session, names, all_, latest, lambda one: _if_state(session, one, RUNNING, freeze))


@pod.command("unpause", cls=Command)
@_names
@_all
@latest_option
@click.pass_obj
def unpause(session: Session, names: tuple[str, ...], all_: bool, latest: bool) -> None:
    """Let the programs of paused pods go on.

    \b
    Example:
      lamina pod unpause site
    """
    from lamina.run.container.pause import unpause as release

    _on_containers(session, names, all_, latest, lambda one: _if_state(session, one, PAUSED, release))


def _if_state(session: Session, one: Container, state: str, work: Callable[[Store, Container], object]) -> None:
    if session.store.containers.state(one) == state:
        work(session.store, one)


@pod.command("prune", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def prune(session: Session, force: bool) -> None:
    """Remove the pods without running containers, with their containers.

    \b
    Example:
      lamina pod prune --force
    """
    from lamina.run.container.pods import members

    store = session.store_if_any
    if store is None:
        return
    if not force:
        ask("Remove all pods without running containers?")
    for one in Pods(store.paths):
        if not any(map(store.containers.is_running, members(store, one))):
            _remove(store, one, force=False)
            write(one.id)


_COLUMNS = [
    ("ID", "POD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("Created", "CREATED"),
    ("InfraID", "INFRA ID"),
    ("NumberOfContainers", "# OF CONTAINERS"),
]
_HEADINGS = {**dict(_COLUMNS), "Labels": "LABELS", "Networks": "NETWORKS", "ContainerIds": "IDS"}
_FILTERS = ("id", "label", "name", "status")


def _ls(
    session: Session,
    filters: tuple[str, ...],
    quiet: bool,
    no_trunc: bool,
    noheading: bool,
    format: str | None,
) -> None:
    """List pods.

    \b
    Example:
      lamina pod ls
      lamina pod ls --filter label=app --format '{{.Name}} {{.Status}}'
    """
    from lamina.run.container.pods import pod_of, status

    store = session.store_if_any
    every = list(Pods(store.paths)) if store is not None else []
    mine: dict[str, list[tuple[Container, str]]] = {one.id: [] for one in every}
    if store is not None and every:
        for container in store.containers.every():
            mine.get(pod_of(container), []).append((container, store.containers.state(container)))
    states = {one.id: status(state for _, state in mine[one.id]) for one in every}
    wanted = [_filter(word) for word in filters]
    every = [one for one in every[::-1] if all(_fits(one, states[one.id], key, value) for key, value in wanted)]
    if quiet and format is None:
        for one in every:
            write(one.id if no_trunc else one.id[:12])
        return
    now = time.time()
    rows = []
    for one in every:
        fields = {
            "ID": one.id if no_trunc else one.id[:12],
            "Name": one.name,
            "Status": states[one.id],
            "Created": ago(now - one.created),
            "InfraID": "",
            "NumberOfContainers": str(len(mine[one.id])),
            "Labels": clean(",".join(f"{name}={value}" for name, value in one.labels)),
            "Networks": "",
            "ContainerIds": ",".join(each.id[:12] for each, _ in mine[one.id]),
        }
        labels = dict(one.labels)
        rows.append(Record(fields, {"Id": one.id}, {"Label": lambda name, labels=labels: labels.get(str(name), "")}))
    json_rows = [_json_row(one, states[one.id], mine[one.id]) for one in every]
    emit(rows, _COLUMNS, format, json_rows=json_rows, header=not noheading, headings=_HEADINGS)


for _name in ("ls", "list", "ps"):
    _made = click.command(_name, cls=Command, hidden=_name == "list")(click.pass_obj(_ls))
    for _option in (
        format_option,
        click.option("--noheading", is_flag=True, help="Leave the headings out."),
        no_trunc_option,
        click.option("-q", "--quiet", is_flag=True, help="Show IDs only."),
        click.option(
            "-f",
            "--filter",
            "filters",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"Show only matching ones: {', '.join(_FILTERS)}.",
        ),
    ):
        _made = _option(_made)
    pod.add_command(_made)


def _filter(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or key not in _FILTERS:
        raise UsageError(f"{word!r:.80} is not a filter", hint=f"write KEY=VALUE, with one of {', '.join(_FILTERS)}")
    return key, value


def _fits(one: Pod, status: str, key: str, value: str) -> bool:
    if key == "label":
        name, equals, text = value.partition("=")
        labels = dict(one.labels)
        return name in labels and (not equals or labels[name] == text)
    return {
        "id": one.id.startswith(value),
        "name": value in one.name,
        "status": status.lower() == value.lower(),
    }[key]


def _json_row(one: Pod, status: str, mine: Sequence[tuple[Container, str]]) -> dict[str, Any]:
    containers = [{"Id": each.id, "Names": each.name, "Status": state} for each, state in mine]
    return {
        "Id": one.id,
        "Name": one.name,
        "Status": status,
        "Created": _moment(one.created),
        "InfraId": "",
        "Labels": dict(one.labels),
        "Networks": [],
        "Containers": containers,
    }


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pod.command("inspect", cls=Command)
@click.argument("names", nargs=-1, metavar="[POD]...")
@latest_option
@click.option("-f", "--format", default=None, metavar="json|TEMPLATE", help="Print a Go template.")
@click.pass_obj
def inspect(session: Session, names: tuple[str, ...], latest: bool, format: str | None) -> None:
    """Show details of pods as JSON.

    \b
    Example:
      lamina pod inspect site
      lamina pod inspect --format '{{.State}}' site
    """
    from lamina.run.container.pods import members, options_of, status

    named_once(bool(names), "pods", latest=latest)
    store = session.store
    found = []
    for name in [newest(store)] if latest else names:
        one = Pods(store.paths).get(name)
        mine = [(each, store.containers.state(each)) for each in members(store, one)]
        options = options_of(one)
        found.append(
            {
                "Id": one.id,
                "Name": one.name,
                "Created": _moment(one.created),
                "ExitPolicy": "continue",
                "State": status(state for _, state in mine),
                "Hostname": options.hostname,
                "Labels": dict(one.labels),
                "CreateInfra": False,
                "SharedNamespaces": list(one.share),
                "NumContainers": len(mine),
                "Containers": [{"Id": each.id, "Name": each.name, "State": state} for each, state in mine],
            }
        )
    if format in (None, "json"):
        emit_json(found)
    else:
        emit_template(found, {}, format or "")


for _verb in (pod_top, pod_stats, pod_logs):
    pod.add_command(_verb)
