"""The process of a monitor, from its start to the container's end. The engine is loaded only at the end."""

from __future__ import annotations

from contextlib import suppress

from lamina.errors import NotFound
from lamina.light import TYPE_CHECKING
from lamina.run.monitor import main as monitor

if TYPE_CHECKING:
    from lamina.run.monitor.plan import Plan


def main() -> None:
    raise SystemExit(monitor.main(finish))


def finish(plan: Plan, lock: int, code: int) -> None:
    """Take everything of the run down, and write how it ended into the record; or remove the container, if that was
    asked for. ``lock``: a descriptor of the container's lock. Raises SystemFailure."""
    from lamina.run.container.ending import remove, settle
    from lamina.store.fault import point
    from lamina.store.store import Store

    store = Store.open(plan.root, create=False)
    store.containers.adopt(plan.identity, lock)
    try:
        with suppress(NotFound):  # another process has removed it
            container = store.containers.get(plan.identity)
            with store.containers.using(container):
                settle(store, container)
            point("monitor.settled")
            if container.remove and not store.containers.is_owned(container):
                remove(store, container)
            else:
                with store.containers.changing(plan.identity) as now:
                    store.containers.write(now.ended(code))
            point("monitor.end-noted")
    finally:
        store.containers.stop_supervising(plan.identity)
