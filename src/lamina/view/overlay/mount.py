"""The union of an image as a real directory: the kernel's overlay over parts (one for each layer if possible),
read-only, or with an upper directory that takes all changes (copy-up). Linux. Through FUSE if the kernel refuses
that, and for images that are in no store.

A mount is kept from gc by a root in the store that lives as long as the mount does. The mount of a plain user is in
a user namespace that a small process holds: its path begins with /proc/PID/root, and it ends with that process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lamina.errors import Conflict, LaminaError, NotFound, SystemFailure, Unsupported, UsageError
from lamina.host import mountinfo, privileges
from lamina.host.files import reported
from lamina.host.lock import locked
from lamina.host.mountinfo import is_dead, is_mount
from lamina.light import TYPE_CHECKING, Value, as_dict, pattern, replace
from lamina.settings import VIEWS
from lamina.source.stack import Stack
from lamina.store.layers import StoredLayer
from lamina.store.unions import MOUNT_POINT_PREFIX
from lamina.view import kernel
from lamina.view.overlay.lower import (
    MAPPED,
    coverable_directory,
    mount_image,
    sweep,
    tree_parts,
    unmount_quietly,
    unpack_tree,
    write_images,
)
from lamina.view.owners import AS_STATED, Owners
from lamina.view.parts import new_mount_point, parts_of, stack_directory

if TYPE_CHECKING:
    from lamina.store.store import Store

_HELD = pattern("/proc/([0-9]+)/root/")
_TEMPORARY = "lamina-mount-"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/@~._-")
LOOK = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES


class Mounted(Value):
    """One mount. ``name`` is the image's name when it was mounted. ``root`` is the name of its root file in the
    store, "" if the store was read-only. ``view`` is how it was mounted. ``dead``: its server has died."""

    name: str
    target: str
    root: str
    view: str = ""
    dead: bool = False

    @property
    def holder(self) -> int:
        """The pid of the process that holds an unprivileged user's mount, else 0."""
        held = _HELD.match(self.target)
        return int(held[1]) if held else 0

    @property
    def inside(self) -> str:
        """The mount point as the user named it, without /proc/PID/root."""
        held = _HELD.match(self.target)
        return self.target[held.end() - 1 :] if held else self.target


class Top(Value):
    """The writable layer of a mount.

    ``upper`` takes all changes; "": it is read-only, with mapped owners. ``work`` is for the kernel, on the same file
    system. ``devices``: device nodes work. ``volatile``: changes need not survive a crash of the host. ``owners``
    maps the image's ids for a user namespace that runs on this mount; what is written has the mapped ids too.
    ``scratch`` is a directory that root needs for such a mapping.
    """

    upper: str
    work: str
    devices: bool = False
    volatile: bool = False
    owners: Owners = AS_STATED
    scratch: str = ""


def mount(store: Store, stack: Stack, target: str = "", *, name: str = "", view: str = "") -> Mounted:
    """Mount the union read-only at ``target``, an empty directory, which is created if it does not exist. "" means a
    new directory in the store, which is removed with the mount.

    ``name`` is what `mounts` shows. ``view`` is one of VIEWS; the default is the store's, else the first that works
    here. The mount of an unprivileged user is returned as the path under which others see it: /proc/PID/root/TARGET.

    Raises Conflict (already mounted, not empty), Unsupported (kernel too old, not Linux), SystemFailure (permission
    denied).
    """
    _check_linux()
    name, view = name or stack.name, view or store.view
    if not store.is_writable:
        return _mount_unrecorded(store, stack, target, name, view)
    ours = target or new_mount_point(store, stack)
    if not view and not all(isinstance(layer, StoredLayer) for layer in stack.layers):
        view = "fuse"  # the other views need layers of the store
    if view == "fuse" or privileges.may_mount():
        return _mount(store, stack, ours, name, view)

    def held() -> dict[str, str]:
        where = target or _private_mount_point(store, stack)
        return as_dict(_mount(store, stack, where, name, view, seen_at=f"/proc/{os.getpid()}/root"))

    try:
        return Mounted(**privileges.as_root(held, stays=True))
    except (SystemFailure, Unsupported) as error:
        if view:
            raise
        refused = error
    try:
        return _mount(store, stack, ours, name, "fuse")
    except (SystemFailure, Unsupported) as error:
        raise Unsupported(f"{refused.message}; fuse: {error.message}", hint=error.hint) from None


