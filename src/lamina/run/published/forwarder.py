"""Start and end the process that forwards the published ports of a container.

It goes on without the lamina that started it, as the container does. A lock on a file in the container's bundle tells
whether it lives; the file holds its pid."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.host.files import reported
from lamina.light import TYPE_CHECKING, signal
from lamina.run.published.shown import Binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.run.options import Port
    from lamina.run.published.sockets import Bound

_NAME = "ports"
_STARTER = """\
import sys
sys.path.insert(0, sys.argv[1])
from lamina.run.published.forward import main
main(int(sys.argv[2]))
"""
_NETWORK = 0x40000000  # CLONE_NEWNET


def publish(ports: Sequence[Port], directory: str, namespace: str) -> tuple[Binding, ...]:
    """Bind the ports on this host, and forward them to the network namespace at the path ``namespace``; what they
    are bound to. ``directory``: of the container's bundle. Raises Conflict (a port is in use), AccessDenied,
    UsageError, Unsupported, SystemFailure."""
    if not ports:
        return ()
    from lamina.run.published.sockets import bind

    close_left(directory)
    with ExitStack() as opened:
        bound = bind(ports, opened)
        _start(bound, directory, namespace, opened)
    return tuple(one.binding for one in bound)


def _start(bound: Sequence[Bound], directory: str, namespace: str, opened: ExitStack) -> None:
    from lamina import errors
    from lamina.host.lock import acquire
    from lamina.run.child import in_memory

    def keep(descriptor: int) -> int:
        opened.callback(os.close, descriptor)
        return descriptor

    path = os.path.join(directory, _NAME)
    with reported(path):
        lock = keep(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        acquire(lock, path)
    lines = [f"{one.binding.protocol} {one.descriptor} {one.binding.port}" for one in bound]
    lines.insert(0, f"lock {lock}")
    if privileges.is_root():
        lines.insert(0, "nobody")
    with reported("memory"):
        described = keep(in_memory("".join(line + "\n" for line in lines).encode()))
    with reported(namespace):
        network = keep(os.open(namespace, os.O_RDONLY | os.O_CLOEXEC))
    package = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
    command = [sys.executable, "-I", "-S", "-c", _STARTER, package, str(described)]
    failed, said = os.pipe()
    keep(failed)
    try:
        child = os.fork()
        if child == 0:
            _become(command, network, lock, [one.descriptor for one in bound] + [described, lock], said)
    finally:
        os.close(said)
    os.waitpid(child, 0)
    why = b""
    while more := os.read(failed, 1000):  # it ends when the program is started, or the process has ended
        why += more
    if why:
        raise SystemFailure(
            f"ports can't be forwarded: {why.decode(errors='replace')}", hint="check the limits of this user"
        )


def _become(command: list[str], network: int, lock: int, inherited: Sequence[int], said: int) -> None:
    """Run the command as a process of its own, in the network namespace. In a forked child; never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # nobody has to wait for the process
        from lamina.host.libc import failed, libc

        os.write(lock, str(os.getpid()).encode())
        if libc().setns(network, _NETWORK) != 0:
            raise failed()
        with suppress(OSError):
            set_loopback_up()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        _close_others({*inherited, said, 0, 1, 2})
        for number in inherited:
            os.set_inheritable(number, True)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execv(command[0], command)
    except OSError as error:
        os.write(said, str(error.strerror).encode())
    except BaseException as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        os.write(said, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(1)


def _close_others(kept: set[int]) -> None:
    """Keep descriptors of the caller, which may be inheritable, from the new process."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the descriptor of this listing
                os.set_inheritable(int(name), False)


def set_loopback_up() -> None:
    """Raises OSError."""
    import _socket
    import fcntl
    import struct

    one = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(one.fileno(), 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP (netdevice(7))
    finally:
        one.close()


def close_left(directory: str) -> None:
    """End the process that forwards for this bundle, if there is one, and wait until its ports are free. Raises
    SystemFailure."""
    path = os.path.join(directory, _NAME)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    from lamina.host.lock import acquire

    try:
        with reported(path):
            if not acquire(descriptor, path, wait=False):
                if not _kill(os.pread(descriptor, 20, 0)):
                    raise SystemFailure(
                        "the process that forwards ports runs where this command can't reach it",
                        hint="run this command in the pid namespace in which the container was started",
                    )
                acquire(descriptor, path)
            os.unlink(path)
    finally:
        os.close(descriptor)


def _kill(said: bytes) -> bool:
    """End a process, and wait for its end. ``said``: the pid of a process that holds the lock. Returns False if it
    can't be found. It may end meanwhile; its pid is not taken for that of another process, because the descriptor is
    opened before the check."""
    import select

    try:
        number = int(said)
        held = os.pidfd_open(number)
    except (OSError, ValueError):
        return False
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            if b"lamina.run.published" not in file.read(1 << 12):
                return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
        ended = select.poll()  # the kernel may free the lock before the ports
        ended.register(held, select.POLLIN)
        ended.poll()
    except OSError:
        pass  # it has ended: the lock is free
    finally:
        os.close(held)
    return True
