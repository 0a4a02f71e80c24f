"""Root files: lists of the objects that gc must keep because a process works with them.

Each session has one file: a line about the process, then one digest a line. A process appends a digest before it
checks whether the store has that object, and holds a lock on its root file. The kernel releases that lock when the
process ends, in whatever pid namespace it ran. After that, the root file still counts for one hour, so that an
interrupted pull can resume.

A *pin* is a root without a process. It has a name and a purpose; it stays until it is removed, or until nobody has
used it for the time that it states.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lamina.errors import UsageError
from lamina.host.files import names_of_files, remove, replace_file, write_all
from lamina.host.lock import fcntl, locked, unheld
from lamina.host.process_identity import boot_id, start_time
from lamina.host.temporary import Temporary, is_temporary
from lamina.light import TYPE_CHECKING, Value, pattern, replace
from lamina.spec.digest import Digest
from lamina.spec.json import read_own, write_own
from lamina.store import clock
from lamina.store.fault import pieces, point
from lamina.store.paths import Paths

if TYPE_CHECKING:
    from lamina.host import mountinfo

GRACE = 3600.0  # seconds
BUILD_PIN = "build-cache"
"""The name of the pin for the layers of the build cache."""
_VIEW = "view "
_MOUNT_IDENTITY = "stands "
_PIN = "pin-"
_PIN_NAME = pattern(r"[a-z0-9][a-z0-9_-]{0,99}")


class Root(Value):
    """``alive``: its process holds it, or its mount exists. ``changed``: nanoseconds since 1970, by the clock of the
    store's file system. ``mount``: set if the root lives as long as this mount, and not as long as a process;
    ``view``: what was mounted there; ``mount_identity``: how to tell that from a later mount over it ("" if nothing
    was noted). ``pin``: the name of a pin, "" for other roots; ``lasts``: the seconds without use after which it is
    no longer effective (None: it always is)."""

    name: str
    pid: int
    purpose: str
    alive: bool
    changed: int
    digests: frozenset[Digest]
    mount: str = ""
    view: str = ""
    mount_identity: str = ""
    pin: str = ""
    lasts: float | None = None


class Roots:
    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._held: dict[str, Temporary] = {}

    def create(self, purpose: str, *, mount: str = "") -> str:
        """Create a root of this process, or of what will be mounted at ``mount``; returns its name. This process
        holds the root until ``remove`` or ``release``."""
        name = f"{os.getpid()}-{os.urandom(6).hex()}"
        pid = os.getpid()
        head = {"pid": pid, "started": start_time(pid), "boot": boot_id(), "purpose": purpose, "held": True}
        if mount:
            from lamina.host import mountinfo

            head["mount"] = self._within(mount)
            head["namespace"] = mountinfo.namespace()
        held = Temporary(self._paths.roots, name)  # a temporary name until it is locked and complete
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
        """Create a root that protects ``digests`` while this block mounts something, and then as long as the mount
        exists. Removed if the block fails."""
        name = self.create(purpose, mount=mount)
        try:
            self.extend(name, digests)
            yield name
        except BaseException:
            self.remove(name)
            raise
        if mount.startswith(f"/proc/{os.getpid()}/"):  # the mount lives as long as this process, also after an exec
            os.set_inheritable(self._held[name].descriptor, True)
        else:
            self.release(name)

    def pin(self, name: str, purpose: str, digests: Iterable[Digest], *, lasts: float | None = None) -> None:
        """Protect these digests, and no others, under this name: until ``unpin``, or until nobody has used the pin
        for ``lasts`` seconds. A pin outlives the process and a reboot. Raises UsageError, OSError."""
        path = self._path(_pinned(name))
        head = {"pid": 0, "started": None, "boot": "", "purpose": purpose, "pin": name, "lasts": lasts}
        text = "".join(f"{line}\n" for line in (write_own(head), *digests))
        with locked(self._paths.lock):  # a gc has either seen the pin or has not begun
            replace_file(path, pieces([text.encode()], "pin.written"))
        point("pin.renamed")

    def use(self, name: str) -> bool:
        """Record that the pin was used just now. Returns False if there is no such pin. Raises UsageError,
        OSError."""
        try:
            with locked(self._paths.lock):
                os.utime(self._path(_pinned(name)))
        except FileNotFoundError:
            return False
        return True

    def unpin(self, name: str) -> bool:
        """Remove the pin. Returns False if there is no such pin. Raises UsageError, OSError."""
        return remove(self._path(_pinned(name)))

    def pins(self, purpose: str = "") -> list[Root]:
        """The pins with this purpose ("" for all), including those that no longer count. Raises OSError."""
        return [root for root in self if root.pin and purpose in ("", root.purpose)]

    def release(self, name: str) -> None:
        """Release the lock of the root: from now on it counts like the root of a process that has ended."""
        held = self._held.pop(name, None)
        if held is not None:
            held.close()

    def renew(self, name: str, purpose: str, digests: list[Digest]) -> str:
        """Replace this root with a new root of this process that lists only these digests; returns the new name."""
        new = self.create(purpose)
        try:
            self.extend(new, digests)
        except BaseException:
            self.remove(new)
            raise
        self.remove(name)
        return new

    def extend(self, name: str, digests: list[Digest]) -> None:
        """Protect these digests from now on. Takes the store's lock: a gc has either seen them or has not begun."""
        with locked(self._paths.lock):
            self._append(name, "".join(f"{digest}\n" for digest in digests))
        point("root.extended")

    def note_view(self, name: str, view: str, mount_identity: str = "") -> None:
        """Record which view is mounted at the root's mount."""
        self._append(name, f"{_VIEW}{view}\n{_MOUNT_IDENTITY}{mount_identity}\n")

    def _append(self, name: str, text: str) -> None:
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        remove(self._path(name))
        self.release(name)
        point("root.removed")

    def __iter__(self) -> Iterator[Root]:
        from lamina.host import mountinfo

        seen = mountinfo.MountCache()
        for name in names_of_files(self._paths.roots):
            if is_temporary(name) or name.endswith(".held"):
                continue  # not complete yet; or a lock file of a root, where there is no flock
            found = self._read(self._path(name))
            if found is not None:
                lines, changed, held = found
                root = _parse(name, lines, changed, held, self._paths.root, seen)
                if root.pin and root.lasts is not None and not clock.is_younger(changed, root.lasts, self._now()):
                    root = replace(root, alive=False)
                yield root

    def _now(self) -> int:
        return clock.now(self._paths)

    def _read(self, path: str) -> tuple[list[str], int, bool] | None:
        """The lines of a root, when it changed, and whether a process holds it. None if it is gone or is not a
        regular file. Raises OSError if it can't be read: what it lists is then unknown."""
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

    def effective(self, *, grace: float = GRACE) -> list[Root]:
        """The roots that protect objects now: of running processes and mounts, of those that ended less than
        ``grace`` seconds ago, and pins (the grace time does not apply to pins)."""
        roots, now = list(self), clock.now(self._paths)  # in this order, so that no root changed after now
        return [root for root in roots if _is_effective(root, grace, now)]

    def protected(self, *, grace: float = GRACE) -> frozenset[Digest]:
        """All digests that the effective roots list."""
        return frozenset().union(*(root.digests for root in self.effective(grace=grace)))

    def ended(self, *, grace: float = GRACE) -> list[Root]:
        """The roots that no longer count."""
        roots, now = list(self), clock.now(self._paths)
        return [root for root in roots if not _is_effective(root, grace, now)]

    def remove_ended(self, *, grace: float = GRACE) -> int:
        """Remove the roots that no longer count; returns how many."""
        ended = self.ended(grace=grace)
        for root in ended:
            self.remove(root.name)
        return len(ended)

    def _within(self, mount: str) -> str:
        """Return a path inside the store relative to the store's top directory (the store may be moved); other paths
        unchanged."""
        top = self._paths.root + os.sep
        return mount.removeprefix(top) if mount.startswith(top) else mount

    def _path(self, name: str) -> str:
        return os.path.join(self._paths.roots, name)


