"""How containers end: signals, removal, and clearing up after a killed lamina.

A running container is not removed. A lock says whether it runs: the lamina that supervises a container holds it, and
so does its runtime (``store.containers``). If both were killed, the runtime is told to end what is left.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, LaminaError, NotFound, SystemFailure, Unsupported, UsageError
from lamina.host import mountinfo
from lamina.host.files import failure, reported
from lamina.host.temporary import SUFFIX
from lamina.light import TYPE_CHECKING
from lamina.run import writable
from lamina.run.container.events import note_event
from lamina.run.container.record import sandbox_of, stack_of
from lamina.run.container.stopped import note_stop
from lamina.run.runtime import MACHINE
from lamina.store.containers import CREATED, DAMAGED, UNKNOWN_CODE, Container, Use
from lamina.store.fault import point
from lamina.store.foreign_trees import remove_tree
from lamina.view import kernel
from lamina.view.overlay.lower import sweep

if TYPE_CHECKING:
    from lamina.scan.directory import OnWarning
    from lamina.store.store import Store

_POLL, _RETRY_AFTER = 0.02, 0.2  # seconds
_ENDING = 2.0  # seconds that a monitor may take to end after its program
_SECONDS = 10.0  # until `stop` kills, as in docker


def remove(store: Store, container: Container, *, force: bool = False, volumes: bool = False) -> None:
    """Remove the container with all its changes. ``volumes``: also its anonymous volumes; those of a container that
    is removed at its end always go. No error if another process has removed it meanwhile, as `run
    --rm` does when its program is killed. Raises Conflict if it runs and ``force`` is not given."""
    mine = store.containers.lock_of(container.id) >= 0
    if not mine and store.containers.is_running(container):
        if not force:
            raise _runs(container)
        stop(store, container, "KILL", seconds=60)
    path = store.containers.path(container.id)
    with suppress(NotFound), reported(path), store.containers.using(container):
        if not mine and store.containers.is_running(container):
            raise _runs(container)  # it was started while this process waited
        settle(store, container)
        _discard(store, store.containers.set_aside(container), container, volumes=volumes)


def _runs(container: Container) -> Conflict:
    return Conflict(f"the container {container.name} runs", hint=f"stop it, or `lamina rm --force {container.name}`")


def _discard(store: Store, directory: str, container: Container | None, *, volumes: bool = False) -> None:
    """Remove a container's directory with everything in it, and what the container has elsewhere. ``container``:
    None if its record can't be read. ``volumes``: also its anonymous volumes."""
    if container is not None:
        if container.mounts and (volumes or container.remove):
            from lamina.run.volumes.remove import remove_anonymous

            remove_anonymous(store, container)
        writable.remove(store, container, directory)
        point("container.top-removed")
    # volumes may be mounted in there: their files must not be removed
    with reported(directory):
        for target in mountinfo.below(directory):
            kernel.unmount(target)
    try:
        remove_tree(directory)
    except OSError as error:
        raise failure(error, directory) from error
    point("container.removed")
    if container is not None:
        note_event(store.paths.root, container, "destroy")


def clear(store: Store, found: tuple[list[Container], list[str]] | None = None) -> list[LaminaError]:
    """Clear up after containers whose lamina and program were killed: remove `--rm` ones; unmount others and write
    their end into the record. Also unmount what a killed `cp` has mounted, and remove what a killed creation or
    removal has left. Containers that another process uses are left alone. ``found``: what ``Containers.scan`` has
    just returned. Returns the errors."""
    failed: list[LaminaError] = []
    every, leftovers = found or store.containers.scan()
    for one in every:
        try:
            with reported(store.containers.path(one.id)):
                _clear_if_left(store, one)
        except LaminaError as error:
            failed.append(error)
    for directory in leftovers:
        try:
            with reported(directory), Use(directory, os.path.basename(directory), wait=False):
                _discard(store, directory, store.containers.record_in(directory))
        except LaminaError as error:
            failed.append(error)
    failed += _clear_volumes(store)
    return [error for error in failed if not isinstance(error, (NotFound, Conflict))]  # another process uses those


def clear_all(store: Store) -> list[LaminaError]:
    """As ``clear``; and unmount the layers that no container uses any more: a command may have been killed between
    the two. Raises SystemFailure."""
    failed = clear(store)
    sweep(store)
    return failed


