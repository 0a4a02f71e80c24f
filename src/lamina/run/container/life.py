"""A container's life: made from an image of the store, then run.

Its directory in the store holds the record, ``upper`` (all that it changed), ``work`` (the kernel's), ``rootfs``
(the mount point of the union), ``bundle`` (for the runtime) and ``mounts`` (what else is mounted for it).
"""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import Conflict, NotFound, Unsupported
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run import writable
from lamina.run.child import CANNOT_RUN, ExitStatus, Streams
from lamina.run.container.ending import clear, remove, settle
from lamina.run.container.events import note_event
from lamina.run.container.mount import mounted
from lamina.run.container.preparing import Preparation
from lamina.run.container.record import new_record
from lamina.run.options import SHARED_KINDS, other_container
from lamina.run.runtime import MACHINE, find_runtime
from lamina.run.supported import check_supported, limits_as_flags
from lamina.store.containers import Container, Use
from lamina.store.fault import point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.run.child import Program
    from lamina.run.options import ContainerOptions, Mount
    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.store import Store


def create(
    store: Store,
    stack: Stack,
    wanted: ContainerOptions,
    *,
    running: bool = False,
    runtime: str = "",
    upper_dir: str = "",
    on_warning: OnWarning = lambda text: None,
) -> Container:
    """Make a container of the whole image, which the record calls ``stack.name``. ``running``: this process is about
    to run it. ``runtime``: what is to run it, "" for the default. ``upper_dir``: where its writable layer is kept, by
    default in the store. ``wanted``: ``resolved``. Raises Conflict (the name is taken), UsageError, NotFound,
    Unsupported, SystemFailure."""
    identity = os.urandom(32).hex()
    mounts = _points(store, wanted, stack.config.volumes)
    top = ""
    if runtime != MACHINE:  # which has a disk of its own, on any file system
        top = writable.choose(store, identity, upper_dir, remove=wanted.remove, warn=on_warning)
    container = replace(new_record(stack, wanted, identity=identity, top=top), runtime=runtime)
    container = _with_mounts(store, container, mounts)
    if running:
        container = container.supervised_here()
    found = store.containers.scan()
    clear(store, found)  # `prune` reports what can't be cleared

    def undo(directory: str) -> None:
        writable.remove(store, container, directory)

    creating = store.containers.creating(container, lasting=not wanted.remove, undo=undo)
    with creating as directory, reported(directory):
        for name in ("rootfs", "bundle"):
            os.mkdir(os.path.join(directory, name), 0o700)
        writable.make(store, container, directory)
        point("container.top-made")
    if mounts and not running:  # else they are made and filled in one step, when it starts
        _make_volumes(store, container, mounts)
    note_event(store.paths.root, container, "create")
    return container


def _points(store: Store, wanted: ContainerOptions, declared: Sequence[str]) -> list[Mount]:
    if not (wanted.mounts or wanted.volumes_from or declared):
        return []
    from lamina.run.volumes.points import points_for

    return points_for(store, wanted, declared)


def _with_mounts(store: Store, container: Container, mounts: Sequence[Mount]) -> Container:
    if not mounts:
        return replace(container, mounts=())
    from lamina.run.volumes.points import images_of, names_of, to_json

    return replace(container, mounts=to_json(mounts), volumes=names_of(mounts), images=images_of(store, mounts))


def _make_volumes(store: Store, container: Container, mounts: Sequence[Mount]) -> None:
    from lamina.run.volumes.attach import make_volumes

    try:
        make_volumes(store, container, mounts)
    except BaseException:
        remove(store, container, volumes=True)
        raise


def resolved(store: Store, wanted: ContainerOptions) -> ContainerOptions:
    """The options of a new container with IDs in the place of names of other containers and pods. ``--pod new:NAME``
    makes a pod. Raises NotFound, Conflict, UsageError, StoreDamaged, SystemFailure."""
    if any(other_container(wanted, kind) for kind in SHARED_KINDS):
        from lamina.run.container import joining

        wanted = joining.resolved(store, wanted)
    if wanted.pod or wanted.requires:
        from lamina.run.container import pods

        wanted = pods.resolved(store, wanted)
    return wanted


