"""``Container``: a container that lives on by itself, for programs that use lamina as a library.

Every method may be called from any thread, and after a fork. What needs root, or a user namespace, is done by a
helper process (``run.library``); the rest only reads files of the store.
"""

from __future__ import annotations

import time
from subprocess import PIPE
from typing import TYPE_CHECKING

from lamina.errors import NotFound, ProgramFailed, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import EllipsisType
    from typing import Any, Self

    from lamina.edit.changes import Change
    from lamina.run.inspection.usage import Usage
    from lamina.run.library.jobs import StoreLocation
    from lamina.run.library.runs import Input, Output
    from lamina.spec.descriptor import Descriptor
    from lamina.store.containers import Container as Record
    from lamina.store.store import Store

REMOVED = "removed"
"""The status of a container that does not exist any more."""
_NANOSECONDS = 1_000_000_000


class LogLine(bytes):
    """A piece of a log: a line with its end, a part of one, or several. ``stream``: "stdout" or "stderr". ``time``:
    when it was written (seconds since 1970)."""

    stream: str
    time: float

    def __new__(cls, data: bytes, stream: str = "stdout", time: float = 0.0) -> LogLine:
        made = super().__new__(cls, data)
        made.stream, made.time = stream, time
        return made

    @property
    def text(self) -> str:
        """As text, without the end of the line; bytes that are not UTF-8 are replaced."""
        return self.decode("utf-8", "replace").rstrip("\r\n")


