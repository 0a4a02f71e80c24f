"""Roots: what must not be collected now because somebody works with it.

One file a session: a line about the process, then a digest a line, appended before the store is looked at. A root
whose process is gone counts for an hour more, so that an interrupted pull can go on where it stopped.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.errors import UsageError
from lamina.files import remove, write_all
from lamina.light import Value
from lamina.lock import locked
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store.fault import point
from lamina.store.paths import Paths

GRACE = 3600.0  # seconds
_VIEW = "view "


class Root(Value):
    """``changed`` in seconds since 1970. ``mount``: a root that lives as long as this is a mount, not a process;
    ``view``: what was mounted there."""

    name: str
    pid: int
    purpose: str
    alive: bool
    changed: float
    digests: frozenset[Digest]
    mount: str = ""
    view: str = ""


class Roots:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def create(self, purpose: str, *, mount: str = "") -> str:
        """A new root of this process, or of what is going to be mounted at ``mount``; its name."""
        name = f"{os.getpid()}-{os.urandom(6).hex()}"
        head = {"pid": os.getpid(), "started": started(os.getpid()), "boot": boot_id(), "purpose": purpose}
        if mount:
            head["mount"] = mount
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(descriptor, write_own(head).encode() + b"\n")
        finally:
            os.close(descriptor)
        point("root.created")
        return name

    @contextmanager
    def mounting(self, purpose: str, digests: list[Digest], *, mount: str) -> Iterator[str]:
        """A root that protects ``digests`` while this block mounts something, and goes on as long as that stays
        mounted. Gone where the block fails."""
        name = self.create(purpose, mount=mount)
        try:
            self.extend(name, digests)
            yield name
        except BaseException:
            self.remove(name)
            raise

    def extend(self, name: str, digests: list[Digest]) -> None:
        """Protect these from now on. Under the store's lock: a gc has either seen them or has not begun."""
        with locked(self._paths.lock):
            self._append(name, "".join(f"{digest}\n" for digest in digests))
        point("root.extended")

    def note_view(self, name: str, view: str) -> None:
        """Say what stands at the root's mount."""
        self._append(name, f"{_VIEW}{view}\n")

    def _append(self, name: str, text: str) -> None:
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        remove(self._path(name))
        point("root.removed")

    def __iter__(self) -> Iterator[Root]:
        for name in sorted(os.listdir(self._paths.roots)):
            try:
                with open(self._path(name), "rb") as file:
                    lines = file.read().decode("utf-8", "replace").split("\n")
                changed = os.stat(self._path(name)).st_mtime
            except FileNotFoundError:
                continue
            yield _parse(name, lines, changed)

    def protected(self, *, grace: float = GRACE) -> frozenset[Digest]:
        """All digests that a living process, or one that died less than ``grace`` seconds ago, works with."""
        now = time.time()
        found: set[Digest] = set()
        for root in self:
            if root.alive or now - root.changed < grace:
                found |= root.digests
        return frozenset(found)

    def drop_dead(self, *, grace: float = GRACE) -> int:
        """Remove roots whose process is gone for longer than ``grace`` seconds; how many."""
        now = time.time()
        dead = [root.name for root in self if not root.alive and now - root.changed >= grace]
        for name in dead:
            self.remove(name)
        return len(dead)

    def _path(self, name: str) -> str:
        return os.path.join(self._paths.roots, name)


def _parse(name: str, lines: list[str], changed: float) -> Root:
    try:
        head = read_own(lines[0])
        pid, began, boot = int(head["pid"]), head["started"], head["boot"]
        purpose, mount = str(head["purpose"]), str(head.get("mount", ""))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError):
        pid, began, boot, purpose, mount = 0, None, None, "unreadable", ""
    digests, view = set(), ""
    for line in lines[1:]:
        if line.startswith(_VIEW):
            view = line.removeprefix(_VIEW)
            continue
        try:
            digests.add(Digest.parse(line))
        except UsageError:
            continue  # the last line of a process that died while it wrote
    alive = pid > 0 and boot == boot_id() and started(pid) == began and began is not None
    if mount and not mount.startswith(f"/proc/{pid}/"):  # that one goes with its process
        alive = boot == boot_id() and (is_mount(mount) or alive)
    return Root(name, pid, purpose, alive, changed, frozenset(digests), mount, view)


def is_mount(path: str) -> bool:
    """As os.path.ismount, and true as well of a FUSE mount whose server is gone, or that lets nobody but its owner in
    (root neither)."""
    if os.path.ismount(path):
        return True
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.ENOTCONN) and _in_mountinfo(path)
    return False


def is_dead(path: str) -> bool:
    """Whether this is a FUSE mount whose server is gone."""
    try:
        os.statvfs(path)  # the one question that the kernel never answers from what it has heard before
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _in_mountinfo(path: str) -> bool:
    escaped = "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.split(" ")[4] == escaped for line in file)
    except OSError:
        return False


def boot_id() -> str:
    """What tells this boot of the machine from others; "" where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """When a process started, in a form that only compares; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]  # ended, and nobody has asked how
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat") or os.name == "nt":
        return "unknown" if os.name == "nt" else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
