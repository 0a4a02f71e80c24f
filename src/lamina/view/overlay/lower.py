"""The read-only lower directories of a union: one mounted EROFS image or one unpacked tree for each part, made once
for the host.

They are in the store's ``unions/``. A mounted image stays as long as another mount uses it, according to mountinfo.
"""

from __future__ import annotations

import os
from contextlib import suppress

from lamina.errors import SystemFailure
from lamina.host import privileges
from lamina.host.files import replace_file, reported
from lamina.host.lock import locked
from lamina.host.mountinfo import Mount, mounts
from lamina.light import TYPE_CHECKING
from lamina.source.stack import Stack
from lamina.store import derived
from lamina.store.foreign_trees import remove_tree
from lamina.store.unions import is_shown, make_union, union_keys
from lamina.view import kernel
from lamina.view.erofs.attach import mount_erofs
from lamina.view.erofs.intact import lengths
from lamina.view.owners import AS_STATED, Owners
from lamina.view.parts import Part, image_of, parts_of

if TYPE_CHECKING:
    from lamina.store.store import Store

MAPPED = "mapped-"
"""Prefix of the ID-mapped mounts of parts, in the bundle of the container that uses them."""
COVERABLE = ("/mnt", "/media")
"""Short paths that a mount of an unprivileged user may cover in a mount namespace of its own."""


def write_images(store: Store, stack: Stack, parts: list[Part]) -> None:
    """Write the metadata image of each part, and the tars that it refers to, where they are missing or truncated."""
    layers = {layer.diff_id: layer for layer in stack.layers}
    for part in parts:
        if os.path.ismount(mounted_at(store, part.key)):
            continue
        wanted = lengths(image_of(store, part)) or _ensure_written(store, part)
        for diff_id, sizes in zip(part.layers, wanted, strict=True):
            layer = layers[diff_id]
            store.layers.ensure_tar(layer.descriptor, diff_id)
            if os.stat(store.paths.tar(diff_id)).st_size not in sizes:
                store.layers.make_derived(layer.descriptor, diff_id)


def _ensure_written(store: Store, part: Part) -> list[range]:
    """Write the part's image unless another process or thread did so meanwhile. Returns the same as ``lengths``."""
    from lamina.view.erofs.write import erofs_pieces

    path = image_of(store, part)
    with locked(_lock(store, part)):
        wanted = lengths(path)
        if wanted is None:
            tree, opaque, devices = part.make_tree()
            pieces = erofs_pieces(tree, devices=devices, opaque=opaque, uuid=part.uuid)
            # its checksum tells after a crash whether it is complete
            replace_file(path, pieces, mode=0o444, lasting=derived.must_wait())
            wanted = lengths(path)
    if wanted is None:
        raise SystemFailure(f"{path} was removed while it was written", hint="try again")
    return wanted


def _lock(store: Store, part: Part) -> str:
    """Return the path of the lock to hold while writing data of the part."""
    return os.path.join(make_union(store.paths, part.key, part.layers), "lock")


def mount_image(store: Store, part: Part) -> str:
    """Return the directory where the part's image is mounted; mount it if it is not. The caller must hold the store's
    lock until it uses the directory, because unused mounts are removed. Raises SystemFailure, Unsupported."""
    target = mounted_at(store, part.key)
    with suppress(FileExistsError):
        os.mkdir(target, 0o700)
    if not os.path.ismount(target):
        mount_erofs(image_of(store, part), [store.paths.tar(diff_id) for diff_id in part.layers], target)
    return target


def unpack_parts(store: Store, stack: Stack) -> list[str]:
    """Unpack the parts of the stack; returns their directories, bottom first. Raises as ``unpack_tree``."""
    return [unpack_tree(store, stack, part) for part in tree_parts(store, stack)]


def tree_parts(store: Store, stack: Stack) -> list[Part]:
    """Return the parts to unpack: one for all layers if the store's file system can't hold overlayfs's marks. Raises
    SystemFailure."""
    from lamina.view.upper_check import refusal

    return parts_of(store, stack, merged=True if refusal(store.paths.unions) else None)