class ExecResult:
    """The result of ``Container.exec``. ``stdout``, ``stderr``: the captured bytes."""

    def __init__(self, command: Sequence[str], exit_code: int, stdout: bytes, stderr: bytes) -> None:
        self.command = tuple(command)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def text(self) -> str:
        """The captured standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<lamina.ExecResult {self.exit_code} of {' '.join(self.command)!r:.100}>"


class Container:
    """A container of the store that lives on by itself. ``Image.start`` makes one, ``lamina.containers`` lists them.
    As a context manager it ends the container: it is killed and removed at the end of a ``with`` block."""

    def __init__(
        self,
        location: StoreLocation,
        record: Record,
        as_image: Callable[[str, Descriptor], Any],
        *,
        runtime: str = "",
        warnings: tuple[str, ...] = (),
    ) -> None:
        """``as_image``: makes the ``Image`` of a commit, from its name and manifest."""
        self._location = location
        self._record = record
        self._as_image = as_image
        self._runtime = runtime
        self.warnings = warnings
        """Warnings of lamina about its start, as sentences."""

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def name(self) -> str:
        """The name; see ``reload``."""
        return self._record.name

    @property
    def image(self) -> str:
        """The name of the image that it was made from."""
        return self._record.image

    @property
    def command(self) -> tuple[str, ...]:
        """The words of the command line, with the entrypoint."""
        return self._record.command

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._record.labels)

    @property
    def created(self) -> float:
        """Seconds since 1970."""
        return self._record.created

    @property
    def status(self) -> str:
        """Now: created, running, paused, restarting, exited, damaged or removed."""
        try:
            self.reload()
        except NotFound:
            return REMOVED
        return self._store().containers.state(self._record)

    @property
    def exit_code(self) -> int | None:
        """The exit code of its last run; None while it runs, before its first start, and if nobody knows it. Raises
        NotFound (it was removed)."""
        return self.reload()._record.exit_code if self.status in ("exited", "damaged") else None

    @property
    def health(self) -> str | None:
        """What its health check says now: starting, healthy or unhealthy; None without one. Raises NotFound."""
        from lamina.run.container.health import health_of

        found = health_of(self._store(), self.reload()._record)
        return found.status if found is not None else None

    @property
    def ports(self) -> dict[str, list[tuple[str, int]]]:
        """The published ports now: by port of the container, like "80/tcp", the addresses and ports of this host.
        Raises NotFound."""
        found = self.inspect()["NetworkSettings"]["Ports"]
        return {
            port: [(one["HostIp"], int(one["HostPort"])) for one in places or ()] for port, places in found.items()
        }

    def reload(self) -> Self:
        """Read the record again, which another process may have changed. Raises NotFound (it was removed)."""
        self._record = self._store().containers.get(self.id, damaged=True)
        return self

    def inspect(self) -> dict[str, Any]:
        """The details that `lamina inspect` shows. Raises NotFound."""
        from lamina.run.inspection.document import describe

        return describe(self._store(), self.reload()._record)

    def wait(self, timeout: float | None = None, *, condition: str = "exited") -> int | None:
        """Wait until the container has ended, and return its exit code. ``condition``: a state to wait for instead
        (created, running, paused), or "healthy" or "unhealthy"; then the result is None. ``timeout``: seconds. Raises
        TimedOut (the container still runs), NotFound, Conflict (it has no health check)."""
        from lamina.run.container.conditions import parse_condition, wait_for
        from lamina.run.container.ending import noted_code

        store, until = self._store(), None if timeout is None else time.monotonic() + timeout
        ends = parse_condition(condition) in ("exited", "stopped")

        def check() -> None:
            if until is not None and time.monotonic() > until:
                raise TimedOut(
                    f"the container {self.name} is not {condition} after {timeout:g} seconds",
                    hint="give it a longer timeout",
                )

        record = wait_for(store, self.reload()._record, [condition], on_look=check)
        self._record = record
        return noted_code(store, record) if ends else None

    def logs(
        self,
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Iterator[LogLine]:
        """Yield what the program wrote. ``follow``: wait for more, until the container has ended. ``since``,
        ``until``: seconds since 1970. ``tail``: only so many last lines. Raises NotFound, LaminaError (there is no
        log)."""
        from lamina.run.container.log import read

        names = {1: "stdout", 2: "stderr"}
        wanted = {1: stdout, 2: stderr}
        pieces = read(
            self._store(),
            self.reload()._record,
            follow=follow,
            since=_nanoseconds(since),
            until=_nanoseconds(until),
            tail=tail,
        )
        for piece in pieces:
            if wanted.get(piece.stream, True):
                yield LogLine(piece.data, names.get(piece.stream, "stdout"), piece.time_ns / _NANOSECONDS)

    def exec(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        stdin: Input = None,
        stdout: Output = PIPE,
        stderr: Output = PIPE,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a program in the running container and wait until it ends. The arguments are those of ``Image.run``.
        Raises Conflict (the container does not run), ContainerFailure (the program can't be started), TimedOut (the
        program is killed then), ProgramFailed (``check``), NotFound."""
        from lamina.run.library import runs
        from lamina.run.library.jobs import ExecRequest

        wanted = runs.exec_options(command, env=env, workdir=workdir, user=user, interactive=stdin is not None)
        request = ExecRequest(self._location, self.id, self.name, wanted)
        done = runs.execute(request, stdin=stdin, stdout=stdout, stderr=stderr, timeout=timeout)
        result = ExecResult(wanted.command, done.code, done.stdout, done.stderr)
        if check and result.exit_code != 0:
            words = " ".join(result.command)
            last = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            error = ProgramFailed(
                f"{words!r:.200} in {self.name} ended with exit code {result.exit_code}",
                hint=f"its last output: {last!r:.200}" if last else None,
                code=result.exit_code,
            )
            error.stdout, error.stderr = result.stdout, result.stderr
            raise error
        return result

    def start(self) -> Self:
        """Start it again, after its end. Raises Conflict (it runs), ContainerFailure, NotFound."""
        self.warnings = self._call("living.start_again", self._runtime)
        return self

    def stop(self, timeout: float | None = None, *, signal: str | None = None) -> None:
        """End it: send its stop signal, and kill it if it has not ended in time. ``timeout``: seconds (default: as it
        was made, else 10). Does nothing if it does not run."""
        self._call("living.end", signal, timeout)

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to its first process. Raises Conflict (it does not run), NotFound."""
        self._call("living.send_signal", str(signal))

    def restart(self, timeout: float | None = None) -> Self:
        """``stop``, and start it again."""
        self.stop(timeout)
        return self.start()

    def pause(self) -> None:
        """Freeze its processes. Raises Conflict, Unsupported (it has no cgroup)."""
        self._call("living.pause")

    def unpause(self) -> None:
        """Let its processes go on. Raises Conflict (it is not paused)."""
        self._call("living.unpause")

    def rename(self, name: str) -> Self:
        """Raises Conflict (the name is taken), UsageError."""
        from lamina.run.container.renaming import rename

        self._record = rename(self._store(), self.reload()._record, name)
        return self

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it, with everything that it wrote. ``force``: kill it before. ``volumes``: also its anonymous
        volumes; those of one that is removed at its end always go. No error if it does not exist any more. Raises
        Conflict (it runs)."""
        self._call("living.remove", force, volumes)

    def changes(self) -> tuple[Change, ...]:
        """The changes of its file system up to now, in byte order of the paths; ``how`` is "A" (added), "C" (changed)
        or "D" (deleted)."""
        from lamina.edit.changes import Change

        return tuple(Change(how, path) for how, path in self._call("changes"))

    def commit(
        self,
        name: str = "",
        *,
        comment: str = "",
        epoch: int | None = None,
        author: str | EllipsisType | None = ...,
        architecture: str | EllipsisType = ...,
        variant: str | EllipsisType | None = ...,
        os: str | EllipsisType = ...,
        os_version: str | EllipsisType | None = ...,
        user: str | EllipsisType | None = ...,
        exposed_ports: Iterable[str] | EllipsisType | None = ...,
        env: Iterable[str] | EllipsisType | None = ...,
        entrypoint: Iterable[str] | EllipsisType | None = ...,
        cmd: Iterable[str] | EllipsisType | None = ...,
        volumes: Iterable[str] | EllipsisType | None = ...,
        working_dir: str | EllipsisType | None = ...,
        labels: Mapping[str, str] | EllipsisType | None = ...,
        stop_signal: str | EllipsisType | None = ...,
        healthcheck: Mapping[str, Any] | EllipsisType | None = ...,
        on_build: Iterable[str] | EllipsisType | None = ...,
    ) -> Any:
        """Make a new image in the store: its image plus one layer with its changes up to now. The arguments are those
        of ``RunResult.commit``. Returns the ``Image``."""
        from lamina.edit.publish import Packing, Revision
        from lamina.spec.image_config import changes_of

        revision = Revision(comment=comment, changes=changes_of(locals()), packing=Packing(epoch=epoch))
        return self._as_image(name, self._call("commit", name, revision))

    def stats(self) -> Usage:
        """What it uses now: ``cpu`` (nanoseconds), ``memory``, ``limit``, ``received``, ``sent``, ``read``,
        ``written`` (bytes), ``pids``. ``after.cpu_percent(before)`` compares two. Raises Conflict (it does not
        run), NotFound."""
        from lamina.run.inspection.usage import measure

        return measure(self._store(), self.reload()._record)

    def _store(self) -> Store:
        return self._location.open()

    def _call(self, job: str, *arguments: object) -> Any:
        from lamina.run.library import runs

        return runs.call(self._location, job, self.id, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove(force=True, volumes=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Container):
            return NotImplemented
        return (self.id, self._location.root) == (other.id, other._location.root)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<lamina.Container {self.name} of {self.image}>"


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * _NANOSECONDS)
