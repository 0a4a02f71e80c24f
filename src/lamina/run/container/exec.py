"""`exec`: a further program in a running container."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, SystemFailure, Unsupported
from lamina.host import privileges
from lamina.host.files import read_regular, reported
from lamina.light import TYPE_CHECKING
from lamina.run.capability import EVERY, capabilities
from lamina.run.child import CANNOT_RUN, ExitStatus, Program, Streams, in_memory
from lamina.run.container.events import note_event
from lamina.run.container.record import owners_of, sandbox_of
from lamina.run.container.running import check_inside, check_running, not_running
from lamina.run.granted_user import granted_user
from lamina.run.rootfs import Inside
from lamina.run.spec import environment, user_json
from lamina.run.user import resolve_user
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from lamina.run.options import ContainerOptions
    from lamina.run.sandbox import Sandbox
    from lamina.store.containers import Container
    from lamina.store.store import Store

_MOST = 64 << 20  # bytes of a runtime spec


_SOON = 0.3
"""Seconds, in which bubblewrap tells that a program can't be started."""


@contextmanager
def execute(
    store: Store, container: Container, wanted: ContainerOptions, streams: Streams | None = None
) -> Iterator[Program]:
    """Start ``wanted.command`` in the running container; it is killed if the block ends without a wait. It gets the
    container's user, environment and working directory, unless ``wanted`` has others. ``streams``: by default those
    of this process. Raises Conflict (the container does not run), NotFound (no such user)."""
    sandbox, process = _process(store, container, wanted)
    streams = streams or Streams(interactive=wanted.interactive, terminal=wanted.tty)
    identity = _note_begin(store, container, wanted)
    with sandbox.execute(process, streams, identity) as program:

        def wait() -> ExitStatus:
            ended = program.wait()
            code = str(ended.code)
            note_event(store.paths.root, container, "exec_die", execID=identity, exitCode=code)
            return ended

        yield Program(wait, program.signal)


def execute_behind(store: Store, container: Container, wanted: ContainerOptions) -> ExitStatus:
    """As ``execute``, but without streams, and the program is left running, with a process that waits for it: a child
    of the monitor, if there is one. The exit status is not 0 if it can't start."""
    from lamina.run import further
    from lamina.run.monitor import client

    sandbox, process = _process(store, container, wanted)
    identity = _note_begin(store, container, wanted)
    directory = os.path.abspath(store.containers.path(container.id))
    seconds = _SOON if sandbox.is_bubblewrap else None
    described = in_memory(write_own(process).encode())
    try:
        with suppress(Conflict, OSError):
            found = _answer(client.run_further(directory, identity, described), seconds)
            if found is not None:
                return found
        os.lseek(described, 0, os.SEEK_SET)
        place = further.Place(directory, sandbox.directories.states, container.id, sandbox.runtime)

        def note_end(code: int) -> None:
            note_event(store.paths.root, container, "exec_die", execID=identity, exitCode=str(code))

        ours, theirs = client.pair()
        if os.fork() == 0:
            os.setsid()
            further.wait_behind(place, described, identity, theirs, note_end)
        os.close(theirs)
        return _answer(ours, seconds) or ExitStatus(CANNOT_RUN, reason="the program could not be started")
    finally:
        os.close(described)


def _answer(connection: int, seconds: float | None) -> ExitStatus | None:
    from lamina.run.further import answer_of

    try:
        return answer_of(connection, seconds)
    finally:
        os.close(connection)


def _note_begin(store: Store, container: Container, wanted: ContainerOptions) -> str:
    """Returns the ID of this exec in the journal."""
    identity, words = os.urandom(32).hex(), " ".join(wanted.command)
    for action in ("exec_create", "exec_start"):
        note_event(store.paths.root, container, f"{action}: {words}", execID=identity)
    return identity


def _process(store: Store, container: Container, wanted: ContainerOptions) -> tuple[Sandbox, dict[str, Any]]:
    check_running(store, container)
    check_inside(container, "exec")
    if container.paused:
        raise Conflict(
            f"the container {container.name} is paused", hint=f"run `lamina unpause {container.name}` first"
        )
    sandbox = sandbox_of(store, container)
    path = store.containers.path(container.id, "bundle", "config.json")
    with reported(path):
        try:
            spec = read_own(read_regular(path, _MOST).decode())
            process: dict[str, Any] = spec["process"]
            namespaces = spec["linux"]["namespaces"]
        except FileNotFoundError:
            raise not_running(container) from None  # it is about to start
        except (ValueError, KeyError, TypeError):
            raise SystemFailure(
                f"{path}: it is damaged", hint=f"restart the container: lamina restart {container.name}"
            ) from None
    _check_entrance(sandbox, container, namespaces)
    process |= {"args": list(wanted.command), "terminal": wanted.tty}
    if wanted.user:
        with Inside(sandbox.directories.rootfs) as inside:
            user = resolve_user(wanted.user, inside.read("/etc/passwd"), inside.read("/etc/group"))
            user = granted_user(user, inside, owners_of(container), sandbox.runtime)
        process["user"] = user_json(user)
        mine = process["capabilities"]["bounding"] if user.uid == 0 else []
        process["capabilities"] |= {"effective": mine, "permitted": mine}
    if wanted.privileged:
        here = EVERY if sandbox.is_bubblewrap or container.users else privileges.capabilities("CapBnd")
        every = list(capabilities(("ALL",), (), here))
        mine = every if process["user"]["uid"] == 0 else []
        process["capabilities"] |= {"bounding": every, "effective": mine, "permitted": mine}
    if wanted.workdir:
        process["cwd"] = wanted.workdir
    process["env"] = environment(wanted, process["env"], "/", container.id[:12])
    return sandbox, process


def _check_entrance(sandbox: Sandbox, container: Container, namespaces: Sequence[Mapping[str, str]]) -> None:
    """Refuse what `runc exec` can't do: it enters the user namespace first, which has no rights in the network of
    another container that does not belong to it. Raises Unsupported."""
    paths = {one["type"]: one.get("path", "") for one in namespaces}
    is_foreign = paths.get("user") == "" and paths.get("network", "") != ""
    if is_foreign and not sandbox.is_bubblewrap and os.path.basename(sandbox.runtime.program) == "runc":
        raise Unsupported(
            f"runc can't enter the container {container.name}: its network does not belong to its user namespace",
            hint="run it with --runtime crun or bwrap, or without --userns",
        )