def _parse(name: str, lines: list[str], changed: int, held: bool, top: str, seen: mountinfo.MountCache) -> Root:
    try:
        head = read_own(lines[0])
        pid, began, boot = int(head["pid"]), head["started"], head["boot"]
        purpose, mount, space = str(head["purpose"]), str(head.get("mount", "")), str(head.get("namespace", ""))
        locks = fcntl is not None and head.get("held") is True
        pin, lasts = str(head.get("pin", "")), head.get("lasts")
        lasts = None if lasts is None else float(lasts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        pid, began, boot, purpose, mount, space, locks = 0, None, None, "unreadable", "", "", False
        pin, lasts = "", None
    digests, view, mount_identity = set(), "", ""
    for line in lines[1:]:
        if line.startswith(_VIEW):
            view = line.removeprefix(_VIEW)
            continue
        if line.startswith(_MOUNT_IDENTITY):
            mount_identity = line.removeprefix(_MOUNT_IDENTITY)
            continue
        try:
            digests.add(Digest.parse(line))
        except UsageError:
            continue  # the last line, cut off when its process died
    # The lock was checked before this. A process that releases its root has mounted by then, so look for the mount
    # only now. A process of an older lamina holds no lock: then only its pid can be checked.
    alive = held or (not locks and pid > 0 and boot == boot_id() and start_time(pid) == began is not None)
    mount = os.path.join(top, mount) if mount else ""
    if mount and not mount.startswith(f"/proc/{pid}/"):  # such a mount goes with its process
        alive = boot == boot_id() and (alive or seen.is_mounted_in(mount, space))
    if pin and name != _PIN + pin:
        pin, lasts = "", None  # nobody could remove it by that name
    return Root(
        name, pid, purpose, alive or bool(pin), changed, frozenset(digests), mount, view, mount_identity, pin, lasts
    )


def _is_effective(root: Root, grace: float, now: int) -> bool:
    return root.alive or (not root.pin and clock.is_younger(root.changed, grace, now))


def _pinned(name: str) -> str:
    """The file name of the root of a pin. Raises UsageError."""
    if not _PIN_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r:.150} is not a valid name for a pin", hint="use small letters, digits, - and _, at most 100"
        )
    return _PIN + name
