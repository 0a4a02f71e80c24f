"""The mount of a container's union: while the container runs, and for `cp` while it does not."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext

from lamina.errors import Conflict
from lamina.light import TYPE_CHECKING
from lamina.run import writable
from lamina.run.container.ending import settle
from lamina.run.container.record import sandbox_of
from lamina.run.rootfs import Inside
from lamina.run.runtime import MACHINE
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.view.overlay.lower import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lamina.run.sandbox import Sandbox
    from lamina.source.stack import Stack
    from lamina.store.containers import Container, Use
    from lamina.store.store import Store


@contextmanager
def mounted(
    store: Store, stack: Stack, container: Container, sandbox: Sandbox, view: str = ""
) -> Iterator[tuple[str, Use]]:
    """Mount the union for a run; the view that was used, and the lock that keeps others away. The block closes the
    lock as soon as the record says that the union is mounted. ``view`` as in ``--view``."""
    upper, work = _writable(store, container)
    with store.containers.using(container) as use:
        used = sandbox.mount(
            store, stack, upper, work, view=view, devices=sandbox.runtime.devices, volatile=container.remove
        )
        try:
            point("container.mounted")
            sandbox.make_reachable()
            yield used, use
        finally:
            use.close()
            # wait for a `cp` that works in the mount: a second mount on the same directories would damage both
            with store.containers.using(container):
                sandbox.unmount()
            point("container.unmounted")
            sweep(store)
            if container.mounts:
                from lamina.run.volumes.attach import detached

                detached(store, container, was_mounted=True)


@contextmanager
def opened(store: Store, stack: Stack, container: Container) -> Iterator[Inside]:
    """The container's root file system. Where the container does not run, it is mounted while the block runs, by one
    process at a time; where it runs, its end waits for the block. Raises NotFound, Conflict (it is mounted where this
    process can't see it), SystemFailure."""
    rootfs = store.containers.path(container.id, "rootfs")
    while True:
        with store.containers.using(container, shared=True):
            if store.containers.is_running(container) and os.path.ismount(rootfs):
                with Inside(rootfs) as inside:
                    yield inside
                return
        with store.containers.using(container):
            container = store.containers.get(container.id)
            if store.containers.is_running(container):
                if os.path.ismount(rootfs):
                    continue  # it was mounted while this process waited
                if container.view:
                    raise Conflict(
                        f"the container {container.name} runs in another mount namespace",
                        hint="run this command there, or stop the container",
                    )
            else:
                settle(store, container)
            with _shown(store, container), _mounted_for_a_look(store, stack, container) as inside:
                yield inside
            return


def _shown(store: Store, container: Container) -> AbstractContextManager[None]:
    if container.runtime != MACHINE:
        return nullcontext()
    from lamina.run.machine.upper import shown

    return shown(store, container)


@contextmanager
def _mounted_for_a_look(store: Store, stack: Stack, container: Container) -> Iterator[Inside]:
    sandbox = sandbox_of(store, container)
    upper, work = _writable(store, container)
    # after a killed --rm container it says that the upper directory may be incomplete: only a crash of the host
    # makes it so
    remove_tree(work)
    os.mkdir(work, 0o700)
    sandbox.mount(store, stack, upper, work, view=container.view)
    try:
        point("container.opened")
        with Inside(sandbox.directories.rootfs) as inside:
            yield inside
    finally:
        sandbox.unmount()
        sweep(store)


def _writable(store: Store, container: Container) -> tuple[str, str]:
    upper, work = (writable.path(store, container, name) for name in (writable.UPPER, writable.WORK))
    return upper, work
