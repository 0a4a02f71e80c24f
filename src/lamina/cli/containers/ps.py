"""The verb `ps`: the containers of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.format.output import emit, write
from lamina.cli.format.rows import CONTAINER_HEADINGS, moment_text
from lamina.cli.format.template_record import Record
from lamina.cli.format.text import ago, clean, human_size
from lamina.cli.options import format_option, no_trunc_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError
from lamina.run.container.pods import pod_of
from lamina.store.containers import EXITED, PAUSED, RESTARTING, RUNNING

if TYPE_CHECKING:
    from lamina.store.containers import Container
    from lamina.store.store import Store

_POD_COLUMNS = [("Pod", "POD ID"), ("PodName", "PODNAME")]
_COMMAND = 20  # characters of a command that the table shows
_FILTERS = "Show only matching ones: ancestor, before, since, exited, id, label, name, pod, status, volume."


@command(
    "ps",
    "lamina ps\nlamina ps -a --format json\nlamina ps -a --filter status=exited --filter label=job\n"
    "lamina rm $(lamina ps -aq)",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Also show containers that have ended.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help=_FILTERS)
@click.option("-n", "--last", type=int, default=-1, metavar="N", help="Show the N newest, in any state.")
@click.option("-l", "--latest", is_flag=True, help="Show the newest, in any state.")
@click.option("-s", "--size", is_flag=True, help="Show how much each container has written.")
@click.option("-q", "--quiet", is_flag=True, help="Show IDs only.")
@click.option("-p", "--pod", "pods", is_flag=True, help="Show the pod of each container.")
@click.option("--noheading", is_flag=True, help="Leave the headings out.")
@no_trunc_option
@format_option
@click.pass_obj
def ps(
    session: Session,
    all_: bool,
    filters: tuple[str, ...],
    last: int,
    latest: bool,
    size: bool,
    quiet: bool,
    pods: bool,
    noheading: bool,
    no_trunc: bool,
    format: str | None,
) -> None:
    """List running containers, or all. Containers with a damaged record are always listed; `lamina rm ID` removes
    them."""
    from lamina.run.container.listing import Filters, listed, sizes

    chosen = Filters.parse(filters)
    store = session.store_if_any
    if size:
        from lamina.run.container.user_namespace import enter

        enter()  # files in a container may belong to other IDs of this user
    last = 1 if latest else last
    found = listed(store, chosen, all_=all_, last=last, digest_of=_digest_of(session)) if store else []
    if quiet and format is None:
        for one, _ in found:
            write(one.id if no_trunc else one.id[:12])
        return
    measured = {one.id: sizes(store, one) for one, _ in found} if store and size else {}
    now = time.time()
    names = _names_of_pods(store, [one for one, _ in found]) if store else {}
    rows = [_row(one, state, now, no_trunc, measured.get(one.id), names) for one, state in found]
    json_rows = [
        {**_json_row(one, state, measured.get(one.id)), **_podman_row(one, state, now, names)} for one, state in found
    ]
    columns = [("ID", "CONTAINER ID"), ("Image", "IMAGE"), ("Command", "COMMAND"), ("RunningFor", "CREATED")]
    columns += [("Status", "STATUS"), ("Ports", "PORTS"), ("Names", "NAMES")]
    if size:
        columns.append(("Size", "SIZE"))
    if pods:
        columns += _POD_COLUMNS
        rows = [Record({**row, **row.absent}, row.absent, row.methods) for row in rows]
    emit(
        rows,
        columns,
        format,
        json_rows=json_rows,
        header=not noheading,
        headings={**CONTAINER_HEADINGS, **dict(_POD_COLUMNS)},
    )


def _names_of_pods(store: Store, found: Sequence[Container]) -> dict[str, str]:
    """The name of each pod that the containers are in, by its ID."""
    if not any(map(pod_of, found)):
        return {}
    from lamina.store.pods import Pods

    return {pod.id: pod.name for pod in Pods(store.paths)}


def _digest_of(session: Session) -> Callable[[str], str]:
    def digest_of(word: str) -> str:
        try:
            return str(session.image(word).stack.manifest.descriptor.digest)
        except LaminaError:
            return ""  # containers of a removed image are found by its name

    return digest_of


def _row(
    one: Container,
    state: str,
    now: float,
    no_trunc: bool,
    measured: tuple[int, int] | None,
    pods: dict[str, str],
) -> Record:
    """The row of a container: docker's fields, and lamina's own."""
    words = clean(" ".join(one.command))
    written, image = measured or (0, 0)
    labels = dict(one.labels)
    fields = {
        "Command": f'"{words if no_trunc or len(words) <= _COMMAND else words[: _COMMAND - 1] + "…"}"',
        "CreatedAt": moment_text(one.created),
        "ID": one.id if no_trunc else one.id[:12],
        "Image": clean(one.image),
        "Labels": clean(",".join(f"{name}={value}" for name, value in one.labels)),
        "LocalVolumes": str(len(one.volumes)),
        "Mounts": clean(",".join(one.volumes)),
        "Names": one.name,
        "Networks": "",
        "Ports": "",
        "RunningFor": ago(now - one.created),
        "Size": f"{human_size(written)} (virtual {human_size(written + image)})" if measured else "0B",
        "State": state,
        "Status": _status(one, state, now),
    }
    pod = pod_of(one)
    own = {"Name": one.name, "ExitCode": one.exit_code, "View": one.view}
    own |= {"Pod": pod if no_trunc else pod[:12], "PodName": pods.get(pod, "")}
    return Record(fields, own, {"Label": lambda name: labels.get(str(name), "")})


def _json_row(one: Container, state: str, measured: tuple[int, int] | None) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "image": one.image,
        "manifest": one.manifest,
        "command": list(one.command),
        "state": state,
        "exit_code": one.exit_code,
        "created": one.created,
        "finished": one.finished,
        "view": one.view,
        "labels": dict(one.labels),
        **({"size_rw": measured[0], "size_image": measured[1]} if measured else {}),
    }


def _podman_row(one: Container, state: str, now: float, pods: dict[str, str]) -> dict[str, Any]:
    """Fields of podman's JSON, which its clients read."""
    return {
        "Id": one.id,
        "Names": [one.name],
        "Labels": dict(one.labels),
        "Exited": state == EXITED,
        "State": state,
        "Status": _status(one, state, now),
        "Pod": pod_of(one),
        "PodName": pods.get(pod_of(one), ""),
    }


def _status(one: Container, state: str, now: float) -> str:
    """The state as docker prints it."""
    if state in (RUNNING, PAUSED):
        up = f"Up {ago(now - (one.since or one.created)).removesuffix(' ago')}"
        return f"{up} (Paused)" if state == PAUSED else up
    if state in (EXITED, RESTARTING):
        word = "Exited" if state == EXITED else "Restarting"
        code = "?" if one.exit_code is None else one.exit_code
        return f"{word} ({code})" + ("" if one.finished is None else f" {ago(now - one.finished)}")
    return state.capitalize()
