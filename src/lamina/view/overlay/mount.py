"""The union of an image as a real directory: parts below (one a layer where that can be), the kernel's overlay on
top; read-only, or with an upper directory that takes all changes (copy-up). Linux. Through FUSE where the kernel
refuses all that, and for images that are in no store.

A mount is kept from gc by a root in the store that lives as long as the mount does. A plain user's stands in a user
namespace that a small process holds: it is reached at /proc/PID/root, and goes with that process.
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
from lamina.store.unions import OWN_PLACE
from lamina.view import kernel
from lamina.view.overlay.lower import (
    MAPPED,
    mount_image,
    sweep,
    tree_parts,
    unmount_quietly,
    unneeded,
    unpack_tree,
    write_images,
)
from lamina.view.owners import AS_STATED, Owners
from lamina.view.parts import own_place, parts_of, place_of

if TYPE_CHECKING:
    from lamina.store.store import Store

_HELD = pattern("/proc/([0-9]+)/root/")
_TEMPORARY = "lamina-mount-"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/@~._-")
LOOK = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES


class Mounted(Value):
    """One mount: the image's name when it was made, and where. ``root``: the name of its root in the store, "" where
    the store could not be written to. ``view``: how. ``dead``: nobody serves it any more."""

    name: str
    target: str
    root: str
    view: str = ""
    dead: bool = False

    @property
    def holder(self) -> int:
        """The process that holds a plain user's mount, else 0."""
        held = _HELD.match(self.target)
        return int(held[1]) if held else 0

    @property
    def inside(self) -> str:
        """The directory as the one who mounted named it: without /proc/PID/root."""
        held = _HELD.match(self.target)
        return self.target[held.end() - 1 :] if held else self.target


class Top(Value):
    """The writable layer: ``upper`` takes all changes, ``work`` is the kernel's own, on the same file system.
    ``devices``: whether device nodes work. ``volatile``: what is written need not last over the machine's crash.
    ``owners``: who the image's ids are outside of the user namespace that runs upon this; what is written belongs to
    them too. ``scratch``: a directory that root needs for that."""

    upper: str
    work: str
    devices: bool = False
    volatile: bool = False
    owners: Owners = AS_STATED
    scratch: str = ""


def mount(store: Store, stack: Stack, target: str = "", *, name: str = "", view: str = "") -> Mounted:
    """Mount the union read-only at ``target``, an empty directory (made where it is missing); "" is a new one in the
    store, which goes with the mount.
    ``name`` is what `mounts` shows; ``view`` one of VIEWS, by default the store's, else the first that works here. A
    plain user's is told as the place where others see it: /proc/PID/root/TARGET.

    Raises Conflict (mounted already, not empty), Unsupported (no such kernel, not Linux), SystemFailure (no rights).
    """
    _check_linux()
    name, view = name or stack.name, view or store.view
    if not store.is_writable:
        return _mount_unrecorded(store, stack, target, name, view)
    ours = target or own_place(store, stack)
    if not view and not all(isinstance(layer, StoredLayer) for layer in stack.layers):
        view = "fuse"  # the others are made of what the store has
    if view == "fuse" or privileges.may_mount():
        return _mount(store, stack, ours, name, view)

    def held() -> dict[str, str]:
        where = target or _own_place(store, stack)
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
    """Through FUSE, which needs nothing of a store but to read it. No root tells of the mount; mountinfo does."""
    from lamina.view.fuse import fuse_mount

    if view not in ("", "fuse"):
        raise SystemFailure(f"{store.location} can't be written to", hint="leave --view out, or take --view fuse")
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
    """How the source of the store's unrecorded mounts begins: the same wherever the store is seen."""
    state = os.stat(store.paths.root)
    return f"lamina:{state.st_dev:x}:{state.st_ino:x}:"


def _own_place(store: Store, stack: Stack) -> str:
    """Where a mount of this namespace alone can stand: a short path that nobody needs here, else one in the store, of
    its own: to take it away must not touch what another holder has mounted there."""
    return unneeded(store.paths.root) or own_place(store, stack)


def _mount(store: Store, stack: Stack, target: str, name: str, view: str, *, seen_at: str = "") -> Mounted:
    target = os.path.realpath(target)
    with reported(target):
        _check_free(target)
        # a collection leaves the directory of the stack, and in it that of the mount, for the root's sake
        with store.roots.mounting(f"mount of {name}", list(stack.diff_ids), mount=seen_at + target) as root:
            if _is_own(store, target):
                place_of(store, stack)
            with _new_directory(target, 0o700 if _is_own(store, target) else 0o777):
                _check_empty(target)
                view = mount_union(store, stack, target, view=view)
                store.roots.note_view(root, view, _stands_at(target))
    return Mounted(name, seen_at + target, root, view)


def _check_free(target: str) -> None:
    if os.path.lexists(target) and not os.path.isdir(target):
        raise Conflict(f"{target} is not a directory", hint="mount at an empty directory, or at a new one")
    if is_mount(target):
        raise Conflict(f"{target} is a mount already", hint="`lamina umount` it, or choose another directory")


