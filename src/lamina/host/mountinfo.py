"""What is mounted, as proc_pid_mountinfo(5) tells it: in this mount namespace, or in each one that this
process can see. Linux; elsewhere nothing is mounted.

Paths are ``str`` with surrogate escapes, exactly as the kernel has them: no symlink on the way.
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
    """``root``: the directory of the file system that is shown. ``options``: those of the file system, as they stand
    there (escaped)."""

    device: str
    root: str
    target: str
    kind: str
    source: str
    options: str

    @property
    def lowers(self) -> list[str]:
        """The lower directories of an overlay as they were named when it was mounted."""
        found = []
        if self.kind == "overlay":
            for option in self.options.split(","):
                key, _, value = option.partition("=")
                if key in ("lowerdir", "lowerdir+", "datadir+"):
                    names = value.split(":") if key == "lowerdir" else [value]
                    found += [_unescaped(name) for name in names if name]
        return found


def mounts(process: int | str = "self") -> list[Mount]:
    """The mounts that a process sees, oldest first. Raises OSError where it can't be read."""
    try:
        with open(f"/proc/{process}/mountinfo", "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        if process == "self":
            return []  # not Linux
        raise
    return [_parse(line) for line in text.split("\n") if line]


def below(directory: str) -> list[str]:
    """Where something is mounted below a directory, which is given without links on the way: the last one first.
    Cheap where that is nowhere and the directory's name is in no other path. Raises OSError."""
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
    first, *more = word.split("\\")  # each is followed by three octal digits: without `re`, which takes long to load
    return first + "".join(chr(int(one[:3], 8)) + one[3:] for one in more)


def is_mount(path: str) -> bool:
    """Whether something is mounted at ``path``, links on the way followed. Also true of a FUSE mount whose server is
    gone, or that lets nobody but its owner in, and of a directory that is shown again on its own file system:
    os.path.ismount knows none of these. Raises OSError."""
    real = os.path.realpath(path)
    return any(one.target == real for one in mounts())


def is_dead(path: str) -> bool:
    """Whether this is a FUSE mount whose server is gone."""
    try:
        os.statvfs(path)  # the one question that the kernel never answers from what it has heard before
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def namespace(process: int | str = "self") -> str:
    """A word for the mount namespace of a process, the same for the same one; "" where that can't be told."""
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return ""


def sees_all() -> bool:
    """Whether /proc shows every process of the machine, so that a namespace which no process here is in has none."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def everywhere() -> Iterator[tuple[str, str, list[Mount]]]:
    """Each mount namespace that a process here is in, once, this process's first: its word, a process in it (as /proc
    has it), its mounts. One whose word can't be told may come more than once."""
    known = set()
    for name in ("self", *filter(str.isdigit, os.listdir("/proc"))) if os.path.isdir("/proc") else ():
        word = namespace(name)
        if word and word in known:
            continue
        known.add(word)
        try:
            found = mounts(name)
        except OSError:
            known.discard(word)  # this process has ended, or is another user's: another one may tell
            continue
        yield word, name, found


class Seen:
    """What was seen mounted. Only that is remembered: what was not there is looked for anew each time, because it may
    have been mounted since."""

    def __init__(self) -> None:
        self._here: set[str] = set()
        self._elsewhere: set[tuple[str, str]] = set()

    def here(self, path: str) -> bool:
        """As ``is_mount``."""
        real = os.path.realpath(path)
        if real not in self._here:
            self._here = {one.target for one in mounts()}
        return real in self._here

    def stands(self, target: str, word: str) -> bool:
        """Whether something is mounted at ``target``, a path without links, in this namespace or in that called
        ``word``. True where that can't be known: no process of that namespace is seen, and not all are."""
        if self.here(target):
            return True
        if word in ("", namespace()):
            return False
        if (word, target) in self._elsewhere:
            return True
        found = {name: {one.target for one in there} for name, _, there in everywhere()}
        self._elsewhere = {(name, one) for name, there in found.items() for one in there}
        return target in found[word] if word in found else not sees_all()
