"""What a machine has of this host's files: one virtiofsd, which ends with the machine, shares them all.

It sees a directory of its own, in which each shared directory or file is mounted under a number. What is read-only is
mounted so where only this virtiofsd sees it: nothing that the machine does can change that. The directory itself is
read-only too, and virtiofsd can't leave it.
"""

from __future__ import annotations

import _socket
import os
from contextlib import suppress

from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.machine import SHARED, SHARED_SOCKET
from lamina.run.machine.process import become_part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

PROGRAMS = ("virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_BACKLOG = 1
_OPTIONS = ("cache=auto", "xattr", "sandbox=chroot", "announce_submounts")
_WORDS = (*(word for option in _OPTIONS for word in ("-o", option)), "-f")


class Shared(Value):
    """``source``: an absolute path. ``name``: in the shared directory. ``alone``: without what is mounted below
    it."""

    source: str
    name: str
    read_only: bool = False
    alone: bool = False


def start(program: str, shared: Sequence[Shared], bundle: str, log: int, held: int) -> int:
    """Start virtiofsd (``program``); its pid. ``log``: a descriptor for its messages. ``held``: of the lock that it
    is to hold. Raises OSError."""
    top = os.path.join(bundle, SHARED)
    os.makedirs(top, mode=0o700, exist_ok=True)
    for one in shared:
        _make_point(one, os.path.join(top, one.name))
    place = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        path = f"/proc/self/fd/{place}/{SHARED_SOCKET}"  # the path of a socket has 107 bytes at most
        with suppress(FileNotFoundError):
            os.unlink(path)
        listening.bind(path)
        listening.listen(_BACKLOG)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _become(program, shared, top, listening.fileno(), log, held, parent)
        return child
    finally:
        listening.close()
        os.close(place)


def _make_point(shared: Shared, path: str) -> None:
    """The source may have become a file, or a directory, since the last start."""
    if os.path.isdir(shared.source):
        if not os.path.isdir(path):
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.mkdir(path, 0o700)
        return
    if os.path.isdir(path):
        os.rmdir(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _become(
    program: str, shared: Sequence[Shared], top: str, listening: int, log: int, held: int, parent: int
) -> NoReturn:
    try:
        become_part(parent, log)
        _mount(shared, top)
        source = os.open(top, os.O_PATH | os.O_DIRECTORY)
        for descriptor in (listening, held, source):
            os.set_inheritable(descriptor, True)
        # its options are lists with commas, which the path may have; it takes no symlink
        os.execv(program, [program, f"--fd={listening}", "-o", f"source=/proc/self/fd/{source}/.", *_WORDS])
    except BaseException as error:  # noqa: BLE001  (a forked child must end here, but with a message)
        with suppress(OSError):
            os.write(log, f"virtiofsd: {error}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(1)


def _mount(shared: Sequence[Shared], top: str) -> None:
    """Mount everything, in a mount namespace of this process."""
    from lamina.run.bubblewrap.namespace import new_mounts
    from lamina.view import kernel

    new_mounts()
    kernel.bind(top, top)
    for one in shared:
        path = os.path.join(top, one.name)
        if one.alone:
            kernel.bind(one.source, path, attributes=kernel.READ_ONLY if one.read_only else 0)
            continue
        kernel.place(kernel.copied(one.source), path)
        if one.read_only:
            kernel.make_read_only(path)
