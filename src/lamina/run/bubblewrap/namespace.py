"""Namespaces for a program that runs as another user than root, and can make mounts all the same."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from functools import partial

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.host.libc import failed, libc
from lamina.run.child import CANNOT_RUN

_USER, _PROCESSES, _NETWORK, _MOUNTS = 0x10000000, 0x20000000, 0x40000000, 0x00020000
_RECURSIVE, _PRIVATE = 0x4000, 0x40000  # mount(2)
_SET_FLAGS, _UP = 0x8914, 1  # netdevice(7)
_DEATH_SIGNAL, _DUMPABLE = 1, 4  # prctl(2)
_NO_IDS = b"ids"
_LIMIT = "check the kernel setting user.max_user_namespaces"


def user_namespace_of(above: int, uid: int, gid: int) -> int:
    """A descriptor of a new user namespace below that of the descriptor ``above``, with the same ids. It belongs
    to ``uid``, who has all capabilities in it. Raises Unsupported (no such ids), SystemFailure."""
    try:
        with privileges.helper_process(partial(_make_owned, above, uid, gid)) as (_, said):
            if said == _NO_IDS:
                raise privileges.no_such_ids(uid, gid)
            if not said:
                raise SystemFailure("no user namespace in a user namespace", hint=_LIMIT)
            # the process in the namespace is killed with its parent
            return os.open(f"/proc/{said.decode()}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"no user namespace in a user namespace: {error.strerror}", hint=_LIMIT) from None


def _make_owned(above: int, uid: int, gid: int, say: privileges.Say, wait: privileges.Wait) -> None:
    """Write the pid of a process in the new namespace to the pipe, and wait. In a forked child."""
    _set(above, _USER)
    if not (privileges.has_id(uid) and privileges.has_id(gid, group=True)):
        say(_NO_IDS)
        return
    become(0, 0)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(uid, gid)
            libc().prctl(_DUMPABLE, 1)  # else root outside owns the files of its id maps
            libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
            if libc().unshare(_USER) == 0:
                os.write(go, b"1")
                wait()
        finally:
            os._exit(1)
    os.close(go)
    if os.read(ready, 1):
        privileges.write_maps(child, *privileges.same_ids())
        say(str(child).encode())
        wait()


def enter(namespace: int) -> None:
    """Enter a user namespace below this process's, with all capabilities in it. For good. Raises OSError."""
    _set(namespace, _USER)


def become_first_process(record: str, parent: int) -> None:
    """Continue in a child process that is the first of a new pid namespace: signals without a handler have no
    effect on it, even from a terminal. Its pid outside is written to the file ``record``. This process waits for
    the child and exits with its exit code; the child is killed with this process, or with its ``parent``."""
    libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(CANNOT_RUN)  # it was killed before
    if libc().unshare(_PROCESSES) != 0:
        raise failed()
    go, ready = os.pipe()
    child = os.fork()
    if child == 0:
        libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
        os.close(ready)
        if not os.read(go, 1):
            os._exit(CANNOT_RUN)
        os.close(go)
        return
    try:
        with open(record, "w", encoding="ascii") as file:
            file.write(str(child))
        os.write(ready, b"1")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(128 - code if code < 0 else code)
    finally:
        os._exit(CANNOT_RUN)


def become_orphan(record: str, parent: int, go: int) -> None:
    """As ``become_first_process``, but this process ends at once, so that the child becomes its ``parent``'s, which
    is a subreaper: no Python stays between the two. The child continues when a byte comes from the descriptor ``go``,
    which the parent writes when this process has ended; it is killed with the parent."""
    libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(CANNOT_RUN)  # it was killed before
    if libc().unshare(_PROCESSES) != 0:
        raise failed()
    child = os.fork()
    if child:
        try:
            with open(record, "w", encoding="ascii") as file:
                file.write(str(child))
            os._exit(0)
        finally:
            os._exit(CANNOT_RUN)
    if not os.read(go, 1):
        os._exit(CANNOT_RUN)
    os.close(go)
    libc().prctl(_DEATH_SIGNAL, int(signal.SIGKILL))


def enter_namespace(path: str, kind: int) -> None:
    """Enter the namespace at ``path``. ``kind``: as setns(2) takes it. For good. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set(descriptor, kind)
    finally:
        os.close(descriptor)


def new_network() -> None:
    """Enter a new network namespace with a loopback interface, owned by this process's user namespace. For good.
    Raises OSError."""
    import fcntl
    import socket
    import struct

    if libc().unshare(_NETWORK) != 0:
        raise failed()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))


def new_mounts() -> None:
    """Enter a new mount namespace, which no other process sees. For good. Raises OSError."""
    if libc().unshare(_MOUNTS) != 0:
        raise failed()
    if libc().mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None) != 0:
        raise failed()


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Become another user, without capabilities unless it is root. Raises OSError."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _set(descriptor: int, kind: int) -> None:
    if libc().setns(descriptor, kind) != 0:
        raise failed()
