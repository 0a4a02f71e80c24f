"""The published ports of a container: bound and forwarded when it starts, and what `network.json` says of them."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING, Value
from lamina.run.networks.state import read_state, write_state
from lamina.run.options import publishes
from lamina.run.published.shown import Binding, from_json, port_map, table_cell, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


class Ports(Value):
    """The ports of a container that runs. ``exposed``: those of its image and of ``--expose``, published or not."""

    bindings: tuple[Binding, ...] = ()
    exposed: tuple[str, ...] = ()

    @property
    def cell(self) -> str:
        """The column PORTS of `ps`."""
        return table_cell(self.bindings, self.exposed)

    @property
    def map(self) -> dict[str, Any]:
        """``NetworkSettings.Ports`` of `inspect`."""
        return port_map(self.bindings, self.exposed)


def ports_of(store: Store, container: Container) -> Ports:
    """The ports that the container has now; none if it does not run."""
    state = read_state(store.containers.path(container.id)) if container.may_run else {}
    if not state or not store.containers.is_running(container):
        return Ports()
    exposed = state.get("exposed")
    return Ports(
        from_json(state.get("ports")),
        tuple(word for word in exposed if isinstance(word, str)) if isinstance(exposed, list) else (),
    )


def publish(
    store: Store, container: Container, wanted: ContainerOptions, of_image: Iterable[str], namespace: str
) -> None:
    """Publish the ports that were asked for, and write them and the exposed ones into network.json. ``of_image``: the
    ports that the image exposes. ``namespace``: the path of the container's network namespace. The end of the
    namespace's file (``NetworkNamespace.close_left``) ends what forwards. Raises Conflict (a port is in use),
    AccessDenied, UsageError, Unsupported, SystemFailure."""
    directory = store.containers.path(container.id)
    state = read_state(directory) | {"exposed": list(dict.fromkeys((*of_image, *wanted.expose)))}
    if publishes(wanted):
        from lamina.run.published import forwarder
        from lamina.run.published.syntax import all_ports

        bundle = store.containers.path(container.id, "bundle")
        state["ports"] = to_json(forwarder.publish(all_ports(wanted, of_image), bundle, namespace))
    write_state(directory, state)
