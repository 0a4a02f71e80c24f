"""The mount table, from /proc/PID/mountinfo (proc_pid_mountinfo(5)): of this mount namespace, or of every namespace
that this process can see. Only on Linux; elsewhere it is empty.

Paths are ``str`` with surrogate escapes, as the kernel reports them: no symlinks in them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lamina.light import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from typing import Final

_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO


class Mount(Value):
    """One line of mountinfo. ``root`` is the mounted directory of the file system. ``options`` are those of the file
    system, still escaped."""

    device: str
    root: str
    target: str
    kind: str
    source: str
    options: str

    @property
    def lowers(self) -> list[str]:
        """The lower directories of an overlay, as named when it was mounted."""
        found = []
        if self.kind == "overlay":
            for option in self.options.split(","):
                key, _, value = option.partition("=")
                if key in ("lowerdir", "lowerdir+", "datadir+"):
                    names = value.split(":") if key == "lowerdir" else [value]
                    found += [_unescaped(name) for name in names if name]
        return found


def mounts(process: int | str = "self") -> list[Mount]:
    """List the mounts that a process sees, oldest first. Raises OSError if its mountinfo can't be read."""
    try:
        with open(f"/proc/{process}/mountinfo", "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        if process == "self":
            return []  # not Linux
        raise
    return [_parse(line) for line in text.split("\n") if line]


def below(directory: str) -> list[str]:
    """List the mount points below a directory (given without symlinks), the latest first. Cheap if there are none,
    unless the directory's name occurs in other mount points. Raises OSError."""
    with open("/proc/self/mountinfo", "rb") as file:
        if os.fsencode(os.path.basename(directory)) not in file.read():
            return []
    return [one.target for one in mounts() if one.target.startswith(directory + os.sep)][::-1]


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, root, target, *_ = before.split(" ")
    kind, source, options = after.split(" ", 2)
    return Mount(device, _unescaped(root), _unescaped(target), kind, _unescaped(source), options)


def _unescaped(word: str) -> str:
    if "\\" not in word:
        return word
    # three octal digits follow each backslash; `re` is avoided because it is slow to load
    first, *more = word.split("\\")
    return first + "".join(chr(int(one[:3], 8)) + one[3:] for one in more)


def is_mount(path: str) -> bool:
    """Whether something is mounted at ``path``, after resolving symlinks.

    Unlike os.path.ismount, it recognises a FUSE mount whose server has died or that only its owner may enter, and a
    bind mount within one file system. Raises OSError.
    """
    real = os.path.realpath(path)
    return any(one.target == real for one in mounts())


def is_dead(path: str) -> bool:
    """Whether this is a FUSE mount whose server has died."""
    try:
        os.statvfs(path)  # the kernel never answers statvfs from a cache
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def namespace(process: int | str = "self") -> str:
    """Return an identifier of the mount namespace of a process; "" if it can't be read."""
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return ""


def sees_all_processes() -> bool:
    """Whether /proc shows every process of the host. If so, a namespace without a process in /proc has no process
    at all."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def all_namespaces() -> Iterator[tuple[str, str, list[Mount]]]:
    """Yield each mount namespace that a process in /proc is in, once, this process's first: its identifier, the pid
    of a process in it (or "self"), and its mounts. A namespace whose identifier can't be read may come more than
    once."""
    known = set()
    for name in ("self", *filter(str.isdigit, os.listdir("/proc"))) if os.path.isdir("/proc") else ():
        word = namespace(name)
        if word and word in known:
            continue
        known.add(word)
        try:
            found = mounts(name)
        except OSError:
            known.discard(word)  # the process has ended or belongs to another user: try another one
            continue
        yield word, name, found


class MountCache:
    """A cache of mount points. It only remembers what was found mounted; anything else is looked up each time,
    because it may have been mounted since."""

    def __init__(self) -> None:
        self._here: set[str] = set()
        self._elsewhere: set[tuple[str, str]] = set()

    def is_mounted(self, path: str) -> bool:
        """Whether something is mounted at ``path``, as ``is_mount``."""
        real = os.path.realpath(path)
        if real not in self._here:
            self._here = {one.target for one in mounts()}
        return real in self._here

    def is_mounted_in(self, target: str, word: str) -> bool:
        """Whether something is mounted at ``target`` (a path without symlinks), in this mount namespace or in the one
        with the identifier ``word``. True if that can't be known, because no process of that namespace is visible and
        /proc does not show all processes."""
        if self.is_mounted(target):
            return True
        if word in ("", namespace()):
            return False
        if (word, target) in self._elsewhere:
            return True
        found = {name: {one.target for one in there} for name, _, there in all_namespaces()}
        self._elsewhere = {(name, one) for name, there in found.items() for one in there}
        return target in found[word] if word in found else not sees_all_processes()