def _clear_volumes(store: Store) -> Iterator[LaminaError]:
    """Remove volumes that were being made or removed, and records without a volume; yield the errors."""
    top = os.path.join(store.paths.root, "volumes")
    try:
        with reported(top):
            names = os.listdir(top)
    except LaminaError as error:
        yield error
        return
    hidden = [name for name in names if name.startswith(".")]
    if len(hidden) * 2 > len(names) or any(name.endswith(SUFFIX) for name in hidden):  # some have no volume
        from lamina.run.volumes.remove import clear_left

        yield from clear_left(store)


def _clear_if_left(store: Store, one: Container) -> None:
    places = (store.containers.path(one.id, "rootfs"), writable.shown_disk(store, one))
    left = one.may_run or any(map(os.path.ismount, filter(None, places)))
    if (left or store.containers.is_abandoned(one)) and not store.containers.is_running(one):
        with store.containers.using(one, wait=False):
            _clear(store, one)


def _clear(store: Store, seen: Container) -> None:
    one = store.containers.get(seen.id, damaged=True)
    if store.containers.is_running(one):
        return
    settle(store, one)
    if store.containers.is_abandoned(one):
        _discard(store, store.containers.set_aside(one), one)
    if not one.may_run:
        return
    if one.remove and not store.containers.is_owned(one):
        _discard(store, store.containers.set_aside(one), one)
    else:
        with store.containers.changing(one.id) as one:
            store.containers.note_kill(one, noted_code(store, one))


def noted_code(store: Store, container: Container) -> int | None:
    """The exit code of the container's last run: that of the record, else what the journal tells. The record does not
    have it if the supervisor was killed, or could not write it. None: nobody knows it."""
    if container.exit_code is not None:
        return container.exit_code
    from lamina.store.journal_reading import last_exit_code

    return last_exit_code(store.paths.root, container.id, container.since or container.created)


def shown_code(store: Store, container: Container, state: str) -> int:
    """The exit code as docker's forms show it for a container in this ``state`` that does not run: 0 if it never
    ran."""
    if container.exit_code is None and state in (CREATED, DAMAGED):
        return 0
    code = noted_code(store, container)
    return UNKNOWN_CODE if code is None else code


def signal_container(store: Store, container: Container, signal: str) -> None:
    """Send a signal to the first process. The container's monitor does not start it again at its next end, as in
    docker and podman. Raises Conflict (the container does not run), UsageError, SystemFailure."""
    from lamina.run.container.running import check_running, first_process, not_running
    from lamina.run.signals import parse_signal

    parse_signal(signal)
    check_running(store, container)
    if _ends(container, signal):
        note_stop(store, container)
    try:
        _kill(store, container, signal)
    except SystemFailure:
        end = time.monotonic() + _ENDING
        while store.containers.is_running(container):
            if time.monotonic() > end:
                if not first_process(store, store.containers.get(container.id)):
                    break
                raise
            time.sleep(_POLL)
        raise not_running(container) from None  # it was about to start, or to end


def _ends(container: Container, signal: str) -> bool:
    """Whether a user's signal means that the container is not to be started again, by docker's rule: any does, unless
    the container has a stop signal of its own; then that one and KILL do."""
    from lamina.run.signals import KILL, parse_signal

    number = parse_signal(signal)
    return not container.stop_signal or number in (KILL, parse_signal(container.stop_signal))


def _kill(store: Store, container: Container, signal: str, *, again: bool = False) -> None:
    """Send a signal to the first process, by number: the runtimes know fewer names than docker. A paused container
    goes on, as in docker: else the signal would not arrive. ``again``: this was tried before. Raises SystemFailure,
    UsageError."""
    from lamina.run.signals import parse_signal

    number = parse_signal(signal)
    if not again:  # noted before it is sent, so that the journal has the program's end after it
        note_event(store.paths.root, container, "kill", signal=str(number))
    if container.runtime == MACHINE:  # it writes to its disk before it ends
        _go_on(store, container)
    sandbox_of(store, container).signal(number)
    _go_on(store, container)


def _go_on(store: Store, container: Container) -> None:
    with suppress(NotFound):  # it has ended, and was removed
        if store.containers.get(container.id, damaged=True).paused:
            from lamina.run.container.pause import resume

            resume(store, container)


