"""Where the bridges of a store are: in the network of this host, or, for a plain user, in a network namespace of the
store that pasta connects.

A plain user may not make a bridge on the host. All containers of a store that are on networks with names are
therefore in one user namespace, and the bridges in a network namespace that belongs to it. A small process, the
holder, keeps both; it is started when the first such container starts, and ended when the last one has ended. If it
was killed, the next container finds the namespaces through aardvark-dns, and starts it again."""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import LaminaError, SystemFailure
from lamina.host import privileges
from lamina.host.files import replace_file, reported
from lamina.host.lock import acquire, share
from lamina.host.process_identity import boot_id, start_time
from lamina.light import TYPE_CHECKING, Value, signal
from lamina.run.networks.catalog import Catalog, digest
from lamina.spec.json import read_own, write_own

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from typing import Any

    from lamina.store.store import Store

_NEW_NETWORK, _NEW_MOUNTS = 0x40000000, 0x00020000
_RESOLV = "/etc/resolv.conf"


class Place(Value):
    """``directory``: for the files of aardvark-dns and of the holder. ``pid``: the holder; 0: the bridges are where
    this process is."""

    directory: str
    pid: int = 0

    def entrance(self, opened: ExitStack) -> Callable[[], None]:
        """A function that enters the namespaces of the bridges, for good. Raises SystemFailure (the holder has
        ended)."""
        if not self.pid:
            return lambda: None
        spaces = []
        with reported(f"/proc/{self.pid}/ns"):
            for kind in ("mnt", "net"):
                spaces.append(os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
                opened.callback(os.close, spaces[-1])

        def enter() -> None:
            for one in spaces:
                enter_namespace(one)

        return enter

    @property
    def routes(self) -> str:
        """The directory of /proc with the routes where the bridges are."""
        return f"/proc/{self.pid or 'self'}/net"


def enter_namespace(descriptor: int) -> None:
    """Raises OSError."""
    from lamina.host.libc import failed, libc

    if libc().setns(descriptor, 0) != 0:
        raise failed()


def within(place: Place, function: Callable[[], object]) -> bool:
    """Call a function where the bridges are; whether it succeeded. Raises SystemFailure (the holder has ended)."""
    from contextlib import ExitStack

    if not place.pid:
        try:
            function()
        except OSError:
            return False
        return True
    with ExitStack() as opened:
        return in_child(place.entrance(opened), function)


def in_child(enter: Callable[[], object], function: Callable[[], object]) -> bool:
    """Call two functions in a forked child; whether neither raised an OSError and the second did not return False."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            enter()
            code = int(function() is False)
        except (OSError, LaminaError):
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def existing(store: Store) -> Place | None:
    """The place of the bridges; None if this user's holder does not live."""
    if privileges.is_root():
        return Place(os.path.join("/run/lamina-networks", digest(store.paths.root)[:16]))
    pid = _holder(_directory(store))
    return Place(_directory(store), pid) if pid else None


def _directory(store: Store) -> str:
    return os.path.join(Catalog(store).directory, "run")


def _holder(directory: str) -> int:
    """The pid of the process that holds the namespaces; 0 if it has ended."""
    try:
        with open(os.path.join(directory, "holder.json"), "rb") as file:
            value = read_own(file.read(1 << 12).decode())
        pid = int(value["pid"])
        if value["boot"] == boot_id() and start_time(pid) == value["started"] is not None:
            return pid
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0


_entered = -1
"""A descriptor: its shared lock keeps the holder, for containers that this process is about to start."""


def enter_or_make(store: Store, on_warning: Callable[[str], object]) -> None:
    """As ``enter``; makes the user namespace and the holder if there are none. The holder stays until this process
    has ended, or calls ``end``. Raises SystemFailure."""
    global _entered
    with Catalog(store).locked():
        if not enter(store):
            privileges.become_root()
        made(store, on_warning)
        path = os.path.join(Catalog(store).directory, "starting")
        with reported(path):
            _entered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            share(_entered)


def _is_unwanted(store: Store) -> bool:
    """Whether no process is about to start a container; this one is not any more."""
    global _entered
    if _entered >= 0:
        os.close(_entered)
        _entered = -1
    path = os.path.join(Catalog(store).directory, "starting")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return acquire(descriptor, path, wait=False)
    finally:
        os.close(descriptor)


def enter(store: Store) -> bool:
    """Make a plain user root of the user namespace that the store's networks belong to, for good. Returns False, with
    nothing changed, if there is none. Raises as ``privileges.join``."""
    directory = _directory(store)
    for pid in (_holder(directory), aardvark(directory)):
        if pid:
            privileges.join(pid, mounts=False)
            return True
    return False


def aardvark(directory: str) -> int:
    """The pid of the name server with this directory; 0 if it does not run."""
    own = os.path.join(directory, "aardvark-dns")
    try:
        with open(os.path.join(own, "aardvark.pid"), encoding="ascii") as file:
            pid = int(file.read(20))
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            return pid if os.fsencode(own) in line.read(1 << 16).split(b"\0") else 0
    except (OSError, ValueError):
        return 0


def made(store: Store, on_warning: Callable[[str], object]) -> Place:
    """The place of the bridges; a plain user's holder is started if it does not live. Call it under the lock of the
    catalog, as root of a user namespace (``enter``). Raises SystemFailure."""
    found = existing(store)
    if found is not None:
        return found
    directory = _directory(store)
    with reported(directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    orphan = aardvark(directory)
    if not orphan:
        _clear(directory)

    def hold() -> dict[str, Any]:
        warnings: list[str] = []
        pid = os.getpid()
        _hold(directory, orphan, warnings.append)
        return {"pid": pid, "warnings": warnings, "started": start_time(pid), "boot": boot_id()}

    answer = privileges.as_root(hold, stays=True)
    for text in answer.pop("warnings"):
        on_warning(text)
    replace_file(os.path.join(directory, "holder.json"), [write_own(answer).encode()], lasting=False)
    return Place(directory, answer["pid"])


def _hold(directory: str, orphan: int, on_warning: Callable[[str], object]) -> None:
    """Enter the namespaces of the bridges: new ones, or for the network that of the process ``orphan``. In the
    holder."""
    from lamina.run import network

    _unshare(_NEW_MOUNTS)
    if orphan:
        with reported(f"/proc/{orphan}/ns/net"):
            opened = os.open(f"/proc/{orphan}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    else:
        reason = network.refusal()
        if reason:
            on_warning(f"the networks of this user have no way out: {reason}")
            namespace = network.NetworkNamespace(directory)
        else:
            resolver = network.host_resolver("pasta", on_warning)
            namespace = network.Pasta(directory, forward=bool(resolver.forwarded), to_host=True)
            _resolve(directory, resolver.text)
        with reported(namespace.path):
            opened = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    with reported(directory):
        enter_namespace(opened)
        set_up("lo")
    os.close(opened)


def _resolve(directory: str, text: str) -> None:
    """Let the name server ask those that pasta reaches: its resolv.conf says which."""
    from lamina.view import kernel

    path = os.path.join(directory, "resolv.conf")
    with reported(path), open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
    with suppress(LaminaError, OSError):
        kernel.bind(path, os.path.realpath(_RESOLV))


def _unshare(flags: int) -> None:
    from lamina.host.libc import failed, libc

    if libc().unshare(flags) != 0:
        raise SystemFailure(f"can't create a namespace: {failed().strerror}", hint="check the limits of this user")


def set_up(interface: str) -> None:
    """Bring an interface of this process's network up (netdevice(7)). Raises OSError."""
    import _socket
    import fcntl
    import struct

    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(control.fileno(), 0x8914, struct.pack("16sh", interface.encode(), 1))
    finally:
        control.close()


def end(store: Store) -> None:
    """End the holder and what belongs to it, unless another process is about to start a container. No container is on
    a network. Call it under the lock of the catalog."""
    if privileges.is_root():
        place = existing(store)
        if place is not None and not aardvark(place.directory):
            _remove(place.directory)
        return
    if not _is_unwanted(store):
        return
    from lamina.run import network

    directory = _directory(store)
    pid = _holder(directory)
    network.end_pasta(directory)
    for one in (aardvark(directory), pid):
        if one:
            with suppress(OSError):
                os.kill(one, signal.SIGKILL if one == pid else signal.SIGTERM)
    _clear(directory)


def _clear(directory: str) -> None:
    """Remove the files of a holder that has ended."""
    _remove(directory)
    with reported(directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)


def _remove(directory: str) -> None:
    from shutil import rmtree

    rmtree(directory, ignore_errors=True)
