"""A container's network, and the files that docker puts into it: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import NotFound, SystemFailure, UsageError
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.child import output_of
from lamina.run.options import CONTAINER, FILE, HOST_GATEWAY, NETWORKS, OWN_NETWORK
from lamina.run.runtime import find_program
from lamina.text import clean

if TYPE_CHECKING:
    from lamina.run.options import ContainerOptions
    from lamina.view.owners import Owners

NAMED, SHARED = "named", "shared"
"""The kinds of networks that have names, and of a network namespace that exists already."""
NAMESPACE, _USER_FILE = "netns", "userns"
"""Files in a bundle that keep namespaces: of the network, and the user namespace that it belongs to."""
_TUN = "/dev/net/tun"
_NO_PORTS = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]
"""Without these, pasta forwards all open ports: the container's to everyone who reaches this host, and the host's
loopback ports to the container."""
_OPEN_LOW_PORTS = "echo 0 2>/dev/null >/proc/sys/net/ipv4/ip_unprivileged_port_start || true"
"""docker's setting: every user of a container may use its ports below 1024. Root of a container of bubblewrap has no
rights in a network namespace that was made outside."""
_PASTA = (b"pasta", b"passt")
"""What names of pasta's process begin with: it runs passt.avx2 where the processor allows that."""
_LOCAL = ("127.", "::1", "0.0.0.0")
_RESOLV, _UPSTREAM = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
_FORWARDER = "169.254.1.1"
"""The address of pasta's own name server, as with podman. It is link-local: no real server has it."""
_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def choose(wanted: str, on_warning: Callable[[str], object] = lambda text: None) -> str:
    """One of NETWORKS, or SHARED: ``wanted`` or, for a name of OWN_NETWORK, pasta where it works, else none, with a
    warning. Raises UsageError, NotFound."""
    if wanted in OWN_NETWORK:
        reason = refusal()
        if reason:
            on_warning(f"the container has no network: {reason}")
        return "none" if reason else "pasta"
    if wanted.startswith((CONTAINER, FILE)):
        return SHARED
    if wanted not in NETWORKS:
        raise UsageError(f"unknown network {wanted!r:.60}", hint=f"choose one of {', '.join(NETWORKS)}")
    if wanted == "pasta" and (reason := refusal()):
        raise NotFound(reason, hint="use --network host or none")
    return wanted


def refusal() -> str:
    """Why pasta does not work here; "" if it works."""
    if not find_program("pasta"):
        return "pasta is not installed: install the package passt"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"pasta needs {_TUN}, which does not exist, or is closed to this user"
    return ""


def hosts_file(hostname: str, more: Iterable[tuple[str, str]], addresses: Iterable[str] = ()) -> str:
    """``addresses``: the container's own on its networks, if it has some."""
    lines = [f"{address}\t{name}\n" for name, address in more]
    return _HOSTS + "".join(lines) + "".join(f"{one}\t{hostname}\n" for one in tuple(addresses) or ("127.0.1.1",))


class Resolver(Value):
    """A container's resolv.conf. ``forwarded``: name servers that only this host reaches: pasta forwards queries
    to them."""

    text: str
    forwarded: tuple[str, ...] = ()


def resolver(text: str, upstream: str, network: str) -> Resolver:
    """The container's resolv.conf (pure), from the host's (``text``) and systemd-resolved's list of the servers
    behind it (``upstream``). A server on a loopback address is only reachable from the host, so it is left out. If
    no other server is left, those of ``upstream`` are used; if there are none, pasta forwards the queries."""
    if network == "host":
        return Resolver(text)
    if network == "none":
        return Resolver("")
    local = tuple(server for server in _servers(text) if _is_local(server))
    for one in (text, upstream):
        kept = "".join(f"{line}\n" for line in one.splitlines() if not any(map(_is_local, _servers(line))))
        if _servers(kept) or not local:
            return Resolver(kept)
    rest = "".join(f"{line}\n" for line in text.splitlines() if not _servers(line))
    return Resolver(f"{rest}nameserver {_FORWARDER}\n", local)