def stop(store: Store, container: Container, signal: str, *, seconds: float = 10) -> None:
    """Send a signal and wait until no process supervises the container. The signal is sent again while the
    runtime does not know the container: it is about to start, or about to end. Raises SystemFailure, Conflict."""
    is_running = store.containers.is_running
    if container.is_elsewhere and is_running(container):
        from lamina.run.container.running import check_running

        check_running(store, container)
    from lamina.run.container.stuck import Monitor

    end = time.monotonic() + seconds
    note_stop(store, container)
    refused = _refused(store, container, signal)
    tried = time.monotonic()
    monitor = Monitor(store, container)
    while is_running(container):
        monitor.hurry()
        if time.monotonic() > end:
            raise refused or SystemFailure(f"{container.name} still runs", hint=f"run `lamina kill {container.name}`")
        time.sleep(_POLL)
        if refused is not None and time.monotonic() - tried > _RETRY_AFTER:
            refused = _refused(store, container, signal, again=True)
            tried = time.monotonic()


def end(
    store: Store,
    container: Container,
    signal: str | None = None,
    *,
    seconds: float | None = None,
    on_warning: OnWarning = lambda text: None,
) -> None:
    """Stop the container, if it runs: send a signal, and kill it if it has not ended in time. ``signal``: None for
    its own, else that of its image. ``seconds``: -1: never kill it; None: as it was made, else docker's default.
    Raises SystemFailure, Conflict, UsageError."""
    if not store.containers.is_running(container):
        return
    if signal is None:
        signal = stop_signal(container, stack_of(store, container).config.stop_signal, on_warning)
    if seconds is None:
        seconds = _SECONDS if container.stop_timeout is None else container.stop_timeout
    try:
        stop(store, container, signal, seconds=math.inf if seconds < 0 else seconds)
    except SystemFailure:
        stop(store, container, "KILL")
    note_event(store.paths.root, container, "stop")


@contextmanager
def paused(store: Store, container: Container, *, must: bool = True) -> Iterator[None]:
    """Pause the container while the block runs, if it runs and is not paused already. ``must``: False to let one go
    on that can't be paused. Raises Unsupported (it has no cgroup), SystemFailure."""
    if container.paused or not store.containers.is_running(container):
        yield
        return
    from lamina.run.container.running import check_running

    check_running(store, container)
    sandbox = sandbox_of(store, container)
    if not sandbox.can_pause:
        if not must:
            yield
            return
        raise Unsupported(
            f"the container {container.name} can't be paused: it has no cgroup", hint="leave --pause out, or stop it"
        )
    with sandbox.paused():
        yield


def stop_signal(container: Container, of_image: str, on_warning: OnWarning) -> str:
    """The number of the signal that `stop` sends: as ``--stop-signal`` says, else as the image says, else TERM. An
    unknown signal in the image is a warning."""
    from lamina.run.signals import TERM, parse_signal

    word = container.stop_signal or of_image
    try:
        return str(parse_signal(word))
    except UsageError:
        on_warning(f"the image {container.image} has an unknown StopSignal {word!r:.60}; TERM is sent")
        return str(TERM)


def _refused(store: Store, container: Container, signal: str, *, again: bool = False) -> SystemFailure | None:
    try:
        _kill(store, container, signal, again=again)
    except SystemFailure as error:
        return error
    except LaminaError:
        if store.containers.is_running(container):
            raise
    return None


def settle(store: Store, container: Container) -> None:
    """Clear up what a killed run has left mounted in the container's directory, or elsewhere. Call it in a block of
    ``using``, when no process supervises the container."""
    release_networks(store, container)
    was_mounted = sandbox_of(store, container).end()
    if container.runtime == MACHINE:
        from lamina.run.machine.upper import hide

        hide(store, container)
    if was_mounted:
        sweep(store)
    if container.mounts:
        from lamina.run.volumes.attach import detached

        detached(store, container, was_mounted=was_mounted)


def release_networks(store: Store, container: Container) -> None:
    """Take a container that has ended off its networks with names, if it was on some. Raises SystemFailure."""
    if os.path.exists(store.containers.path(container.id, "network.json")):
        from lamina.run.networks.connection import release

        release(store, container)