def _mount_unrecorded(store: Store, stack: Stack, target: str, name: str, view: str) -> Mounted:
    """Mount through FUSE, which only needs to read the store. No root file records the mount; it is found in
    mountinfo."""
    from lamina.view.fuse import fuse_mount

    if view not in ("", "fuse"):
        raise SystemFailure(
            f"{store.location} is read-only, and this view must write to it",
            hint="leave out --view, or use --view fuse",
        )
    if not target:
        import tempfile

        with reported():
            target = tempfile.mkdtemp(prefix=_TEMPORARY)
    target = os.path.realpath(target)
    with reported(target):
        _check_free(target)
        with _new_directory(target, 0o777):
            _check_empty(target)
            fuse_mount.mount(stack, target, source=_word_of(store) + "".join(c if c in _PLAIN else "_" for c in name))
    return Mounted(name, target, "", "fuse")


def _word_of(store: Store) -> str:
    """Return the prefix of the source of the store's unrecorded mounts; it does not depend on the path of
    the store."""
    state = os.stat(store.paths.root)
    return f"lamina:{state.st_dev:x}:{state.st_ino:x}:"


def _private_mount_point(store: Store, stack: Stack) -> str:
    """Return a mount point for a mount in this namespace only: a short path that nobody needs here, else a new one in
    the store, so that unmounting it can't affect another mount."""
    return coverable_directory(store.paths.root) or new_mount_point(store, stack)


def _mount(store: Store, stack: Stack, target: str, name: str, view: str, *, seen_at: str = "") -> Mounted:
    target = os.path.realpath(target)
    with reported(target):
        _check_free(target)
        # gc keeps the directory of the stack, and with it the mount point, because of the root
        with store.roots.mounting(f"mount of {name}", list(stack.diff_ids), mount=seen_at + target) as root:
            if _is_own(store, target):
                stack_directory(store, stack)
            with _new_directory(target, 0o700 if _is_own(store, target) else 0o777):
                _check_empty(target)
                view = mount_union(store, stack, target, view=view)
                store.roots.note_view(root, view, _mount_identity(target))
    return Mounted(name, seen_at + target, root, view)


def _check_free(target: str) -> None:
    if os.path.lexists(target) and not os.path.isdir(target):
        raise Conflict(
            f"can't mount at {target}: it is not a directory", hint="choose an empty directory, or a new one"
        )
    if is_mount(target):
        raise Conflict(f"{target} is already mounted", hint="run `lamina umount`, or choose another directory")


def _check_empty(target: str) -> None:
    if os.listdir(target):
        raise Conflict(f"{target} is not empty", hint="choose an empty directory")


def _is_own(store: Store, target: str) -> bool:
    """Whether this is a mount point in the store that is removed with its mount."""
    return os.path.basename(target).startswith(MOUNT_POINT_PREFIX) and target.startswith(store.paths.unions + os.sep)


