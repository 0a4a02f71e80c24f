"""Networks that are removed: one, or all that no container is on."""

from __future__ import annotations

from lamina.errors import Conflict, LaminaError, NotFound, StoreDamaged, UsageError
from lamina.light import TYPE_CHECKING
from lamina.run.networks import place
from lamina.run.networks.catalog import Catalog
from lamina.run.networks.connection import remove_bridge, running_on
from lamina.run.networks.listing import Filters, is_builtin, used_names
from lamina.run.networks.record import is_network_name
from lamina.store.journal import note

if TYPE_CHECKING:
    from lamina.run.networks.record import Network
    from lamina.store.store import Store


def remove(store: Store, word: str) -> None:
    """Remove a network, by name or id; also one whose record is damaged. Containers that have ended keep its name,
    and can't be started until it is made again. Raises NotFound, Conflict (a container runs on it), UsageError (it
    is one of lamina's own), SystemFailure."""
    catalog = Catalog(store)
    with catalog.locked():
        try:
            network = catalog.get(word)
        except StoreDamaged:
            catalog.remove(word)
            return
        if is_builtin(network):
            raise UsageError(
                f"{network.name} is a pre-defined network and cannot be removed", hint="name another one"
            )
        users = [container.name for container, _ in running_on(store, network.name)]
        if users:
            raise Conflict(
                f"the network {network.name} is in use by running containers: {', '.join(users):.300}",
                hint="stop them, or take them off it with `lamina network disconnect`",
            )
        _remove(store, catalog, network)


def _remove(store: Store, catalog: Catalog, network: Network) -> None:
    where = place.existing(store)
    if where is not None:
        remove_bridge(where, network)
    catalog.remove(network.name)
    note(store.paths.root, "network", "destroy", network.id, {"name": network.name, "type": network.driver})


def prune(store: Store, filters: Filters) -> tuple[list[str], list[LaminaError]]:
    """Remove the networks that no container names, running or not; returns the removed ones and the errors. Raises
    SystemFailure."""
    catalog = Catalog(store)
    removed: list[str] = []
    failed: list[LaminaError] = []
    with catalog.locked():
        used = used_names(store)
        for network in catalog.every():
            if network.name in used or not filters.accept(network, is_used=False):
                continue
            try:
                _remove(store, catalog, network)
                removed.append(network.name)
            except NotFound:
                continue
            except LaminaError as error:
                failed.append(error)
    return removed, failed


def exists(store: Store, word: str) -> bool:
    """Whether the store has the network, by name or id; also if its record is damaged."""
    try:
        Catalog(store).get(word)
    except NotFound:
        return False
    except StoreDamaged:
        return is_network_name(word)
    return True