def _check_empty(target: str) -> None:
    if os.listdir(target):
        raise Conflict(f"{target} is not empty", hint="choose an empty directory")


def _is_own(store: Store, target: str) -> bool:
    """Whether this is a place in the store that goes with its mount."""
    return os.path.basename(target).startswith(OWN_PLACE) and target.startswith(store.paths.unions + os.sep)


@contextmanager
def _new_directory(path: str, mode: int) -> Iterator[None]:
    """Made where it is missing, and gone again where the block fails."""
    new = not os.path.isdir(path)
    os.makedirs(path, mode, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # the block's error is the one to tell
                os.rmdir(path)
        raise


def mount_union(store: Store, stack: Stack, target: str, *, view: str = "", top: Top | None = None) -> str:
    """Mount the union at the directory ``target``, with a writable ``top`` or read-only; the view that was taken.
    The caller keeps a root. Raises as ``mount``."""
    view = view or store.view
    if view and view not in VIEWS:
        raise UsageError(f"no view {view!r:.60}", hint=f"there are {', '.join(VIEWS)}")
    refused: list[str] = []
    for one in (view,) if view else VIEWS:
        if one == "erofs-merged" and not view:
            continue  # what erofs chooses by itself where layers can't say it
        if one == "fuse" and not view and (top is not None or not privileges.is_root()):
            continue  # it is read-only; and who needs a namespace for the others needs none for this
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
    raise Unsupported("; ".join(refused), hint="`lamina unpack` writes it into a directory")


def _sweep_quietly(store: Store) -> None:
    """Take away the parts of a mount that failed. What stays is swept with the next mount that goes."""
    with suppress(LaminaError, OSError):
        sweep(store)


def _check_linux() -> None:
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux can mount an image", hint="`lamina unpack` writes it into a directory")


def _mount_as(store: Store, stack: Stack, target: str, view: str, top: Top | None) -> None:
    if view == "fuse":
        if top is not None:
            raise Unsupported("a FUSE mount is read-only", hint="choose another view, or none")
        from lamina.view.fuse import fuse_mount

        fuse_mount.mount(stack, target)
        return
    if view != "overlay" and not privileges.is_root():
        raise Unsupported("only the machine's root may mount EROFS", hint="take --view overlay")
    empty = os.path.join(place_of(store, stack), "empty")  # an overlay has at least two directories
    with suppress(FileExistsError):
        os.mkdir(empty, 0o700)
    if view == "overlay":
        # root shows one tree with any owners; nobody else may
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
            lowers.insert(0, empty)  # a layer that comes twice; shown alone it would show overlay's own marks
        _overlay(lowers, target, top)


def _overlay(lowers: list[str], target: str, top: Top | None) -> None:
    """``lowers``: bottom first. Call it with the store's lock held: a sweep takes what no overlay is upon yet."""
    if top is not None and top.owners and privileges.is_root():
        try:
            _overlay(_mapped(lowers, top), target, replace(top, owners=AS_STATED))
        except BaseException:
            unmap(top.scratch)
            raise
        return
    # a layer that comes again hides all that the first time added: the kernel refuses to be told twice
    options: list[tuple[str, str | None]] = [("lowerdir+", lower) for lower in dict.fromkeys(reversed(lowers))]
    if len(options) == 1 and top is None:
        kernel.bind(lowers[0], target, attributes=LOOK)
        return
    attributes = LOOK
    if top is not None:
        options += [("upperdir", top.upper), ("workdir", top.work)]
        attributes = 0 if top.devices else kernel.NO_DEVICES
        if not os.listdir(top.upper):
            _as_below(lowers[-1], top.upper)
    # what is changed is wholly in the upper directory: a commit reads nothing else
    options += [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]
    if not privileges.is_root():
        options.append(("userxattr", None))
    if top is not None and top.volatile:
        # refused where the disk has failed to write something that nobody was told of yet; only slower without
        with suppress(SystemFailure):
            kernel.mount("overlay", [*options, ("volatile", None)], target, attributes=attributes)
            return
    kernel.mount("overlay", options, target, attributes=attributes)


def _mapped(lowers: list[str], top: Top) -> list[str]:
    """The same directories with their owners mapped into a user namespace, mounted in ``top.scratch``: an overlay's
    layers may be so, not the overlay itself. It would keep them by itself; but where they are mounted, others see
    that the layers are in use, and share their memory."""
    unmap(top.scratch)  # what a killed process left
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
    """Take away what a mount with other owners has in ``scratch``. Raises SystemFailure."""
    with reported(scratch):
        for name in os.listdir(scratch) if os.path.isdir(scratch) else ():
            if name.startswith(MAPPED):
                unmount_quietly(os.path.join(scratch, name))


def _as_below(lower: str, upper: str) -> None:
    """An overlay's root has the attributes of its highest directory: a new one gets those of the union."""
    state = os.lstat(lower)
    os.chown(upper, state.st_uid, state.st_gid)
    os.chmod(upper, state.st_mode & 0o7777)
    for name in os.listxattr(lower):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(upper, name, os.getxattr(lower, name))
    os.utime(upper, ns=(state.st_mtime_ns, state.st_mtime_ns))


def unmount(store: Store, target: str) -> Mounted:
    """Take away what is mounted at ``target``, as `mount` was given it or has printed it. Raises NotFound where
    nothing of this store is mounted there, Conflict where another mount stands over it, or several plain users'
    mounts were made there, SystemFailure."""
    named = os.path.abspath(target)
    target = named if _HELD.match(named) else os.path.realpath(named)
    with reported(target):
        every = mounts(store)
        # a plain user's has two names: where others see it, and the directory that was given
        here = [one for one in every if one.target == target] or [one for one in every if one.inside == target]
        if len(here) > 1:
            listed = ", ".join(one.target for one in here)
            raise Conflict(f"{len(here)} images are mounted at {named}", hint=f"say which: {listed:.300}")
        for found in here:
            if found.holder:
                _let_go(found)
            else:
                _check_ours(store, found)
                _unmount(found)
            _forget(store, found)
            return found
    raise NotFound(f"no image is mounted at {named}", hint="see `lamina mounts`")


def _forget(store: Store, mounted: Mounted) -> None:
    """What there was for the sake of a mount that is gone. Several may do this at once."""
    if not mounted.root:
        if os.path.basename(mounted.target).startswith(_TEMPORARY):
            with suppress(OSError):  # another's directory of that name, with something in it
                os.rmdir(mounted.target)
        return
    store.roots.remove(mounted.root)
    for root in store.roots:
        if root.mount == mounted.target and not root.alive:  # of one that was killed before it had mounted there
            store.roots.remove(root.name)
    sweep(store)
    here = mounted.inside
    if _is_own(store, here):
        with suppress(FileNotFoundError):
            os.rmdir(here)


def _stands_at(target: str) -> str:
    """What tells the topmost mount at ``target`` from others: its device, and its directory where that can be asked
    for (a FUSE mount's server may be gone). "" where nothing is mounted. Raises OSError."""
    top = _topmost(target)
    if top is None:
        return ""
    return top.device if top.kind.startswith("fuse") else f"{top.device} {os.stat(target).st_ino}"


def _topmost(target: str) -> mountinfo.Mount | None:
    return next((one for one in reversed(mountinfo.mounts()) if one.target == target), None)


def _check_ours(store: Store, mounted: Mounted) -> None:
    """Raises Conflict where the topmost mount is not the one that was recorded."""
    top = _topmost(mounted.target)
    if top is None:
        return  # somebody else was first
    noted = next((root.stands for root in store.roots if root.name == mounted.root), "")
    if noted:
        # the device first: another file system need not answer
        ours = noted.split(" ")[0] == top.device and _stands_at(mounted.target) == noted
    elif mounted.view == "fuse":
        ours = top.kind == "fuse.lamina"
    else:  # an older lamina noted nothing
        unions = f"{os.sep}{os.path.basename(store.paths.unions)}{os.sep}"
        ours = top.kind in ("overlay", "erofs") or unions in top.root
    if not ours:
        raise Conflict(
            f"{mounted.target}: another mount ({top.kind}) stands over the image",
            hint="unmount that with umount(8) first",
        )


def _unmount(mounted: Mounted) -> None:
    try:
        if mounted.view == "fuse":
            from lamina.view.fuse import fuse_mount

            fuse_mount.unmount(mounted.target)
        else:
            kernel.unmount(mounted.target)
    except SystemFailure:
        if is_mount(mounted.target):  # else somebody else was first
            raise


def _let_go(mounted: Mounted) -> None:
    """End the process that holds a mount; gone when this returns."""
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
        pass  # ended before, or not this process's child
    finally:
        os.close(watched)


def mounts(store: Store) -> list[Mounted]:
    """What is mounted from this store, as far as this mount namespace shows. Raises SystemFailure."""
    with reported(store.paths.roots):
        seen = mountinfo.MountCache()
        roots = [root for root in store.roots if root.mount and root.alive and _stands(root.mount, seen)]
    # the last one at a place has made the mount: those before it were killed before they did
    last = {root.mount: root for root in sorted(roots, key=lambda root: root.changed)}
    recorded = [
        Mounted(root.purpose.removeprefix("mount of "), root.mount, root.name, root.view, is_dead(root.mount))
        for _, root in sorted(last.items())
    ]
    return recorded + list(_unrecorded(store))


def _unrecorded(store: Store) -> Iterator[Mounted]:
    """Mounts of the time when the store could not be written to."""
    for one in mountinfo.mounts():
        if one.kind == "fuse.lamina" and one.source.startswith(_word_of(store)):
            name = one.source.removeprefix(_word_of(store))
            yield Mounted(name, one.target, "", "fuse", is_dead(one.target))


def _stands(target: str, seen: mountinfo.MountCache) -> bool:
    return os.path.ismount(target) if _HELD.match(target) else seen.is_mounted(target)
