"""A container's life: made from an image of the store, then run.

Its directory in the store holds the record, ``upper`` (all that it changed), ``work`` (the kernel's), ``rootfs``
(the mount point of the union), ``bundle`` (for the runtime) and ``volumes`` (its anonymous ones).
"""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import NotFound, Unsupported
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run import network, writable
from lamina.run.bundle import Task, check_architecture, prepare_spec
from lamina.run.child import CANNOT_RUN, ExitStatus, Streams
from lamina.run.container.ending import clear, remove, settle
from lamina.run.container.mount import mounted
from lamina.run.container.record import new_record, sandbox_of, wanted_of
from lamina.run.rootfs import Inside
from lamina.run.runtime import find_runtime
from lamina.run.spec import check_words
from lamina.run.supported import check_supported, limits_as_flags
from lamina.store.containers import Container, Use
from lamina.store.fault import point
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.run.granted_user import Caller
    from lamina.run.options import ContainerOptions, Mount
    from lamina.run.runtime import Runtime
    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.store import Store


def create(
    store: Store,
    stack: Stack,
    wanted: ContainerOptions,
    *,
    running: bool = False,
    upper_dir: str = "",
    on_warning: OnWarning = lambda text: None,
) -> Container:
    """Make a container of the whole image, which the record calls ``stack.name``. ``running``: this process is about
    to run it. ``upper_dir``: where its writable layer is kept, by default in the store. Raises Conflict (the name is
    taken), UsageError, NotFound, Unsupported, SystemFailure."""
    if wanted.pod or wanted.requires:
        from lamina.run.container.pods import resolved

        wanted = resolved(store, wanted)
    identity = os.urandom(32).hex()
    top = writable.choose(store, identity, upper_dir, remove=wanted.remove, warn=on_warning)
    container = new_record(stack, wanted, identity=identity, top=top)
    if running:
        container = container.supervised_here()
    found = store.containers.scan()
    clear(store, found)  # `prune` reports what can't be cleared

    def undo(directory: str) -> None:
        writable.remove(store, container, directory)

    creating = store.containers.creating(container, lasting=not wanted.remove, undo=undo)
    with creating as directory, reported(directory):
        for name in ("rootfs", "bundle", "volumes"):
            os.mkdir(os.path.join(directory, name), 0o700)
        writable.make(store, container, directory)
        point("container.top-made")
    return container


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
    if store.containers.lock_of(container.id) < 0:
        container = store.containers.supervise(container)
        store.containers.write(container, lasting=not container.remove)
        with store.containers.using(container):
            settle(store, container)
    try:
        ended = _Run(store, stack, container, find_runtime(runtime), on_warning).ended()
    finally:
        try:
            if container.remove and not stays:
                remove(store, container)
            else:
                _note_end(store, container, ended)
        finally:
            store.containers.stop_supervising(container.id)
    return ended


def _note_end(store: Store, container: Container, ended: ExitStatus) -> None:
    with suppress(NotFound), store.containers.changing(container.id) as now:  # else another process has removed it
        store.containers.write(now.ended(ended.code), lasting=not now.remove)


class _Run:
    """One run of a container."""

    def __init__(
        self, store: Store, stack: Stack, container: Container, runtime: Runtime, on_warning: OnWarning
    ) -> None:
        """Raises UsageError, Unsupported."""
        self._store, self._stack, self._on_warning = store, stack, on_warning
        self._wanted = wanted_of(container)
        runtime.check_path(store.paths.root)
        check_supported(self._wanted, runtime)
        owners, self._caller = _owners(container, self._wanted, runtime)
        self._container = replace(container, users=owners.users, groups=owners.groups)
        self._sandbox = sandbox_of(store, self._container, runtime)

    def ended(self) -> ExitStatus:
        """Mount the union, run the program to its end, unmount."""
        view = self._wanted.view
        with mounted(self._store, self._stack, self._container, self._sandbox, view) as (used, use):
            self._container = replace(self._container, runtime=self._sandbox.runtime.program, view=used)
            ended = self._run(use)
            limits = limits_as_flags(self._wanted)
            if (ended.reason or ended.message) and ended.code == CANNOT_RUN and limits:
                self._on_warning(f"the container did not start, perhaps because of its limits: {limits}")
            point("container.ended")
        return ended

    def _run(self, use: Use) -> ExitStatus:
        """``use``: keeps others away until the record says that the union is mounted."""
        container, wanted, sandbox = self._container, self._wanted, self._sandbox
        config, rootfs = self._stack.config, sandbox.directories.rootfs
        words = (*container.command, *config.env, *config.volumes, config.working_dir, config.user)
        check_words(container.image, words)
        kind = network.choose(wanted.network, self._on_warning)
        resolver = network.host_resolver(kind, self._on_warning)
        task = Task(sandbox, wanted, config, container.command, network.ContainerNetwork(kind), caller=self._caller)
        with Inside(rootfs) as inside:
            check_architecture(task, inside)
        with network.connected(kind, resolver, sandbox.directories.bundle) as net:
            with Inside(rootfs) as inside:
                mounts = self._mounts(inside)
                spec, made = prepare_spec(replace(task, network=net, mounts=mounts), inside)
            container = replace(container, made=(*container.made, *made))
            self._store.containers.write(container, lasting=not container.remove)
            use.close()
            starting = sandbox.start(
                spec,
                Streams(interactive=wanted.interactive, terminal=wanted.tty),
                init=wanted.init,
                must_filter=bool(wanted.seccomp),
                inherited=(self._store.containers.lock_of(container.id),),
                on_warning=self._on_warning,
            )
            with starting as program:
                return program.wait()

    def _mounts(self, inside: Inside) -> Sequence[Mount]:
        declared = self._stack.config.volumes
        if not self._wanted.mounts and not declared:
            return ()
        from lamina.run.container.volumes import binds

        return binds(self._store, self._container, self._wanted.mounts, declared, inside)


def _owners(container: Container, wanted: ContainerOptions, runtime: Runtime) -> tuple[Owners, Caller]:
    """The ids of the container's user namespace, and the caller's ids in there, if it asked for some. Raises
    Unsupported."""
    if not wanted.userns.kind:
        return AS_STATED, None
    from lamina.run import userns

    if wanted.userns.kind == "keep-id":
        return userns.keep_id(wanted.userns)
    if not privileges.is_root():
        raise Unsupported("only root of the host may use --userns auto", hint="use --userns keep-id, or leave it out")
    if runtime.is_bubblewrap:
        raise Unsupported(
            "bubblewrap does not support --userns auto", hint="leave --userns out, or install runc or crun"
        )
    return userns.auto(container.id), None
