"""The network of a container: pasta's, this host's, none, or networks with names."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING
from lamina.run.network import NAMED, ContainerNetwork, NetworkNamespace, host_resolver
from lamina.run.networks import connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store


def connect(
    store: Store, container: Container, wanted: ContainerOptions, on_warning: Callable[[str], object]
) -> ContainerNetwork:
    """Connect the container, which this process supervises, to the networks that it asks for by name. ``ending``
    undoes it. Raises as ``networks.connection.connect``."""
    bundle = store.containers.path(container.id, "bundle")
    namespace = NetworkNamespace(bundle)
    try:
        found = connection.connect(store, container, wanted.networks, namespace.path, on_warning=on_warning)
    except BaseException:
        namespace.close()
        raise
    host = "" if found.servers else host_resolver(NAMED, on_warning).text
    resolv = connection.resolv_conf(found.servers, host)
    return ContainerNetwork(NAMED, namespace.plain_path, resolv, found.addresses)
