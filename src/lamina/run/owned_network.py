"""A network namespace that belongs to a container's user namespace.

The container's root has rights only in namespaces that belong to its user namespace: it may use raw sockets and
change interfaces, and a process that enters the user namespace first, as `runc exec` does, can enter the network."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.host.libc import failed, libc
from lamina.light import TYPE_CHECKING
from lamina.view import kernel

if TYPE_CHECKING:
    from lamina.view.owners import Owners

_USER, _NETWORK = 0x10000000, 0x40000000
_MADE = b"made"
_LOW_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def make(network: str, user: str, owners: Owners) -> None:
    """Make a network namespace and the user namespace that it belongs to, with the ids ``owners``, and keep both as
    the files ``network`` and ``user``, which exist. Raises SystemFailure."""
    above = privileges.nested_namespace(owners.users, owners.groups)

    def work(say: privileges.Say, wait: privileges.Wait) -> None:
        if libc().setns(above, _USER) != 0 or libc().unshare(_NETWORK) != 0:
            say(str(failed().strerror).encode())
            return
        with suppress(OSError), open(_LOW_PORTS, "w", encoding="ascii") as file:  # as for other containers
            file.write("0")
        say(_MADE)
        wait()

    try:
        with reported(network), privileges.helper_process(work) as (child, said):
            if said != _MADE:
                raise SystemFailure(
                    f"can't create a network namespace: {said.decode()}", hint="use --network none or host"
                )
            kernel.bind(f"/proc/{child}/ns/net", network, attributes=0)
            kernel.bind(f"/proc/self/fd/{above}", user, attributes=0)
    finally:
        os.close(above)
