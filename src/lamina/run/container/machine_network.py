"""The network of a machine: QEMU runs in a container's network namespace, and opens there what the machine opens.

What the machine reaches, and what reaches it, is therefore as for a container: this host's loopback is out of reach.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING
from lamina.run.host_gateway import own_address
from lamina.run.machine.machine import UserNetwork
from lamina.run.network import NAMED
from lamina.run.published.syntax import all_ports, expand_exposed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.run.container.preparing import Preparation
    from lamina.run.network import ContainerNetwork

_ROUTES = "/proc/net/route"


def network_for(made: Preparation, outside: ContainerNetwork) -> UserNetwork | None:
    """The network between QEMU and the machine; None without one. ``outside``: the container's. On a network with
    others, these reach the ports that are published or exposed. Raises UsageError."""
    if not outside.namespace:
        return None
    wanted, exposed = made.wanted, made.stack.config.exposed_ports
    ports = [(port.port, port.protocol) for port in all_ports(wanted, exposed)]
    if outside.kind == NAMED:
        ports += expand_exposed((*exposed, *wanted.expose))
    routes = _routes()
    # pasta may have given the first one to the namespace
    used = (own_address(routes).address, *outside.addresses, *_servers(outside.resolv), *wanted.dns)
    own = own_address(routes, used)
    return UserNetwork(
        f"{own.address.rpartition('.')[0]}.0/24",
        own.gateway,
        own.address,
        tuple(one for one in dict.fromkeys(ports) if one[1] != "sctp"),
    )


def _servers(resolv: str) -> Iterator[str]:
    for line in resolv.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            yield words[1]


def _routes() -> str:
    try:
        with open(_ROUTES, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
