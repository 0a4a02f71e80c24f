"""Directories of this host in a machine: a virtiofsd for each, which ends with the machine.

A read-only one is mounted read-only where only its virtiofsd sees it: what the machine does can't change that.
"""

from __future__ import annotations

import _socket
import os
from contextlib import suppress

from lamina.host.libc import libc
from lamina.light import TYPE_CHECKING, Value, signal

if TYPE_CHECKING:
    from typing import NoReturn

PROGRAMS = ("virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_PDEATHSIG = 1  # prctl(2)
_BACKLOG = 1


class Shared(Value):
    """``program``: virtiofsd. ``source``: an absolute path. ``name``: of the socket, in the bundle."""

    program: str
    source: str
    name: str
    read_only: bool = False


def start(shared: Shared, bundle: str, log: int) -> int:
    """Start its virtiofsd; the pid. ``log``: a descriptor for its messages. Raises OSError."""
    place = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        path = f"/proc/self/fd/{place}/{shared.name}"  # the path of a socket has 107 bytes at most
        with suppress(FileNotFoundError):
            os.unlink(path)
        listening.bind(path)
        listening.listen(_BACKLOG)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _become(shared, listening.fileno(), log, parent)
        return child
    finally:
        listening.close()
        os.close(place)


def _become(shared: Shared, listening: int, log: int, parent: int) -> NoReturn:
    try:
        os.setsid()
        libc().prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == parent:
            for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
                with suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            for place, descriptor in enumerate((null, log, log)):
                os.dup2(descriptor, place)
            if shared.read_only:
                from lamina.run.bubblewrap.namespace import new_mounts
                from lamina.view.kernel import bind

                new_mounts()
                bind(shared.source, shared.source)
            os.set_inheritable(listening, True)
            command = [shared.program, f"--fd={listening}", "-o", f"source={shared.source}", "-o", "cache=auto"]
            os.execv(command[0], [*command, "-o", "xattr", "-o", "sandbox=chroot", "-f"])
    except BaseException as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        with suppress(OSError):
            os.write(log, f"virtiofsd: {error}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(1)
