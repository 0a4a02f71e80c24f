"""The verb `top`: the processes of a container, in docker's or podman's columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from lamina.cli.containers.several import latest_option, one_name
from lamina.cli.format.output import emit_json, write
from lamina.cli.format.text import clean
from lamina.cli.options import format_option
from lamina.cli.session import Session
from lamina.cli.verbs import command
from lamina.errors import NotFound, SystemFailure, UsageError

if TYPE_CHECKING:
    from lamina.run.inspection.processes import Process
    from lamina.store.containers import Container

_WIDTH, _GAP = 20, 3  # characters of a column at least, and between columns, as docker
_DAY = 86400
_Cell = Callable[["Process"], str]


@command(
    "top",
    "lamina top web\nlamina top web -o pid,rss,args\nlamina top web hpid pid user pcpu args",
)
@format_option
@latest_option
@click.argument("words", nargs=-1, metavar="CONTAINER [OPTION OF PS]... | [COLUMN]...", type=click.UNPROCESSED)
@click.pass_obj
def top(session: Session, latest: bool, words: tuple[str, ...], format: str | None) -> None:
    """Show the processes of a running container. By default the columns are those of `ps -ef`, with the process IDs
    of this host. Options for ps(1) of this host choose others; it needs to be installed then, and --format comes
    before CONTAINER. Names of columns are those of podman: args, capeff, comm, etime, group, hpid, huser, nice, pcpu,
    pgid, pid, ppid, rss, seccomp, state, stime, time, tty, user, vsz and more."""
    name = one_name(session, None if latest else "".join(words[:1]), latest)
    words = words if latest else words[1:]
    container = session.store.containers.get(name)
    show(rows_of(session, [container], words), format)


top.allow_interspersed_args = False


def rows_of(session: Session, found: Sequence[Container], words: Sequence[str]) -> list[list[str]]:
    """The headings, and the rows of the processes of all these containers. ``words``: as those of the verb. Raises
    NotFound, Conflict (one does not run), UsageError, SystemFailure."""
    from lamina.run.inspection.processes import processes_of

    columns = [column for word in words for column in word.split(",")]
    named = all(column in _known() for column in columns)
    if words and not named:
        return _by_ps(words, {one.pid for container in found for one in processes_of(session.store, container)})
    rows: list[list[str]] = []
    for container in found:
        cells = [_columns(session, container)[column] for column in columns] if words else _DEFAULT
        rows = rows or [[heading for heading, _ in cells]]
        rows += [[cell(one) for _, cell in cells] for one in processes_of(session.store, container)]
    return rows


def show(rows: Sequence[Sequence[str]], format: str | None) -> None:
    if format == "json":
        emit_json({"Titles": list(rows[0]), "Processes": [list(row) for row in rows[1:]]})
        return
    if format not in (None, "table"):
        raise UsageError("top has no templates", hint="use --format json, or give names of columns")
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(_WIDTH, *(len(row[number]) + _GAP for row in cleaned)) for number in range(len(cleaned[0]))]
    for row in cleaned:
        write("".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _by_ps(words: Sequence[str], pids: set[int]) -> list[list[str]]:
    """The rows of ps(1) with these options, of these processes. Raises NotFound, UsageError, SystemFailure."""
    from lamina.run.child import output_of
    from lamina.run.runtime import find_program

    program = find_program("ps")
    if not program:
        raise NotFound("ps is not installed on this host", hint="leave the options out, or give names of columns")
    # the processes are named first: without -e, ps shows only those of this terminal. Some options refuse to be
    # combined with -q; then all are asked for
    code, said = output_of([program, "-q", ",".join(map(str, sorted(pids))), *words])
    if code:
        code, said = output_of([program, *words])
    lines = [line for line in said.splitlines() if line.strip()]
    if code or not lines:
        raise SystemFailure(
            f"ps {' '.join(words):.100}: {clean((said.splitlines() or ['no output'])[0])[:200]}", hint="see ps(1)"
        )
    titles = lines[0].split()
    if "PID" not in titles:
        raise UsageError("ps shows no PID with these options", hint="add -o pid, like -o pid,args")
    place = titles.index("PID")
    found = [titles]
    for line in lines[1:]:
        cells = line.split(maxsplit=len(titles) - 1)
        if len(cells) > place and cells[place].isdigit() and int(cells[place]) in pids:
            found.append([*cells, *[""] * (len(titles) - len(cells))])
    return found


def _user(number: int) -> str:
    """The name of a user of this host, or the number."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _age(one: Process) -> float:
    return max(0.0, time.time() - one.started)


def _percent(one: Process) -> float:
    return 100 * one.seconds / _age(one) if _age(one) else 0.0


def _started(one: Process) -> str:
    """As ps -f prints it: the time today, else the day, else the year."""
    then, now = time.localtime(one.started), time.localtime()
    if then[:3] == now[:3] or _age(one) < _DAY / 2:
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then.tm_year == now.tm_year else "%Y", then)


def _clock(seconds: float) -> str:
    """``[DAYS-]HH:MM:SS``."""
    days, rest = divmod(int(seconds), _DAY)
    return f"{f'{days}-' if days else ''}{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"


