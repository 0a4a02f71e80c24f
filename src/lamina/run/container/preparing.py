"""What a container's program needs before it can start: the mounted union, the network, the runtime spec."""

from __future__ import annotations

from lamina.errors import Unsupported
from lamina.host import privileges
from lamina.light import TYPE_CHECKING, replace
from lamina.run import network
from lamina.run.bundle import Joined, Task, check_architecture, prepare_spec
from lamina.run.container.ending import release_networks
from lamina.run.container.record import sandbox_of, wanted_of
from lamina.run.options import HOST_GATEWAY, OWN_NETWORK, SHARED_KINDS, publishes
from lamina.run.rootfs import Inside
from lamina.run.spec import check_words
from lamina.run.supported import check_supported
from lamina.view.owners import AS_STATED, Owners

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.run.granted_user import Caller
    from lamina.run.network import ContainerNetwork
    from lamina.run.options import ContainerOptions, Mount
    from lamina.run.runtime import Runtime
    from lamina.scan.directory import OnWarning
    from lamina.source.stack import Stack
    from lamina.store.containers import Container
    from lamina.store.store import Store


class Preparation:
    """``container``: its record, as far as it is known. ``wanted``: its options. ``sandbox``: to be mounted."""

    def __init__(
        self, store: Store, stack: Stack, container: Container, runtime: Runtime, on_warning: OnWarning
    ) -> None:
        """Raises UsageError, Unsupported."""
        self.store, self.stack, self.on_warning = store, stack, on_warning
        self.wanted = _with_mounts(container, wanted_of(container), stack.config.volumes)
        runtime.check_path(store.paths.root)
        check_supported(self.wanted, runtime)
        owners, self._caller = _owners(container, self.wanted, runtime)
        self.container = replace(container, users=owners.users, groups=owners.groups)
        self.sandbox = sandbox_of(store, self.container, runtime)
        self._joined = Joined()

    def note_mount(self, view: str) -> None:
        """The union is mounted, in this ``view``."""
        self.container = replace(self.container, runtime=self.sandbox.runtime.program, view=view)

    def connect(self) -> ContainerNetwork:
        """Connect the container to its networks; ``networking.release`` undoes it. Refuses a program that this host
        can't run, before anything is made for it. Raises UsageError, Unsupported, NotFound, Conflict,
        SystemFailure."""
        config, container = self.stack.config, self.container
        words = (*container.command, *config.env, *config.volumes, config.working_dir, config.user)
        check_words(container.image, words)
        named = self.wanted.networks
        shared = self._shared()
        kind = network.NAMED if named else network.choose(self.wanted.network, self.on_warning)
        if not self.sandbox.is_machine:
            with Inside(self.sandbox.directories.rootfs) as inside:
                check_architecture(self._task(network.ContainerNetwork(kind)), inside)
        if kind == network.SHARED:
            return network.shared(shared, self.on_warning)
        if named:
            from lamina.run.container import networking

            found = networking.connect(self.store, container, self.wanted, self._network_owners, self.on_warning)
        else:
            resolver = network.host_resolver(kind, self.on_warning)
            own = publishes(self.wanted) and self.wanted.network in OWN_NETWORK
            bundle, owners = self.sandbox.directories.bundle, self._network_owners
            found = network.connect(kind, resolver, bundle, own=own, to_host=self._to_host, owners=owners)
        if found.namespace and (config.exposed_ports or self.wanted.expose or publishes(self.wanted)):
            from lamina.run.container import ports

            ports.publish(self.store, container, self.wanted, config.exposed_ports, found.namespace)
        return found

    @property
    def _network_owners(self) -> Owners | None:
        """The ids of the user namespace that the network is to belong to; None for this process's. bubblewrap makes
        its user namespaces itself."""
        return None if self.sandbox.is_bubblewrap else self.sandbox.owners or None

    @property
    def _to_host(self) -> bool:
        return any(address == HOST_GATEWAY for _, address in self.wanted.add_hosts)

    def _shared(self) -> str:
        """Find what the container shares with others; the path of the network namespace, "" for its own."""
        if not any(":" in getattr(self.wanted, kind) for kind in SHARED_KINDS):
            return ""
        from lamina.run.container.joining import shared

        found = shared(self.store, self.wanted)
        self._joined = found.joined
        return found.network

    def disconnect(self) -> None:
        """Undo ``connect``. Raises SystemFailure."""
        release_networks(self.store, self.container)
        network.Pasta.close_left(self.sandbox.directories.bundle)

    def spec(self, net: ContainerNetwork) -> dict[str, Any]:
        """The runtime spec; the record says what had to be made for it. Raises as ``prepare_spec``."""
        with Inside(self.sandbox.directories.rootfs) as inside:
            mounts = self._mounts(inside)
            spec, made = prepare_spec(replace(self._task(net), mounts=mounts), inside)
        if any("U" in mount.options for mount in mounts):
            from lamina.run.volumes.chown import give_to_user

            give_to_user(mounts, spec["process"]["user"], self.sandbox.owners)
        self.container = replace(self.container, made=(*self.container.made, *made))
        return spec

    def write(self) -> None:
        """Write the record."""
        self.store.containers.write(self.container, lasting=not self.container.remove)

    def _task(self, net: ContainerNetwork) -> Task:
        config, command = self.stack.config, self.container.command
        return Task(self.sandbox, self.wanted, config, command, net, caller=self._caller, joined=self._joined)

    def _mounts(self, inside: Inside) -> Sequence[Mount]:
        if not self.wanted.mounts:
            return ()
        from lamina.run.volumes.attach import attached

        return attached(self.store, self.container, self.wanted.mounts, inside, self.wanted.view)


def _with_mounts(container: Container, wanted: ContainerOptions, declared: Sequence[str]) -> ContainerOptions:
    """What was asked, with the mounts that the container has."""
    if container.mounts == () or (container.mounts is None and not (wanted.mounts or declared)):
        return wanted
    from lamina.run.volumes.attach import asked_for

    return replace(wanted, mounts=tuple(asked_for(container, wanted.mounts, declared)))


def _owners(container: Container, wanted: ContainerOptions, runtime: Runtime) -> tuple[Owners, Caller]:
    """The ids of the container's user namespace, and the caller's ids in there, if it asked for some. Raises
    Unsupported."""
    if not wanted.userns.kind:
        return AS_STATED, None
    from lamina.run import userns

    if wanted.userns.kind == "keep-id":
        return userns.keep_id(wanted.userns)
    if not privileges.is_root():
        raise Unsupported("only root of the host may use --userns auto", hint="use --userns keep-id, or leave it out")
    if runtime.is_bubblewrap:
        raise Unsupported(
            "bubblewrap does not support --userns auto", hint="leave --userns out, or install runc or crun"
        )
    return userns.auto(container.id), None
