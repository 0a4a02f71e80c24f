"""The verb `ps`: the containers of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.format.output import emit, write
from lamina.cli.format.rows import CONTAINER_HEADINGS
from lamina.cli.options import format_option, no_trunc_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.cli.containers.rows import Row
    from lamina.run.inspection.listing import Listed
    from lamina.store.containers import Container
    from lamina.store.store import Store

_COLUMNS = [
    *(("ID", "CONTAINER ID"), ("Image", "IMAGE"), ("Command", "COMMAND"), ("RunningFor", "CREATED")),
    *(("Status", "STATUS"), ("Ports", "PORTS"), ("Names", "NAMES")),
]
_NAMESPACE_COLUMNS = [
    *(("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Pid", "PID"), ("CGROUPNS", "CGROUPNS"), ("IPC", "IPC")),
    *(("MNT", "MNT"), ("NET", "NET"), ("PIDNS", "PIDNS"), ("USERNS", "USERNS"), ("UTS", "UTS")),
]
_POD_COLUMNS = [("Pod", "POD ID"), ("PodName", "PODNAME")]
_ORDERS = ("command", "created", "id", "image", "names", "runningfor", "size", "status")
_FILTERS = (
    "Show only matching ones: ancestor, before, since, until, exited, status, id, name, label, label!, network, "
    "volume, publish, expose, health, pod, restart-policy, should-start-on-boot."
)


@command(
    "ps",
    "lamina ps\nlamina ps -a --format json\nlamina ps -a --filter status=exited --filter label=job\n"
    "lamina ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'\nlamina rm $(lamina ps -aq)",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Also show containers that have ended.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help=_FILTERS)
@click.option("-n", "--last", type=int, default=-1, metavar="N", help="Show the N newest, in any state; 0: all.")
@click.option("-l", "--latest", is_flag=True, help="Show the newest, in any state.")
@click.option("-s", "--size", is_flag=True, help="Show how much each container has written.")
@click.option("-q", "--quiet", is_flag=True, help="Show IDs only.")
@click.option("-p", "--pod", "pods", is_flag=True, help="Show the pod of each container.")
@click.option("--ns", "namespaces", is_flag=True, help="Show the namespaces of each container.")
@click.option(
    "--sort",
    type=click.Choice(_ORDERS),
    default="created",
    help="Order: by created (newest first; the default), or by another column.",
)
@click.option("--noheading", is_flag=True, help="Leave the headings out.")
@click.option("-w", "--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Show it again and again.")
@click.option("--external", is_flag=True, hidden=True, expose_value=False)
@click.option("--sync", is_flag=True, hidden=True, expose_value=False)
@no_trunc_option
@format_option
@click.pass_obj
def ps(session: Session, /, watch: float | None, **given: object) -> None:
    """List running containers, or all. Containers with a damaged record are always listed; `lamina rm ID` removes
    them. With --format json the fields are podman's, with '{{json .}}' docker's."""
    show = _List(session, **given)  # type: ignore[arg-type]
    show()
    while watch:
        time.sleep(watch)
        if show.format is None:
            click.clear()
        show()


class _List:
    """What is to be listed. Calling it prints the list as it is now."""

    def __init__(
        self,
        session: Session,
        *,
        all_: bool,
        filters: tuple[str, ...],
        last: int,
        latest: bool,
        size: bool,
        quiet: bool,
        pods: bool,
        namespaces: bool,
        sort: str,
        noheading: bool,
        no_trunc: bool,
        format: str | None,
    ) -> None:
        from lamina.run.inspection.listing import Filters

        self.format = format
        self._session, self._chosen = session, Filters.parse(filters)
        self._all, self._last = all_ or last == 0, 1 if latest else last or -1  # docker: 0 is no limit
        self._measures = size or sort == "size" or _names_size(format or "")
        self._size, self._quiet, self._whole, self._sort = size, quiet, no_trunc, sort
        self._header = not noheading
        self._columns = list(_NAMESPACE_COLUMNS if namespaces else _COLUMNS)
        self._columns += [("Size", "SIZE")] if size else []
        self._columns += _POD_COLUMNS if pods else []

    def __call__(self) -> None:
        found = self._found()
        if self._quiet and self.format is None:
            for one, _ in found:
                write(one.id if self._whole else one.id[:12])
            return
        store = self._session.store_if_any
        rows = self._rows(store, found) if store else []
        shown: Iterable[Mapping[str, Any]]
        if self.format in (None, "table"):
            fields = [field for field, _ in self._columns]
            shown = [row.cells(fields) for row in rows]
        else:
            shown = (row.docker() for row in rows)
        emit(
            shown,
            self._columns,
            self.format,
            json_rows=[row.podman() for row in rows] if self.format == "json" else (),
            header=self._header,
            headings={**CONTAINER_HEADINGS, **dict(_POD_COLUMNS)},
        )

    def _found(self) -> list[Listed]:
        from lamina.run.inspection.listing import listed

        store = self._session.store_if_any
        if store is None:
            return []
        return listed(store, self._chosen, all_=self._all, last=self._last, digest_of=_digest_of(self._session))

    def _rows(self, store: Store, found: Sequence[Listed]) -> list[Row]:
        from lamina.cli.containers.rows import Row, ordered
        from lamina.run.inspection.listing import Facts, sizes

        if self._measures:
            from lamina.run.container.user_namespace import enter

            enter()  # files in a container may belong to other IDs of this user
        now, pods = time.time(), _names_of_pods(store, [one for one, _ in found])
        rows = [
            Row(
                one,
                state,
                Facts(store, one, state),
                now=now,
                pods=pods,
                size=sizes(store, one) if self._measures else None,
                whole=self._whole,
            )
            for one, state in found
        ]
        return ordered(rows, self._sort)


def _names_size(template: str) -> bool:
    """Whether a template shows the sizes, alone or among all fields."""
    import re

    return "{{" in template and re.search(r"\.Size\b|\.\s*[)}]", template) is not None


def _names_of_pods(store: Store, found: Sequence[Container]) -> dict[str, str]:
    """The name of each pod that the containers are in, by its ID."""
    from lamina.run.container.pods import pod_of

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
