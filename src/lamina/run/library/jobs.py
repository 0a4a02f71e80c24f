"""The jobs of a library's process: run a container, list and commit its changes, remove it.

Each function runs in a process of its own (``helper``), which has one thread and, for a plain user, becomes root of a
user namespace. The library's process must do neither.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.errors import Conflict, ContainerFailure, LaminaError, NotFound
from lamina.host import privileges
from lamina.light import Value
from lamina.spec.descriptor import Descriptor
from lamina.spec.platform import Platform

if TYPE_CHECKING:
    from lamina.edit.publish import Revision
    from lamina.run.child import ExitStatus
    from lamina.run.library.message import Caller
    from lamina.run.options import ContainerOptions
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store

CREATED, ENDED = "created", "ended"
_REST = 1.0  # seconds from a program's death until its runtime is killed too


class StoreLocation(Value):
    """How another process opens the store."""

    root: str
    max_layer: int
    keep: str
    view: str

    def open(self) -> Store:
        """Raises as ``Store.open``."""
        from lamina.store.store import Store

        return Store.open(self.root, create=False, max_layer=self.max_layer, keep=self.keep, view=self.view)


class RunRequest(Value):
    """A container to run, of the image with the manifest ``image``; messages call it ``name``. ``kept``: it stays
    in the store when the caller ends."""

    location: StoreLocation
    image: Descriptor
    name: str
    wanted: ContainerOptions
    runtime: str = ""
    upper_dir: str = ""
    kept: bool = False


class ExecRequest(Value):
    """A program to run in the container ``identity``; messages call that ``name``."""

    location: StoreLocation
    identity: str
    name: str
    wanted: ContainerOptions


def run(say: Caller, request: RunRequest) -> None:
    """Run the container to its end. Sends (CREATED, ID), with the file whose lock keeps the container for the
    caller, then (ENDED, its exit code, warnings and changes). A container that is not ``kept`` is removed when no
    process holds that lock any more. Raises ContainerFailure if its program can't be started."""
    from lamina.run.container.life import create
    from lamina.run.container.life import run as run_container
    from lamina.run.container.user_namespace import enter

    store = request.location.open()
    stack = store.stack_at(request.image, Platform.host(), request.name)
    enter()
    warnings: list[str] = []
    made = create(
        store,
        stack,
        request.wanted,
        running=True,
        upper_dir=request.upper_dir,
        on_warning=warnings.append,
    )
    try:
        _announce(say, store, made, kept=request.kept)
        ended = run_container(store, stack, made, runtime=request.runtime, stays=True, on_warning=warnings.append)
        _check_started(request.name, ended)
        known = None
        if made.top and not privileges.is_root():  # it may be in memory, which is lost when this process ends
            known = _changes(store, store.containers.get(made.id), stack)
        # last: if the caller has gone, this fails and the container is removed
        say((ENDED, {"code": ended.code, "warnings": tuple(warnings), "changes": known}))
    except BaseException:
        if not request.kept:
            _remove(store, made)
        raise


def _announce(say: Caller, store: Store, made: Container, *, kept: bool) -> None:
    if kept:
        say((CREATED, made.id))
        return
    with store.containers.owning(made) as owner:
        say((CREATED, made.id), owner)


def execute(say: Caller, request: ExecRequest) -> None:
    """Run a program in the container, to its end. Sends (ENDED, its exit code). It is killed if the caller goes
    before. Raises Conflict (the container does not run), ContainerFailure (the program can't be started)."""
    from lamina.light import signal
    from lamina.run.container.exec import execute as execute_in

    store, one, _ = _entered(request.location, request.identity)
    os.setpgid(0, 0)
    with execute_in(store, one, request.wanted) as program:

        def kill() -> None:
            with suppress(LaminaError):
                program.signal(signal.SIGKILL)
            time.sleep(_REST)
            os.killpg(0, signal.SIGKILL)  # the runtime, which waits as long as anybody has the output open

        say.when_gone(kill)
        ended = program.wait()
    _check_started(request.name, ended)
    say((ENDED, {"code": ended.code, "warnings": (), "changes": None}))


def _check_started(name: str, ended: ExitStatus) -> None:
    """Raises ContainerFailure."""
    reason = ended.reason or ended.message
    if reason:
        failure = ContainerFailure(f"{name}: {reason}", hint="check the command and the options")
        failure.exit_code = ended.code
        raise failure


def stop(say: Caller, location: StoreLocation, identity: str) -> None:
    """Kill the container. It has ended when this returns, unless another process runs it."""
    from lamina.run.container.ending import stop as end

    store = location.open()
    with suppress(NotFound):  # it has been removed
        end(store, store.containers.get(identity), "KILL", seconds=60)


def changes(say: Caller, location: StoreLocation, identity: str) -> list[tuple[str, bytes]]:
    """The container's changes: A, C or D, and the path."""
    return _changes(*_entered(location, identity))


def _changes(store: Store, one: Container, stack: Stack) -> list[tuple[str, bytes]]:
    from lamina.run.container.commit import container_changes

    return [(change.how, change.path) for change in container_changes(store, stack, one)]


def commit(say: Caller, location: StoreLocation, identity: str, name: str, revision: Revision) -> Descriptor:
    """Make a new image from the container's image and its changes."""
    from lamina.run.container.commit import commit as make

    store, one, stack = _entered(location, identity)
    return make(store, stack, one, name, revision)


def remove(say: Caller, location: StoreLocation, identity: str) -> None:
    """Remove the container with its changes, if it still exists."""
    from lamina.run.container.ending import remove as removed
    from lamina.run.container.user_namespace import enter

    store = location.open()
    enter()
    with suppress(NotFound):
        removed(store, store.containers.get(identity, damaged=True))


def _remove(store: Store, one: Container) -> None:
    from lamina.run.container.ending import remove as removed

    with suppress(LaminaError):  # the first error is raised; the next command clears up
        removed(store, one)


def _entered(location: StoreLocation, identity: str) -> tuple[Store, Container, Stack]:
    from lamina.run.container.record import stack_of
    from lamina.run.container.user_namespace import enter

    store = location.open()
    try:
        one = store.containers.get(identity)
    except Conflict:
        raise NotFound(f"the container {identity[:12]} was removed", hint="run it again") from None
    enter(store, one)
    return store, one, stack_of(store, one)
