"""Run a container with a monitor: in the background, or in front, attached to it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress

from lamina.cli import ended_in_order, warn
from lamina.errors import ContainerFailure, NotFound
from lamina.light import TYPE_CHECKING
from lamina.run.container.background import start
from lamina.run.container.events import note_event
from lamina.run.monitor import client
from lamina.run.monitor.streams import letters, parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.run.options import ContainerOptions
    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store


def run_behind(store: Store, stack: Stack, container: Container, runtime: str, on_warning: OnWarning = warn) -> int:
    """Start it, and print its ID. Raises ContainerFailure, LaminaError."""
    with told_to_systemd(store, container.id), ended_in_order(once=True):
        start(store, stack, container, runtime=runtime, on_warning=on_warning)
        sys.stdout.write(f"{container.id}\n")  # click would take longer to load than the monitor
        sys.stdout.flush()
    return 0


@contextmanager
def told_to_systemd(store: Store, name: str) -> Iterator[None]:
    """Tell it, if a unit runs this command, that the monitor of the container which the block has started is the
    main process of the unit."""
    if "NOTIFY_SOCKET" not in os.environ:
        yield
        return
    from lamina.host.notify import taken_socket, tell_main_process

    path = taken_socket()
    yield
    with suppress(NotFound):  # it has ended, and was removed
        tell_main_process(path, store.containers.get(name).pid)


def run_in_front(
    store: Store,
    stack: Stack,
    container: Container,
    runtime: str,
    wanted: ContainerOptions,
    on_warning: OnWarning = warn,
    *,
    forward: str,
) -> int:
    """Start it with this command attached; the program's exit code. ``forward``: of ``--sig-proxy``. Raises
    ContainerFailure, LaminaError."""
    streams = letters(wanted.attach)
    outputs = streams.replace(b"i", b"") or (b"" if streams else b"oe")
    ours, theirs = client.pair()
    one = client.Client(
        ours,
        interactive=wanted.interactive and (b"i" in streams or not streams),
        terminal=wanted.tty,
        outputs=outputs,
        keys=parse_keys(wanted.detach_keys),
        forward=is_true(forward),
    )
    one.attach()
    note_event(store.paths.root, container, "attach")
    try:
        with ended_in_order(once=True):  # a machine takes seconds, and may never start
            start(store, stack, container, runtime=runtime, attached=theirs, stdin_once=True, on_warning=on_warning)
    except BaseException:
        one.close()
        raise
    finally:
        os.close(theirs)
    return exit_code(store, one.run(), container)


def is_true(word: str) -> bool:
    return word.lower() not in ("false", "0")


def exit_code(store: Store, code: int, container: Container) -> int:
    """What a command returns after ``Client.run``. Raises ContainerFailure."""
    if code == client.UNKNOWN:
        raise ContainerFailure(
            f"the monitor of the container {container.name} has gone: its exit code is not known",
            hint="see `lamina ps -a`",
        )
    if code == client.DETACHED:
        note_event(store.paths.root, container, "detach")
        return 0
    return code
