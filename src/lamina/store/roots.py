"""Roots: what must not be collected now because somebody works with it.

One file a session: a line about the process, then a digest a line, appended before the store is looked at. The
process holds a lock on its root: nobody holds that of a process that is gone, in any pid namespace. What such a root
lists counts for an hour more, so that an interrupted pull can go on where it stopped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.errors import UsageError
from lamina.host.files import names_of_files, remove, write_all
from lamina.host.lock import fcntl, locked, unheld
from lamina.host.temporary import Temporary, is_temporary
from lamina.light import TYPE_CHECKING, Value
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store.fault import point
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.host import mountinfo

GRACE = 3600.0  # seconds
_VIEW = "view "
_STANDS = "stands "


class Root(Value):
    """``alive``: its process holds it, or its mount is there. ``changed`` in nanoseconds since 1970, by the clock of
    the store's file system. ``mount``: a root that lives as long as this is a mount, not a process; ``view``: what
    was mounted there, ``stands`` how that is told from what others mount over it ("" where nothing was noted)."""

    name: str
    pid: int
    purpose: str
    alive: bool
    changed: int
    digests: frozenset[Digest]
    mount: str = ""
    view: str = ""
    stands: str = ""


class Roots:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._held: dict[str, Temporary] = {}

    def create(self, purpose: str, *, mount: str = "") -> str:
        """A new root of this process, or of what is going to be mounted at ``mount``; its name. This process holds it
        until ``remove`` or ``let_go``."""
        name = f"{os.getpid()}-{os.urandom(6).hex()}"
        pid = os.getpid()
        head = {"pid": pid, "started": started(pid), "boot": boot_id(), "purpose": purpose, "held": True}
        if mount:
            from lamina.host import mountinfo

            head["mount"] = self._within(mount)
            head["namespace"] = mountinfo.namespace()
        held = Temporary(self._paths.roots, name)  # under another name until it is held and whole
        try:
            write_all(held.descriptor, write_own(head).encode() + b"\n")
            held.put(self._path(name))
        except BaseException:
            held.close()
            raise
        self._held[name] = held
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
        if mount.startswith(f"/proc/{os.getpid()}/"):  # goes with this process, whatever program it runs
            os.set_inheritable(self._held[name].descriptor, True)
        else:
            self.let_go(name)

    def let_go(self, name: str) -> None:
        """Hold the root no more: it counts as one of a process that is gone."""
        held = self._held.pop(name, None)
        if held is not None:
            held.close()

    def renew(self, name: str, purpose: str, digests: list[Digest]) -> str:
        """A new root of this process in place of this one, which lists only these; its name."""
        new = self.create(purpose)
        try:
            self.extend(new, digests)
        except BaseException:
            self.remove(new)
            raise
        self.remove(name)
        return new

    def extend(self, name: str, digests: list[Digest]) -> None:
        """Protect these from now on. Under the store's lock: a gc has either seen them or has not begun."""
        with locked(self._paths.lock):
            self._append(name, "".join(f"{digest}\n" for digest in digests))
        point("root.extended")

    def note_view(self, name: str, view: str, stands: str = "") -> None:
        """Say what stands at the root's mount."""
        self._append(name, f"{_VIEW}{view}\n{_STANDS}{stands}\n")

    def _append(self, name: str, text: str) -> None:
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        remove(self._path(name))
        self.let_go(name)
        point("root.removed")

    def __iter__(self) -> Iterator[Root]:
        from lamina.host import mountinfo

        seen = mountinfo.Seen()
        for name in names_of_files(self._paths.roots):
            if is_temporary(name) or name.endswith(".held"):
                continue  # being made; where there is no flock, the lock of a root
            found = self._read(self._path(name))
            if found is not None:
                lines, changed, held = found
                yield _parse(name, lines, changed, held, self._paths.root, seen)

    def _read(self, path: str) -> tuple[list[str], int, bool] | None:
        """The lines of a root, when it changed, and whether somebody holds it; None for what is no regular file, or
        gone. Raises OSError: what a root lists that may not be read, nobody knows."""
        try:
            state = os.lstat(path)
            if not stat.S_ISREG(state.st_mode):
                return None
            with open(path, "rb") as file:
                lines = file.read().decode("utf-8", "replace").split("\n")
            with unheld(path) as free:
                return lines, state.st_mtime_ns, not free
        except FileNotFoundError:
            return None

    def counting(self, *, grace: float = GRACE) -> list[Root]:
        """The roots of what lives, or died less than ``grace`` seconds ago."""
        from lamina.store import clock

        roots, now = list(self), clock.now(self._paths)  # in this order: none changed after now
        return [root for root in roots if root.alive or clock.is_younger(root.changed, grace, now)]

    def protected(self, *, grace: float = GRACE) -> frozenset[Digest]:
        """All digests that these list."""
        return frozenset().union(*(root.digests for root in self.counting(grace=grace)))

    def dead(self, *, grace: float = GRACE) -> list[Root]:
        """The roots that no longer count."""
        from lamina.store import clock

        roots, now = list(self), clock.now(self._paths)
        return [root for root in roots if not root.alive and not clock.is_younger(root.changed, grace, now)]

    def drop_dead(self, *, grace: float = GRACE) -> int:
        """Remove the roots that no longer count; how many."""
        dead = self.dead(grace=grace)
        for root in dead:
            self.remove(root.name)
        return len(dead)

    def _within(self, mount: str) -> str:
        """A place in the store is told from the store's top: the store may be moved."""
        top = self._paths.root + os.sep
        return mount.removeprefix(top) if mount.startswith(top) else mount

    def _path(self, name: str) -> str:
        return os.path.join(self._paths.roots, name)


def _parse(name: str, lines: list[str], changed: int, held: bool, top: str, seen: mountinfo.Seen) -> Root:
    try:
        head = read_own(lines[0])
        pid, began, boot = int(head["pid"]), head["started"], head["boot"]
        purpose, mount, space = str(head["purpose"]), str(head.get("mount", "")), str(head.get("namespace", ""))
        locks = fcntl is not None and head.get("held") is True
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        pid, began, boot, purpose, mount, space, locks = 0, None, None, "unreadable", "", "", False
    digests, view, stands = set(), "", ""
    for line in lines[1:]:
        if line.startswith(_VIEW):
            view = line.removeprefix(_VIEW)
            continue
        if line.startswith(_STANDS):
            stands = line.removeprefix(_STANDS)
            continue
        try:
            digests.add(Digest.parse(line))
        except UsageError:
            continue  # the last line of a process that died while it wrote
    # whether it is held was asked before: who lets go of it has mounted by then, and that is looked for only now.
    # A process of an older lamina holds nothing: its number is all there is to ask
    alive = held or (not locks and pid > 0 and boot == boot_id() and started(pid) == began is not None)
    mount = os.path.join(top, mount) if mount else ""
    if mount and not mount.startswith(f"/proc/{pid}/"):  # that one goes with its process
        alive = boot == boot_id() and (alive or seen.stands(mount, space))
    return Root(name, pid, purpose, alive, changed, frozenset(digests), mount, view, stands)


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