_DEFAULT: tuple[tuple[str, _Cell], ...] = (
    ("UID", lambda one: _user(one.ids("Uid")[1])),
    ("PID", lambda one: str(one.pid)),
    ("PPID", lambda one: str(one.parent)),
    ("C", lambda one: str(int(_percent(one)))),
    ("STIME", _started),
    ("TTY", lambda one: one.terminal_name),
    ("TIME", lambda one: _clock(one.seconds)),
    ("CMD", lambda one: one.command),
)
_INNER = ("group", "rgroup", "ruser", "user", "groups", "ppid")
_COLUMNS: dict[str, tuple[str, _Cell]] = {
    "args": ("COMMAND", lambda one: one.command),
    "capamb": ("AMBIENT CAPS", lambda one: _capabilities(one, "CapAmb")),
    "capbnd": ("BOUNDING CAPS", lambda one: _capabilities(one, "CapBnd")),
    "capeff": ("EFFECTIVE CAPS", lambda one: _capabilities(one, "CapEff")),
    "capinh": ("INHERITED CAPS", lambda one: _capabilities(one, "CapInh")),
    "capprm": ("PERMITTED CAPS", lambda one: _capabilities(one, "CapPrm")),
    "comm": ("COMMAND", lambda one: one.name),
    "etime": ("ELAPSED", lambda one: _clock(_age(one))),
    "hgroup": ("HGROUP", lambda one: _group(one.ids("Gid")[1])),
    "hpid": ("HPID", lambda one: str(one.pid)),
    "huser": ("HUSER", lambda one: _user(one.ids("Uid")[1])),
    "nice": ("NI", lambda one: str(one.nice)),
    "pcpu": ("%CPU", lambda one: f"{_percent(one):.3f}"),
    "pgid": ("PGID", lambda one: str(one.group)),
    "pid": ("PID", lambda one: str(one.inner_pid)),
    "rss": ("RSS", lambda one: str(one.resident // 1024)),
    "seccomp": ("SECCOMP", lambda one: {"0": "disabled", "1": "strict", "2": "filter"}.get(_seccomp(one), "?")),
    "state": ("STATE", lambda one: one.state),
    "stime": ("STIME", _started),
    "time": ("TIME", lambda one: _clock(one.seconds)),
    "tty": ("TTY", lambda one: one.terminal_name),
    "vsz": ("VSZ", lambda one: str(one.size // 1024)),
}


def _known() -> set[str]:
    return {*_COLUMNS, *_INNER}


def _seccomp(one: Process) -> str:
    return one.status.get("Seccomp", "")


def _capabilities(one: Process, key: str) -> str:
    from lamina.run.capability import ALL

    bits = int(one.status.get(key, "0") or "0", 16)
    names = [name.removeprefix("CAP_") for number, name in enumerate(ALL) if bits >> number & 1]
    return "full" if len(names) == len(ALL) else ",".join(sorted(names)) or "none"


def _columns(session: Session, container: Container) -> dict[str, tuple[str, _Cell]]:
    """All columns, with the names that users and groups have in the container."""
    inside = _Names(session, container)
    return {
        **_COLUMNS,
        "group": ("GROUP", lambda one: inside.group(one.ids("Gid")[1])),
        "groups": ("GROUPS", lambda one: ",".join(map(inside.group, map(int, one.status.get("Groups", "").split())))),
        "ppid": ("PPID", lambda one: str(inside.parent(one))),
        "rgroup": ("RGROUP", lambda one: inside.group(one.ids("Gid")[0])),
        "ruser": ("RUSER", lambda one: inside.user(one.ids("Uid")[0])),
        "user": ("USER", lambda one: inside.user(one.ids("Uid")[1])),
    }


class _Names:
    """The users and groups of a container, by ids of this host."""

    def __init__(self, session: Session, container: Container) -> None:
        from lamina.run.cgroups import read
        from lamina.run.container.running import first_process

        pid = first_process(session.store, container)
        self._maps = {kind: _ranges(read(f"/proc/{pid}/{kind}_map")) for kind in ("uid", "gid")}
        self._tables = _tables(session.store.containers.path(container.id, "rootfs"))

    def user(self, number: int) -> str:
        return self._name("uid", number)

    def group(self, number: int) -> str:
        return self._name("gid", number)

    def parent(self, one: Process) -> int:
        from lamina.run.inspection.processes import process

        if one.inner_pid == 1:
            return 0
        parent = process(one.parent)
        return parent.inner_pid if parent else 0

    def _name(self, kind: str, number: int) -> str:
        for inside, outside, count in self._maps[kind]:
            if outside <= number < outside + count:
                number = number - outside + inside
                break
        return self._tables[kind].get(number, "root" if number == 0 else str(number))


def _ranges(text: str) -> list[tuple[int, int, int]]:
    lines = (line.split() for line in text.splitlines())
    return [(int(words[0]), int(words[1]), int(words[2])) for words in lines if len(words) == 3]


def _tables(rootfs: str) -> dict[str, dict[int, str]]:
    """The names in the container's /etc/passwd and /etc/group; none where its files can't be reached."""
    from lamina.errors import LaminaError
    from lamina.run.rootfs import Inside

    found: dict[str, dict[int, str]] = {"uid": {}, "gid": {}}
    try:
        with Inside(rootfs) as inside:
            for kind, path in (("uid", "/etc/passwd"), ("gid", "/etc/group")):
                for line in inside.read(path).decode("utf-8", "replace").splitlines():
                    words = line.split(":")
                    if len(words) > 2 and words[2].isdigit():
                        found[kind].setdefault(int(words[2]), words[0])
    except LaminaError:
        pass
    return found
