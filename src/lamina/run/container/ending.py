"""How containers end: signals, removal, and what there is to clear where their lamina was killed.

What still runs is not removed. Whether it runs, a lock says: the lamina that looks after a container holds it, and
its runtime with it (``store.containers``). Where both were killed, the runtime is told to end what may be left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, LaminaError, NotFound, SystemFailure, Unsupported, UsageError
from lamina.host import mountinfo
from lamina.host.files import failure, reported
from lamina.host.temporary import is_temporary
from lamina.light import TYPE_CHECKING, replace
from lamina.run import writable
from lamina.run.container.record import sandbox_of
from lamina.store.containers import EXITED, RUNNING, Container, Use
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel
from lamina.view.overlay.lower import sweep

if TYPE_CHECKING:
    from lamina.scan.directory import OnWarning
    from lamina.store.store import Store

_POLL, _AGAIN = 0.02, 0.2  # seconds


def remove(store: Store, container: Container, *, force: bool = False) -> None:
    """Remove the container with all that it wrote; nothing where somebody else has done so meanwhile, as `run --rm`
    does when its program is killed. Raises Conflict where it runs and ``force`` is not given."""
    mine = store.containers.lock_of(container.id) >= 0
    if not mine and store.containers.is_running(container):
        if not force:
            raise _runs(container)
        stop(store, container, "KILL", seconds=60)
    with suppress(NotFound), store.containers.using(container):
        if not mine and store.containers.is_running(container):
            raise _runs(container)  # it was started while we waited
        settle(store, container)
        _discard(store, store.containers.set_aside(container), container)


def _runs(container: Container) -> Conflict:
    return Conflict(f"the container {container.name} runs", hint=f"stop it, or `lamina rm --force {container.name}`")


def _discard(store: Store, directory: str, container: Container | None) -> None:
    """Remove a container's directory, whatever is in it, and what it had elsewhere. ``container``: None where nothing
    is known of it."""
    if container is not None:
        writable.remove(store, container, directory)
        point("container.top-removed")
    # a volume of the machine's may be mounted in there: its files are not the container's
    with reported(directory):
        for target in mountinfo.below(directory):
            kernel.unmount(target)
    try:
        remove_tree(directory)
    except OSError as error:
        raise failure(error, directory) from error
    point("container.removed")


def clear(store: Store, found: tuple[list[Container], list[str]] | None = None) -> list[LaminaError]:
    """Clear up after containers whose lamina and program were killed: `--rm` ones are removed, of others the mounts
    are taken away and the end is noted. The same for the mount of a `cp`, and what a killed creation or removal left.
    What somebody works with is left alone. ``found``: as ``Containers.look`` told it just now. Returns what went
    wrong."""
    failed: list[LaminaError] = []
    every, leftovers = found or store.containers.look()
    for one in every:
        try:
            left = one.status == RUNNING or os.path.ismount(store.containers.path(one.id, "rootfs"))
            if (left or store.containers.is_left(one)) and not store.containers.is_running(one):
                with store.containers.using(one, wait=False):
                    _clear(store, one)
        except LaminaError as error:
            failed.append(error)
    for directory in leftovers:
        try:
            with Use(directory, os.path.basename(directory), wait=False):
                _discard(store, directory, store.containers.known_of(directory))
        except LaminaError as error:
            failed.append(error)
    failed += _clear_volumes(os.path.join(store.paths.root, "volumes"))
    return [error for error in failed if not isinstance(error, (NotFound, Conflict))]  # others work with those


def clear_all(store: Store) -> list[LaminaError]:
    """As ``clear``, and take away the mounts of layers that nobody uses any more: a command may have been killed
    between the two. Raises SystemFailure."""
    failed = clear(store)
    sweep(store)
    return failed


def _clear_volumes(top: str) -> Iterator[LaminaError]:
    """Remove the volumes whose first copy was killed."""
    try:
        with reported(top):
            for name in os.listdir(top):
                directory = os.path.join(top, name)
                if is_temporary(name):
                    with Use(directory, name, wait=False):
                        remove_tree(directory)
    except LaminaError as error:
        yield error


def _clear(store: Store, seen: Container) -> None:
    one = store.containers.get(seen.id, damaged=True)
    if store.containers.is_running(one):
        return
    settle(store, one)
    if store.containers.is_left(one):
        _discard(store, store.containers.set_aside(one), one)
    if one.status != RUNNING:
        return
    if one.remove:
        _discard(store, store.containers.set_aside(one), one)
    else:
        store.containers.write(replace(one, status=EXITED, finished=time.time(), pid=0, started=None))


def signal_container(store: Store, container: Container, signal: str) -> None:
    """Send a signal to the first process. Raises Conflict where the container does not run, SystemFailure."""
    check_running(store, container)
    _kill(store, container, signal)


def check_running(store: Store, container: Container) -> None:
    """Raises Conflict where the container does not run, or not where this process can reach it."""
    if not store.containers.is_running(container):
        raise Conflict(f"the container {container.name} does not run", hint="see `lamina ps -a`")
    if container.is_elsewhere:
        raise Conflict(
            f"the container {container.name} runs in another namespace of processes", hint="run this command there"
        )


def _kill(store: Store, container: Container, signal: str) -> None:
    """Send a signal to the first process, by number: the runtimes know fewer names than docker. Raises SystemFailure,
    UsageError."""
    from lamina.run.signals import parse_signal

    sandbox_of(store, container).signal(parse_signal(signal))


def stop(store: Store, container: Container, signal: str, *, seconds: float = 10) -> None:
    """Send a signal and wait until nobody looks after the container. It is sent again where the runtime has no such
    container: it is about to start, or about to end. Raises SystemFailure, Conflict."""
    is_running = store.containers.is_running
    if container.is_elsewhere and is_running(container):
        check_running(store, container)
    end = time.monotonic() + seconds
    refused = _refused(store, container, signal)
    tried = time.monotonic()
    while is_running(container):
        if time.monotonic() > end:
            raise refused or SystemFailure(f"{container.name} still runs", hint="`lamina kill` it")
        time.sleep(_POLL)
        if refused is not None and time.monotonic() - tried > _AGAIN:
            refused = _refused(store, container, signal)
            tried = time.monotonic()


@contextmanager
def paused(store: Store, container: Container) -> Iterator[None]:
    """Nothing of the container goes on while the block runs, where it runs at all. Raises Unsupported (it has no
    cgroup), SystemFailure."""
    if not store.containers.is_running(container):
        yield
        return
    check_running(store, container)
    sandbox = sandbox_of(store, container)
    if not sandbox.can_pause:
        raise Unsupported(
            f"the container {container.name} can't be paused: it has no cgroup", hint="leave --pause out, or stop it"
        )
    with sandbox.paused():
        yield


def stop_signal(container: Container, of_image: str, on_warning: OnWarning) -> str:
    """The number of the signal that asks the container to end: as it was asked for, else as its image says, else
    TERM. ``on_warning`` is told of an image's that is none."""
    from lamina.run.signals import TERM, parse_signal

    word = container.stop_signal or of_image
    try:
        return str(parse_signal(word))
    except UsageError:
        on_warning(f"the image {container.image} names no signal: StopSignal {word!r:.60}; TERM is sent")
        return str(TERM)


def _refused(store: Store, container: Container, signal: str) -> SystemFailure | None:
    try:
        _kill(store, container, signal)
    except SystemFailure as error:
        return error
    except LaminaError:
        if store.containers.is_running(container):
            raise
    return None


def settle(store: Store, container: Container) -> None:
    """Clear up what a killed run has left mounted in the container's directory, or elsewhere. Call it in a block of
    ``using``, when no process looks after the container."""
    if sandbox_of(store, container).end():
        sweep(store)
