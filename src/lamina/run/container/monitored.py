"""The process of a monitor, from its start to the container's end. The engine is loaded only at the end."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import NotFound, SystemFailure
from lamina.light import TYPE_CHECKING
from lamina.run.monitor import main as monitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from lamina.run.monitor.plan import Plan
    from lamina.store.store import Store


def main() -> NoReturn:
    """Skip interpreter teardown: commands wait for the end of this process."""
    os._exit(monitor.main(finish))


def _take_down(plan: Plan) -> None:
    """Unmount what is left of a container that somebody has deleted, and of its store if that is deleted too."""
    from lamina.host.mountinfo import below
    from lamina.run.runtime import delete
    from lamina.view import kernel

    if plan.runtime.is_bubblewrap:
        from lamina.run.bubblewrap import cgroup

        cgroup.remove(plan.identity)
    elif os.path.isdir(os.path.join(plan.states, plan.identity)):
        delete(plan.runtime, plan.states, plan.identity)
    others = os.path.join(plan.root, "containers", "")
    for target in below(plan.directory if os.path.exists(os.path.join(plan.root, "format")) else plan.root):
        if target.startswith(plan.directory + os.sep) or not target.startswith(others):
            with suppress(SystemFailure):
                kernel.unmount(target)


def finish(plan: Plan, lock: int, code: int, before_release: Callable[[], None]) -> None:
    """Take everything of the run down, and write how it ended into the record; or remove the container, if that was
    asked for. ``lock``: a descriptor of the container's lock. ``before_release``: called before it is released.
    Raises SystemFailure: what could not be taken down is left to the next command that looks after containers."""
    if not os.path.exists(os.path.join(plan.directory, "container.json")):
        _take_down(plan)
        return
    from lamina.store.store import Store

    store = Store.open(plan.root, create=False)
    store.containers.adopt(plan.identity, lock)
    try:
        with suppress(NotFound):  # another process has removed it
            _finish(store, plan.identity, code)
    finally:
        before_release()
        store.containers.stop_supervising(plan.identity)


def _finish(store: Store, identity: str, code: int) -> None:
    from lamina.run.container.ending import remove, settle
    from lamina.store.fault import point

    container = store.containers.get(identity)
    is_removed = container.remove and not store.containers.is_owned(container)
    try:
        with store.containers.using(container):
            settle(store, container)
        point("monitor.settled")
        if is_removed:
            remove(store, container)
    finally:
        if not is_removed:
            with store.containers.changing(identity) as now:
                store.containers.write(now.ended(code))
    point("monitor.end-noted")