def unpack_tree(store: Store, stack: Stack, part: Part, owners: Owners = AS_STATED) -> str:
    """Return the directory with the part's tree; unpack it if it does not exist. It is shared by all users who can
    give files the same ids; each user namespace with other ids (``owners``) has its own. One process at a time
    unpacks it, others wait. Raises SystemFailure, InvalidContent."""
    from lamina.view.unpack.unpack import remove_leftovers
    from lamina.view.unpack.unpack import unpack_tree as unpack

    target = os.path.join(store.paths.union(part.key), f"tree{privileges.ids()}{owners.word}")
    with reported(target):
        if _is_complete(store, target):
            return target
        with locked(_lock(store, part)):
            if not _is_complete(store, target):
                remove_leftovers(target)
                there = os.path.isdir(target)
                if there and is_shown(store.paths, target):  # made by an older lamina, without a note, and in use
                    return target
                derived.drop_note(target)
                if there:
                    remove_tree(target)
                tree, opaque, _ = part.make_tree()
                unpack(tree, stack.layers, os.fsencode(target), opaque=opaque, mapped=owners)
                if derived.must_wait():
                    derived.sync_and_note(target, within=store.paths.ingest)
                else:
                    derived.note_written(target, within=store.paths.ingest)
    return target


def adopt_tree(store: Store, part: Part, upper: str) -> bool:
    """Make the upper directory of an unmounted overlay the part's tree, by a rename, instead of unpacking the layer
    that was made of it. The caller knows that both say the same. Returns whether it did: not if the tree exists
    already, or the directory is on another file system. Raises SystemFailure."""
    target = os.path.join(store.paths.union(part.key), f"tree{privileges.ids()}")
    with reported(target):
        if os.lstat(upper).st_dev != os.lstat(store.paths.unions).st_dev:
            return False
        with locked(_lock(store, part)):
            if os.path.lexists(target):
                return False
            derived.drop_note(target)
            os.rename(upper, target)
            if derived.must_wait():
                derived.sync_and_note(target, within=store.paths.ingest)
            else:
                derived.note_written(target, within=store.paths.ingest)
    return True


def _is_complete(store: Store, tree: str) -> bool:
    """Whether the tree exists and is complete. Raises OSError if writing it to disk has failed."""
    if not os.path.isdir(tree) or derived.trust_level(tree) == derived.DOUBTFUL:
        return False
    if derived.is_written_back(tree):
        derived.sync_and_note(tree, within=store.paths.ingest)
    return True


def sweep(store: Store) -> int:
    """Unmount parts that nobody uses any more, and what killed containers used of them; returns how many parts."""
    swept = 0
    if not store.is_writable:
        return 0  # no lock can be taken there
    with reported(store.paths.unions), locked(store.paths.lock):
        seen = mounts()
        if _unmount_ended(store, seen):
            seen = mounts()
        there = {one.target for one in seen}
        for key in union_keys(store.paths):
            target = mounted_at(store, key)
            if target in there and not _is_in_use(seen, target):
                kernel.unmount(target)
                swept += 1
    return swept


def _unmount_ended(store: Store, seen: list[Mount]) -> int:
    """Unmount ID-mapped parts of containers that are not running any more; returns how many. An overlay that uses
    them keeps working."""
    top = store.containers.path("")
    found = [one.target for one in seen if one.target.startswith(top) and f"/bundle/{MAPPED}" in one.target]
    if not found:
        return 0
    living = {one.id for one in store.containers.every() if store.containers.is_running(one)}
    dead = [path for path in found if path[len(top) :].partition(os.sep)[0] not in living]
    for path in dead:
        unmount_quietly(path)
    return len(dead)


def unmount_quietly(path: str) -> None:
    """Unmount and remove a directory; another process may have done so already."""
    with suppress(SystemFailure):  # not mounted any more
        kernel.unmount(path)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def coverable_directory(path: str) -> str:
    """Return a directory of COVERABLE that is empty and not a parent of ``path``; "" if there is none."""
    for one in COVERABLE:
        if os.path.isdir(one) and not os.listdir(one) and not path.startswith(one + os.sep):
            return one
    return ""


def mounted_at(store: Store, key: str) -> str:
    """Return the mount point of a part, as in mountinfo: without symlinks."""
    return os.path.join(store.paths.union(key), "mnt")


def _is_in_use(seen: list[Mount], target: str) -> bool:
    """Whether another mount shows this part (the same device elsewhere), or is an overlay on it. An overlay that is
    not found here still keeps what it needs; only the next one shares no memory with it."""
    devices = {one.device for one in seen if one.target == target}
    return any(one.target != target and (one.device in devices or target in one.lowers) for one in seen)
