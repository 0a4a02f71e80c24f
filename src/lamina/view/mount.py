"""The union of an image as a real directory: parts below (one a layer where that can be), the kernel's overlay on
top; read-only, or with an upper directory that takes all changes (copy-up). Linux, root; through FUSE for plain users
too, and for images that are in no store.

A mount is kept from gc by a root in the store that lives as long as the mount does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import Conflict, NotFound, SystemFailure, Unsupported, UsageError
from lamina.files import reported
from lamina.source import Stack
from lamina.store.layers import StoredLayer
from lamina.store.lock import locked
from lamina.store.roots import is_dead, is_mount
from lamina.view import fuse, kernel
from lamina.view.lower import mount_image, sweep, unpack_tree, write_images
from lamina.view.parts import parts_of, place_of

if TYPE_CHECKING:
    from lamina.store.store import Store

VIEWS = ("erofs", "erofs-merged", "overlay", "fuse")
"""Ways to show a union, best first: EROFS images of the layers' metadata over their tars; one such image of them
all; unpacked trees; a process that answers from the tars (read-only, no rights needed)."""
LOOK = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount: the image's name when it was made, and where. ``view``: how. ``dead``: nobody serves it any more."""

    name: str
    target: str
    root: str
    view: str = ""
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Top:
    """The writable layer: ``upper`` takes all changes, ``work`` is the kernel's own, on the same file system.
    ``devices``: whether device nodes work."""

    upper: str
    work: str
    devices: bool = False


def mount(store: Store, stack: Stack, target: str = "", *, name: str = "", view: str = "") -> Mounted:
    """Mount the union read-only at ``target``, an empty directory (made where it is missing); "" is one in the store.
    ``name`` is what `mounts` shows; ``view`` one of VIEWS, by default the first that works here.

    Raises Conflict (mounted already, not empty), Unsupported (no such kernel, not Linux), SystemFailure (no rights).
    """
    if not target:
        target = os.path.join(place_of(store, stack), "union")
    target = os.path.abspath(target)
    with reported(target):
        if is_mount(target):
            raise Conflict(f"{target} is a mount already", hint="`lamina umount` it, or choose another directory")
        os.makedirs(target, exist_ok=True)
        if os.listdir(target):
            raise Conflict(f"{target} is not empty", hint="choose an empty directory")
        with store.roots.mounting(f"mount of {name or stack.name}", list(stack.diff_ids), mount=target) as root:
            view = mount_union(store, stack, target, view=view)
            store.roots.note_view(root, view)
    return Mounted(name or stack.name, target, root, view)


def mount_union(store: Store, stack: Stack, target: str, *, view: str = "", top: Top | None = None) -> str:
    """Mount the union at the directory ``target``, with a writable ``top`` or read-only; the view that was taken.
    The caller keeps a root. Raises as ``mount``."""
    if view and view not in VIEWS:
        raise UsageError(f"no view {view!r:.60}", hint=f"there are {', '.join(VIEWS)}")
    refused: list[str] = []
    if not view and not all(isinstance(layer, StoredLayer) for layer in stack.layers):
        view = "fuse"  # the others are made of what the store has
    for one in (view,) if view else VIEWS:
        if one == "erofs-merged" and not view:
            continue  # what erofs chooses by itself where layers can't say it
        if one == "fuse" and top is not None and not view:
            continue  # it is read-only
        try:
            _mount_as(store, stack, target, one, top)
        except (SystemFailure, Unsupported) as error:
            if view:
                raise
            refused.append(f"{one}: {error.message}")
        else:
            return one
    raise Unsupported("; ".join(refused), hint="`lamina unpack` writes it into a directory")


def check_rights() -> None:
    """Raises Unsupported (not Linux), SystemFailure (not root)."""
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux can mount an image", hint="`lamina unpack` writes it into a directory")
    if os.geteuid() != 0:
        raise SystemFailure(
            "only root may mount", hint="`lamina unpack`, or look into it with ls, cat and the fs view"
        )


def _mount_as(store: Store, stack: Stack, target: str, view: str, top: Top | None) -> None:
    if view == "fuse":
        if top is not None:
            raise Unsupported("a FUSE mount is read-only", hint="choose another view, or none")
        fuse.mount(stack, target)
        return
    check_rights()
    parts = parts_of(store, stack, merged=True if view == "erofs-merged" else None)
    if view == "overlay":
        empty = os.path.join(place_of(store, stack), "empty")  # an overlay has at least two directories
        os.makedirs(empty, mode=0o700, exist_ok=True)
        _overlay([empty, *(unpack_tree(store, stack, part) for part in parts)], target, top)
        return
    write_images(store, stack, parts)
    with locked(store.paths.lock):
        _overlay([mount_image(store, part) for part in parts], target, top)


def _overlay(lowers: list[str], target: str, top: Top | None) -> None:
    """``lowers``: bottom first."""
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
    options += [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")]
    kernel.mount("overlay", options, target, attributes=attributes)


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
    """Raises NotFound where nothing of this store is mounted there, SystemFailure."""
    target = os.path.abspath(target)
    for found in mounts(store):
        if found.target == target:
            (fuse if found.view == "fuse" else kernel).unmount(target)
            store.roots.remove(found.root)
            sweep(store)
            if target.startswith(store.paths.unions + os.sep):
                os.rmdir(target)
            return found
    raise NotFound(f"no image is mounted at {target}", hint="see `lamina mounts`")


def mounts(store: Store) -> list[Mounted]:
    """What is mounted from this store, as far as this mount namespace shows."""
    found = [
        Mounted(root.purpose.removeprefix("mount of "), root.mount, root.name, root.view, is_dead(root.mount))
        for root in store.roots
        if root.mount and root.alive and is_mount(root.mount)
    ]
    return sorted(found, key=lambda one: one.target)