@contextmanager
def _new_directory(path: str, mode: int) -> Iterator[None]:
    """Create a directory if it does not exist; remove it again if the block fails."""
    new = not os.path.isdir(path)
    os.makedirs(path, mode, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # the error of the block is the one to report
                os.rmdir(path)
        raise


def mount_union(store: Store, stack: Stack, target: str, *, view: str = "", top: Top | None = None) -> str:
    """Mount the union at the directory ``target``, with a writable ``top`` or read-only; returns the view that was
    used. The caller must keep a root file. Raises as ``mount``."""
    view = view or store.view
    if view and view not in VIEWS:
        raise UsageError(f"unknown view {view!r:.60}", hint=f"use one of {', '.join(VIEWS)}")
    refused: list[str] = []
    for one in (view,) if view else VIEWS:
        if one == "erofs-merged" and not view:
            continue  # erofs itself falls back to it
        if one == "fuse" and not view and (top is not None or not privileges.is_root()):
            # it is read-only; and it needs no user namespace, which this call already entered for the others
            continue
        try:
            with reported(target):
                _mount_as(store, stack, target, one, top)
        except (SystemFailure, Unsupported) as error:
            _sweep_quietly(store)
            if view:
                raise
            refused.append(f"{one}: {error.message}")
        else:
            return one
    raise Unsupported("; ".join(refused), hint="run `lamina unpack` to write it into a directory")


def _sweep_quietly(store: Store) -> None:
    """Unmount the parts of a mount that failed. Whatever remains is removed with the next unmount."""
    with suppress(LaminaError, OSError):
        sweep(store)


def _check_linux() -> None:
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux can mount an image", hint="run `lamina unpack` to write it into a directory")


def _mount_as(store: Store, stack: Stack, target: str, view: str, top: Top | None) -> None:
    if view == "fuse":
        if top is not None:
            raise Unsupported("a FUSE mount is read-only", hint="use another view, or none")
        from lamina.view.fuse import fuse_mount

        fuse_mount.mount(stack, target)
        return
    if view != "overlay" and not privileges.is_root():
        raise Unsupported("only root of the host may mount EROFS", hint="use --view overlay")
    empty = os.path.join(stack_directory(store, stack), "empty")  # an overlay needs at least two directories
    with suppress(FileExistsError):
        os.mkdir(empty, 0o700)
    if view == "overlay":
        # root can map the owners of one tree when it mounts it; other users need a tree for each mapping
        owners = AS_STATED if top is None or privileges.is_root() else top.owners
        lowers = [empty, *(unpack_tree(store, stack, part, owners) for part in tree_parts(store, stack))]
        with locked(store.paths.lock):
            _overlay(lowers, target, top)
        return
    parts = parts_of(store, stack, merged=True if view == "erofs-merged" else None)
    write_images(store, stack, parts)
    with locked(store.paths.lock):
        lowers = [mount_image(store, part) for part in parts]
        if len(parts) > 1 and len(set(lowers)) == 1:
            lowers.insert(0, empty)  # a layer that occurs twice: shown alone it would show overlayfs's marks
        _overlay(lowers, target, top)


def _overlay(lowers: list[str], target: str, top: Top | None) -> None:
    """Mount an overlay of ``lowers``, bottom first. The caller must hold the store's lock, because ``sweep`` unmounts
    parts without an overlay."""
    if top is not None and top.owners and privileges.is_root():
        try:
            _overlay(_mapped(lowers, top), target, replace(top, owners=AS_STATED))
        except BaseException:
            unmap(top.scratch)
            raise
        return
    # a repeated layer replaces everything it added the first time, and the kernel refuses a directory twice
    options: list[tuple[str, str | None]] = [("lowerdir+", lower) for lower in dict.fromkeys(reversed(lowers))]
    writable = top is not None and top.upper
    if len(options) == 1 and not writable:
        kernel.bind(lowers[0], target, attributes=LOOK)
        return
    attributes = LOOK
    if top is not None and top.upper:
        options += [("upperdir", top.upper), ("workdir", top.work)]
        attributes = 0 if top.devices else kernel.NO_DEVICES
        if not os.listdir(top.upper):
            _as_below(lowers[-1], top.upper)
    # changes must be complete in the upper directory, because a commit reads nothing else
    options += [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]
    if not privileges.is_root():
        options.append(("userxattr", None))
    if top is not None and top.upper and top.volatile:
        # the kernel's mark of a volatile mount before: it may not be mounted again, as its changes may be incomplete
        # after a crash of the host
        with suppress(OSError):
            os.unlink(os.path.join(top.work, "work/incompat/volatile/dirty"))
            os.rmdir(os.path.join(top.work, "work/incompat/volatile"))
        # refused if an earlier write error of the disk was not reported yet; without it the mount is only slower
        with suppress(SystemFailure):
            kernel.mount("overlay", [*options, ("volatile", None)], target, attributes=attributes)
            return
    kernel.mount("overlay", options, target, attributes=attributes)


def _mapped(lowers: list[str], top: Top) -> list[str]:
    """Mount the directories with mapped owners in ``top.scratch``: overlayfs allows ID mapping of its layers, not of
    itself. The overlay would keep them without these mount points, but these show to others that the layers are in
    use, so that they share their memory."""
    unmap(top.scratch)  # left by a killed process
    made: list[str] = []
    namespace = privileges.nested_namespace(top.owners.users, top.owners.groups)
    try:
        for lower in lowers:
            target = os.path.join(top.scratch, f"{MAPPED}{len(made)}")
            with reported(target):
                os.mkdir(target)
            made.append(target)
            kernel.bind(lower, target, namespace=namespace)
    finally:
        os.close(namespace)
    return made


def unmap(scratch: str) -> None:
    """Unmount the ID-mapped directories in ``scratch``. Raises SystemFailure."""
    with reported(scratch):
        for name in os.listdir(scratch) if os.path.isdir(scratch) else ():
            if name.startswith(MAPPED):
                unmount_quietly(os.path.join(scratch, name))


def _as_below(lower: str, upper: str) -> None:
    """Give a new upper directory the attributes of the union's root: the root of an overlay has those of its highest
    directory."""
    state = os.lstat(lower)
    os.chown(upper, state.st_uid, state.st_gid)
    os.chmod(upper, state.st_mode & 0o7777)
    for name in os.listxattr(lower):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(upper, name, os.getxattr(lower, name))
    os.utime(upper, ns=(state.st_mtime_ns, state.st_mtime_ns))


def unmount(store: Store, target: str) -> Mounted:
    """Unmount what is mounted at ``target``, the path that `mount` was given or has printed. Raises NotFound if
    nothing of this store is mounted there; Conflict if another mount covers it, or if several unprivileged users
    mounted at that path; SystemFailure."""
    named = os.path.abspath(target)
    target = named if _HELD.match(named) else os.path.realpath(named)
    with reported(target):
        every = mounts(store)
        # the mount of an unprivileged user has two names: where others see it, and the directory that was given
        here = [one for one in every if one.target == target] or [one for one in every if one.inside == target]
        if len(here) > 1:
            listed = ", ".join(one.target for one in here)
            raise Conflict(f"{len(here)} images are mounted at {named}", hint=f"name one of: {listed:.300}")
        for found in here:
            if found.holder:
                _let_go(found)
            else:
                _check_ours(store, found)
                _unmount(found)
            _forget(store, found)
            return found
    raise NotFound(f"no image is mounted at {named}", hint="list mounts with `lamina mounts`")


def _forget(store: Store, mounted: Mounted) -> None:
    """Remove the records and the directory of a mount that is gone. Several processes may do this at once."""
    if not mounted.root:
        if os.path.basename(mounted.target).startswith(_TEMPORARY):
            with suppress(OSError):  # the directory has the same name, but is not ours: it is not empty
                os.rmdir(mounted.target)
        return
    store.roots.remove(mounted.root)
    for root in store.roots:
        if root.mount == mounted.target and not root.alive:  # of a process that was killed before it mounted
            store.roots.remove(root.name)
    sweep(store)
    here = mounted.inside
    if _is_own(store, here):
        with suppress(FileNotFoundError):
            os.rmdir(here)


def _mount_identity(target: str) -> str:
    """Return what identifies the topmost mount at ``target``: its device, and its root inode unless it is a FUSE
    mount, whose server may have died. "" if nothing is mounted. Raises OSError."""
    top = _topmost(target)
    if top is None:
        return ""
    return top.device if top.kind.startswith("fuse") else f"{top.device} {os.stat(target).st_ino}"


def _topmost(target: str) -> mountinfo.Mount | None:
    return next((one for one in reversed(mountinfo.mounts()) if one.target == target), None)


def _check_ours(store: Store, mounted: Mounted) -> None:
    """Raise Conflict if the topmost mount is not the recorded one."""
    top = _topmost(mounted.target)
    if top is None:
        return  # another process has unmounted it
    noted = next((root.mount_identity for root in store.roots if root.name == mounted.root), "")
    if noted:
        # compare the device first: another file system may not answer
        ours = noted.split(" ")[0] == top.device and _mount_identity(mounted.target) == noted
    elif mounted.view == "fuse":
        ours = top.kind == "fuse.lamina"
    else:  # an older lamina recorded nothing
        unions = f"{os.sep}{os.path.basename(store.paths.unions)}{os.sep}"
        ours = top.kind in ("overlay", "erofs") or unions in top.root
    if not ours:
        raise Conflict(
            f"{mounted.target}: another mount ({top.kind}) covers the image",
            hint="unmount the other one with umount(8) first",
        )


def _unmount(mounted: Mounted) -> None:
    try:
        if mounted.view == "fuse":
            from lamina.view.fuse import fuse_mount

            fuse_mount.unmount(mounted.target)
        else:
            kernel.unmount(mounted.target)
    except SystemFailure:
        if is_mount(mounted.target):  # else another process has unmounted it
            raise


def _let_go(mounted: Mounted) -> None:
    """Kill the process that holds a mount, and wait for its end."""
    import select
    import signal

    try:
        watched = os.pidfd_open(mounted.holder)
    except OSError:
        return  # it has ended
    try:
        signal.pidfd_send_signal(watched, signal.SIGKILL)
        select.select([watched], [], [])
        os.waitpid(mounted.holder, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has ended, or is not a child of this process
    finally:
        os.close(watched)


def mounts(store: Store) -> list[Mounted]:
    """List the mounts of this store that are visible in this mount namespace. Raises SystemFailure."""
    with reported(store.paths.roots):
        seen = mountinfo.MountCache()
        roots = [root for root in store.roots if root.mount and root.alive and _is_still_mounted(root.mount, seen)]
    # the latest root file of a mount point made the mount; earlier ones are from killed processes
    last = {root.mount: root for root in sorted(roots, key=lambda root: root.changed)}
    recorded = [
        Mounted(root.purpose.removeprefix("mount of "), root.mount, root.name, root.view, is_dead(root.mount))
        for _, root in sorted(last.items())
    ]
    return recorded + list(_unrecorded(store))


def _unrecorded(store: Store) -> Iterator[Mounted]:
    """Yield mounts that were made while the store was read-only."""
    for one in mountinfo.mounts():
        if one.kind == "fuse.lamina" and one.source.startswith(_word_of(store)):
            name = one.source.removeprefix(_word_of(store))
            yield Mounted(name, one.target, "", "fuse", is_dead(one.target))


def _is_still_mounted(target: str, seen: mountinfo.MountCache) -> bool:
    return os.path.ismount(target) if _HELD.match(target) else seen.is_mounted(target)