def check(wanted: ContainerOptions, *, runtime: str = "") -> None:
    """Refuse what this host's runtime can't do, before a container is made. Raises UsageError, Unsupported, NotFound
    (no runtime)."""
    check_supported(wanted, find_runtime(runtime))


def run(
    store: Store,
    stack: Stack,
    container: Container,
    *,
    runtime: str = "",
    stays: bool = False,
    on_warning: OnWarning = lambda text: None,
) -> ExitStatus:
    """Run the container in the foreground, as its record says, until it ends. ``stack``: its image. ``stays``: do not
    remove a container that is to be removed at its end: its owner does that (``Containers.owning``). Raises
    SystemFailure, Unsupported, NotFound where it can't be started."""
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux runs containers", hint="look into the image with ls, cat, unpack")
    ended = ExitStatus(CANNOT_RUN)
    container = supervised(store, container)
    try:
        preparation = Preparation(store, stack, container, find_runtime(runtime), on_warning)
        ended = _Run(preparation, on_warning).ended()
    finally:
        try:
            if container.remove and not stays:
                remove(store, container)
            else:
                _note_end(store, container, ended)
        finally:
            store.containers.stop_supervising(container.id)
    return ended


def supervised(store: Store, container: Container) -> Container:
    """Supervise the container, if this process does not yet; what a killed run has left is cleared up. Raises
    Conflict (it runs), NotFound, SystemFailure."""
    if store.containers.lock_of(container.id) >= 0:
        return container
    if container.is_program_alive:
        raise Conflict(
            f"the container {container.name} is running",
            hint=f"stop it first with `lamina stop {container.name}`",
        )
    store.containers.supervise(container)
    try:
        with store.containers.changing(container.id) as now:  # a rename may have come between
            container = now.supervised_here()
            store.containers.write(container, lasting=not container.remove)
        with store.containers.using(container):
            settle(store, container)
    except BaseException:
        store.containers.stop_supervising(container.id)
        raise
    return container


def _note_end(store: Store, container: Container, ended: ExitStatus) -> None:
    with suppress(NotFound), store.containers.changing(container.id) as now:  # else another process has removed it
        store.containers.write(now.ended(ended.code), lasting=not now.remove)


class _Run:
    """One run of a container by this process."""

    def __init__(self, preparation: Preparation, on_warning: OnWarning) -> None:
        self._preparation = preparation
        self._on_warning = on_warning

    def ended(self) -> ExitStatus:
        """Mount the union, run the program to its end, unmount."""
        made = self._preparation
        with mounted(made.store, made.stack, made.container, made.sandbox, made.wanted.view) as (used, use):
            made.note_mount(used)
            ended = self._run(use)
            limits = limits_as_flags(made.wanted)
            if (ended.reason or ended.message) and ended.code == CANNOT_RUN and limits:
                self._on_warning(f"the container did not start, perhaps because of its limits: {limits}")
            point("container.ended")
        return ended

    def _run(self, use: Use) -> ExitStatus:
        """``use``: keeps others away until the record says that the union is mounted."""
        made, wanted = self._preparation, self._preparation.wanted
        try:
            spec = made.spec(made.connect())
            made.write()
            use.close()
            starting = made.sandbox.start(
                spec,
                Streams(interactive=wanted.interactive, terminal=wanted.tty),
                init=wanted.init,
                must_filter=bool(wanted.seccomp),
                inherited=(made.store.containers.lock_of(made.container.id),),
                on_warning=self._on_warning,
            )
            with starting as program:
                return self._waited(program)
        finally:
            made.disconnect()

    def _waited(self, program: Program) -> ExitStatus:
        root, container = self._preparation.store.paths.root, self._preparation.container
        note_event(root, container, "start")
        ended = program.wait()
        note_event(root, container, "die", exitCode=str(ended.code))
        return ended