def _servers(text: str) -> list[str]:
    lines = (line.split() for line in text.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def _is_local(server: str) -> bool:
    return server.startswith(_LOCAL)


def host_resolver(network: str, on_warning: Callable[[str], object]) -> Resolver:
    """The resolv.conf of a container on this host. A warning says if pasta forwards queries."""
    found = resolver(_read(_RESOLV), _read(_UPSTREAM), network)
    if found.forwarded:
        servers = ", ".join(clean(server) for server in found.forwarded)
        on_warning(f"only this host reaches its name server ({servers}): pasta forwards the container's queries")
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


class ContainerNetwork(Value):
    """A container's network. ``kind``: one of NETWORKS, or NAMED. ``namespace``: the path of its network namespace,
    if that exists already. ``resolv``: the text of its resolv.conf. ``addresses``: its own on networks with names.
    ``gateway``: the address by which it reaches this host, if it has one. ``user_namespace``: the path of the user
    namespace that ``namespace`` belongs to, if that is the container's own."""

    kind: str
    namespace: str = ""
    resolv: str = ""
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    user_namespace: str = ""


def added_hosts(wanted: ContainerOptions, network: ContainerNetwork) -> Iterator[tuple[str, str]]:
    """The hosts of ``--add-host``. Raises UsageError (the container can't reach this host)."""
    for name, address in wanted.add_hosts:
        if address == HOST_GATEWAY:
            address = network.gateway
            if not address:
                raise UsageError(
                    f"--add-host {name}:{HOST_GATEWAY}: the container's network does not reach this host",
                    hint="give an address, or use another network",
                )
        yield name, address


@contextmanager
def connected(kind: str, resolver: Resolver, directory: str) -> Iterator[ContainerNetwork]:
    """The network ``kind``, as ``choose`` returns it, while the block runs. ``directory``: for the files of a new
    network namespace. Raises SystemFailure."""
    try:
        yield connect(kind, resolver, directory)
    finally:
        Pasta.close_left(directory)


def connect(
    kind: str,
    resolver: Resolver,
    directory: str,
    *,
    own: bool = False,
    to_host: bool = False,
    owners: Owners | None = None,
) -> ContainerNetwork:
    """As ``connected``, until ``Pasta.close_left`` is called. ``own``: a container without a network gets a namespace
    that exists before it starts. ``to_host``: the container is to reach this host by one of its addresses. ``owners``
    as ``NetworkNamespace`` takes it."""
    if kind == "pasta":
        made = Pasta(directory, forward=bool(resolver.forwarded), to_host=to_host, owners=owners)
        user = made.plain_user_path
        return ContainerNetwork(kind, made.plain_path, resolver.text, gateway=made.host, user_namespace=user)
    if own and kind == "none":
        closed = NetworkNamespace(directory, owners)
        return ContainerNetwork(kind, closed.plain_path, resolver.text, user_namespace=closed.plain_user_path)
    return ContainerNetwork(kind, resolv=resolver.text)


def shared(namespace: str, on_warning: Callable[[str], object]) -> ContainerNetwork:
    """A network namespace that exists already. Without files of another container, its names are this host's."""
    return ContainerNetwork(SHARED, namespace, host_resolver(SHARED, on_warning).text)


class NetworkNamespace:
    """A new network namespace as a file, which keeps it without a process. ``close`` ends it."""

    def __init__(self, directory: str, owners: Owners | None = None) -> None:
        """``directory``: for the file. ``owners``: the ids of a container's user namespace; it is then made here too,
        because the network belongs to it, and is kept as another file. Raises SystemFailure."""
        self.path = os.path.join(directory, NAMESPACE)
        self._user_path = os.path.join(directory, _USER_FILE) if owners else ""
        self._opened: dict[str, int] = {}
        self.close_left(directory)
        for path in filter(None, (self.path, self._user_path)):
            with reported(path), open(path, "wb"):
                pass
        if not owners:
            _check(["unshare", f"--net={self.path}", "sh", "-c", _OPEN_LOW_PORTS])
            return
        from lamina.run import owned_network

        try:
            owned_network.make(self.path, self._user_path, owners)
        except BaseException:
            self.close()
            raise

    @property
    def plain_path(self) -> str:
        """A path of the namespace without a comma: runc takes no path with one."""
        return self._plain(self.path)

    @property
    def plain_user_path(self) -> str:
        """As ``plain_path``, of the user namespace; "" if none was made here."""
        return self._plain(self._user_path)

    def _plain(self, path: str) -> str:
        if "," not in path:
            return path
        if path not in self._opened:
            with reported(path):
                self._opened[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/{os.getpid()}/fd/{self._opened[path]}"

    def close(self) -> None:
        while self._opened:
            os.close(self._opened.popitem()[1])
        self.close_left(os.path.dirname(self.path))

    @staticmethod
    def close_left(directory: str) -> None:
        """Remove what a killed process has left in ``directory``, if anything. pasta ends when the namespace's
        file is unmounted."""
        from lamina.run.published import forwarder
        from lamina.view import kernel

        try:
            forwarder.close_left(directory)
        finally:
            end_pasta(directory)
            for name in (NAMESPACE, _USER_FILE):
                path = os.path.join(directory, name)
                if os.path.exists(path):
                    if is_namespace(path):
                        kernel.unmount(path)
                    os.unlink(path)


class Pasta(NetworkNamespace):
    """A network namespace that is connected through sockets of this process's user, by pasta(1). It is a file,
    because pasta opens it after it has dropped its privileges. ``close`` ends both."""

    def __init__(
        self, directory: str, *, forward: bool = False, to_host: bool = False, owners: Owners | None = None
    ) -> None:
        """``directory``, ``owners``: as ``NetworkNamespace`` takes them. ``forward``: run a name server for the
        container (see ``resolver``). ``to_host``: the container gets an address of its own, so that it reaches this
        host by the host's (``host``). Raises SystemFailure."""
        super().__init__(directory, owners)
        self.host = ""
        if to_host:
            from lamina.run.host_gateway import host_address, own_address

            self.host = host_address()
        try:
            # by default pasta of root becomes nobody, who may not enter the namespace
            words = ["pasta", "--runas", "0", "--config-net", "--quiet", "--no-map-gw", *_NO_PORTS]
            words += ["--dns-forward", _FORWARDER] if forward else []
            if self.host:
                own = own_address(_read("/proc/net/route"))
                words += ["--address", own.address, "--netmask", "24", "--gateway", own.gateway]
            _check([*words, "--pid", os.path.join(directory, "pasta.pid"), "--netns", self.path])
        except BaseException:
            self.close()
            raise


def end_pasta(directory: str) -> bool:
    """End the pasta with a pid file in ``directory``; returns whether there was one. It also ends by itself when the
    namespace's file is unmounted, but not if that happens before it watches the file."""
    try:
        with open(os.path.join(directory, "pasta.pid"), encoding="ascii") as file:
            number = int(file.read(20))
        held = os.pidfd_open(number)
        try:  # the pid may be another process's by now
            with open(f"/proc/{number}/comm", "rb") as comm:
                if not comm.read().startswith(_PASTA):
                    return False
            signal.pidfd_send_signal(held, signal.SIGTERM)
        finally:
            os.close(held)
    except (OSError, ValueError):
        return False
    return True


def is_namespace(path: str) -> bool:
    """Whether a namespace is mounted on the file: all namespaces have the same device number."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _check(words: list[str]) -> None:
    code, said = output_of(words)
    if code:
        last = said.rpartition("\n")[2]
        raise SystemFailure(f"{words[0]}: {last:.300}", hint="use --network none or host")
