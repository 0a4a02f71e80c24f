"""Start a container that lives on when this process has ended: its monitor stays with it."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import Conflict, ContainerFailure, LaminaError, NotFound, Unsupported
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, replace
from lamina.run import writable
from lamina.run.container.ending import remove, settle, stop_signal
from lamina.run.container.life import supervised
from lamina.run.container.preparing import Preparation
from lamina.run.container.record import stack_of
from lamina.run.container.stopped import forget_stop
from lamina.run.monitor.plan import Plan
from lamina.run.monitor.spawn import Monitor
from lamina.run.runtime import find_runtime
from lamina.store.containers import CREATED
from lamina.store.fault import point

_NEVER_RAN = 128
"""docker's exit code of a container that could not be started for another reason than its program."""

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store


def start(
    store: Store,
    stack: Stack,
    container: Container,
    *,
    runtime: str = "",
    attached: int = -1,
    stdin_once: bool = False,
    on_warning: OnWarning = lambda text: None,
) -> int:
    """Start the container; returns the pid of its program. ``attached``: a socket whose other end is attached to it
    from the start (``run.monitor.client``); -1 for none. ``stdin_once``: its standard input ends with that of the
    first command that was attached with it. Raises Conflict (it runs), ContainerFailure (its program can't be
    started; its exit code is docker's), SystemFailure, Unsupported, NotFound."""
    if (container.wanted or {}).get("requires"):
        _start_required(store, container, on_warning)
    container = supervised(store, container)
    try:
        lock = store.containers.lock_of(container.id)
        with Monitor(store.containers.path(container.id), container.name, lock, attached) as monitor:
            preparation = Preparation(store, stack, container, find_runtime(runtime or container.runtime), on_warning)
            _check_log_driver(preparation.wanted.log_driver)
            forget_stop(store, container)
            if preparation.sandbox.is_machine:
                _make_machine(preparation)
            else:
                _mount(preparation)
            started = monitor.start(_plan(preparation, stdin_once, attached=attached >= 0))
        if not started.program:
            error = ContainerFailure(f"{container.name}: {started.reason}", hint=_hint(preparation))
            error.exit_code = started.code
            raise error
    except BaseException as error:
        _give_up(store, container, error)
        raise
    store.containers.hand_over(container.id)
    return started.program


def _hint(made: Preparation) -> str:
    if not made.sandbox.is_machine:
        return "check the command and the options"
    if made.container.remove:
        return "check the options; without --rm its directory has more in console.log and qemu.log"
    return f"check the options; {made.sandbox.directories.bundle} has more in console.log and qemu.log"


def _start_required(store: Store, container: Container, on_warning: OnWarning) -> None:
    from lamina.run.container.pods import required

    for one in required(store, container):
        try:
            start(store, stack_of(store, one), one, on_warning=on_warning)
        except Conflict:  # another process has started it meanwhile
            if not store.containers.is_running(one):
                raise


def _mount(made: Preparation) -> None:
    """Mount the union, connect the network, write the runtime spec and the record."""
    container, sandbox = made.container, made.sandbox
    upper, work = (writable.path(made.store, container, name) for name in (writable.UPPER, writable.WORK))
    with made.store.containers.using(container) as use:
        used = sandbox.mount(
            made.store,
            made.stack,
            upper,
            work,
            view=made.wanted.view,
            devices=sandbox.runtime.devices,
            volatile=container.remove,
        )
        point("container.mounted")
        sandbox.make_reachable()
        made.note_mount(used)
        spec = made.spec(made.connect())
        sandbox.describe(spec)
        made.write()
        use.close()


def _check_log_driver(driver: str) -> None:
    """Raises Unsupported if nothing would keep the log."""
    if driver != "journald":
        return
    from lamina.run.logs.journald import SOCKET

    if not os.path.exists(SOCKET):
        raise Unsupported("journald does not run on this host", hint="start it, or choose another --log-driver")


def _make_machine(made: Preparation) -> None:
    """Write the machine's files and the record: its disks are files of the store, and nothing is mounted."""
    from lamina.run.container.machine import prepare

    bundle = made.sandbox.directories.bundle
    with made.store.containers.using(made.container) as use, reported(bundle):
        made.note_mount("")
        prepare(made)
        point("machine.described")
        made.write()
        use.close()


def _plan(made: Preparation, stdin_once: bool, *, attached: bool) -> Plan:
    container, wanted, sandbox = made.container, made.wanted, made.sandbox
    options = wanted.log_options
    if options:
        from lamina.run.logs.attributes import resolved

        options = resolved(
            options,
            identity=container.id,
            name=container.name,
            image=container.image,
            image_id=str(made.stack.config.descriptor.digest),
            command=container.command,
            labels=dict(container.labels),
            env=(*made.stack.config.env, *(f"{key}={value}" for key, value in wanted.env)),
        )
    return Plan(
        root=os.path.abspath(made.store.paths.root),
        identity=container.id,
        name=container.name,
        image=container.image,
        directory=os.path.abspath(made.store.containers.path(container.id)),
        states=sandbox.directories.states,
        runtime=sandbox.runtime,
        terminal=wanted.tty,
        size=_size() if wanted.tty and attached else (),
        interactive=wanted.interactive,
        stdin_once=stdin_once,
        init=wanted.init,
        must_filter=bool(wanted.seccomp),
        remove=container.remove,
        restart=wanted.restart,
        log_driver=wanted.log_driver,
        log_options=options,
        attributes=attributes_of(container),
        pidfile=wanted.pidfile,
        health=_health(made),
    )


def _size() -> tuple[int, ...]:
    """Of the terminal of this process: a program may look before the attached command has told it."""
    from lamina.run.monitor.terminal_size import size_of

    for number in (0, 1, 2):
        with suppress(OSError):
            return size_of(number)
    return ()


def _health(made: Preparation) -> Mapping[str, Any] | None:
    wanted, config = made.wanted, made.stack.config
    if made.sandbox.is_machine:  # a check runs inside
        return None
    if not wanted.health.test and not (config.json.get("config") or {}).get("Healthcheck"):
        return None
    from lamina.run.container.health import check_for
    from lamina.run.health import check_json

    check = check_for(made.stack, wanted)
    if check is None:
        return None
    if check.on_failure != "none":
        number = int(stop_signal(made.container, config.stop_signal, lambda text: None))
        check = replace(check, stop_signal=number, stop_timeout=float(wanted.stop_timeout or 10))
    return check_json(check)


def attributes_of(container: Container) -> tuple[tuple[str, str], ...]:
    """docker's attributes of a container's events."""
    return tuple({**dict(container.labels), "image": container.image, "name": container.name}.items())


def _give_up(store: Store, container: Container, error: BaseException) -> None:
    """Take down what was made for a start that failed, and write into the record why."""
    try:
        with suppress(LaminaError):
            with store.containers.using(container):
                settle(store, container)
            if container.remove:
                remove(store, container)
            else:
                code = error.exit_code if isinstance(error, ContainerFailure) else _NEVER_RAN
                with suppress(NotFound), store.containers.changing(container.id) as now:
                    ended = now.ended(code, error=str(error))
                    if now.since is None:  # it never ran: docker calls it created
                        ended = replace(ended, status=CREATED, finished=None)
                    store.containers.write(ended)
    finally:
        store.containers.stop_supervising(container.id)
