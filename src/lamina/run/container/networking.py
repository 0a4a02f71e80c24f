"""The network of a container: pasta's, this host's, none, or networks with names."""

from __future__ import annotations

from lamina.host import privileges
from lamina.light import TYPE_CHECKING
from lamina.run.host_gateway import host_address
from lamina.run.network import NAMED, ContainerNetwork, NetworkNamespace, host_resolver, refusal
from lamina.run.networks import connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.run.options import ContainerOptions
    from lamina.store.containers import Container
    from lamina.store.store import Store
    from lamina.view.owners import Owners


def connect(
    store: Store,
    container: Container,
    wanted: ContainerOptions,
    owners: Owners | None,
    on_warning: Callable[[str], object],
) -> ContainerNetwork:
    """Connect the container, which this process supervises, to the networks that it asks for by name. ``ending``
    undoes it. ``owners`` as ``NetworkNamespace`` takes it. Raises as ``networks.connection.connect``."""
    bundle = store.containers.path(container.id, "bundle")
    namespace = NetworkNamespace(bundle, owners)
    try:
        found = connection.connect(store, container, wanted.networks, namespace.path, on_warning=on_warning)
    except BaseException:
        namespace.close()
        raise
    host = "" if found.servers else host_resolver(NAMED, on_warning).text
    resolv = connection.resolv_conf(found.servers, host)
    gateway = _gateway(found.gateways)
    user = namespace.plain_user_path
    return ContainerNetwork(NAMED, namespace.plain_path, resolv, found.addresses, gateway, user)


def _gateway(gateways: Sequence[str]) -> str:
    """The address by which a container on networks reaches this host: of the bridge, which is on this host or, for a
    plain user, in a namespace whose pasta leads to this host's address; "" if its networks are internal."""
    if not gateways or privileges.is_root():
        return next((one for one in gateways if ":" not in one), gateways[0] if gateways else "")
    return "" if refusal() else host_address()
