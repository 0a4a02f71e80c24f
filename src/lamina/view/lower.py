"""The read-only directories below a union, made once a host: a mounted EROFS image, or an unpacked tree, a part.

They stand in the store's ``unions/``; a mounted one stays while some mount uses it, which mountinfo tells.
"""

from __future__ import annotations

import os
from contextlib import suppress

from lamina import rights
from lamina.errors import SystemFailure
from lamina.files import replace_file, reported
from lamina.light import TYPE_CHECKING, pattern
from lamina.lock import locked
from lamina.source import Stack
from lamina.store import lasting
from lamina.store.trees import remove_tree
from lamina.view import kernel
from lamina.view.attach import mount_erofs
from lamina.view.owners import AS_STATED, Owners
from lamina.view.parts import Part, image_of, keep, parts_of
from lamina.view.whole import lengths

if TYPE_CHECKING:
    from lamina.store.store import Store

MAPPED = "mapped-"
"""What the mounts of parts with other owners are called, in the bundle of the container that they are for."""
UNNEEDED = ("/mnt", "/media")
"""Short paths that a plain user may cover in a mount namespace of its own."""
_ESCAPED = pattern(r"\\([0-7]{3})")


def write_images(store: Store, stack: Stack, parts: list[Part]) -> None:
    """The metadata image of each part and the tars that it points into, made where they are missing or cut."""
    layers = {layer.diff_id: layer for layer in stack.layers}
    for part in parts:
        if os.path.ismount(mounted_at(store, part.key)):
            continue
        wanted = lengths(image_of(store, part))
        if wanted is None:
            _write_image(store, part)
            wanted = lengths(image_of(store, part)) or []
        for diff_id, sizes in zip(part.layers, wanted, strict=True):
            layer = layers[diff_id]
            store.layers.need_tar(layer.descriptor, diff_id)
            if os.stat(store.paths.tar(diff_id)).st_size not in sizes:
                store.layers.make(layer.descriptor, diff_id)


def _write_image(store: Store, part: Part) -> None:
    from lamina.view.erofs import erofs_pieces

    path = image_of(store, part)
    tree, opaque, devices = part.made()
    pieces = erofs_pieces(tree, devices=devices, opaque=opaque, uuid=part.uuid)
    keep(os.path.dirname(path), part.layers)
    replace_file(
        path, pieces, mode=0o444, lasting=lasting.must_wait()
    )  # its checksum says whether it outlived a crash


def mount_image(store: Store, part: Part) -> str:
    """The directory where the part's image is mounted, now or before. Call it with the store's lock held, and use
    the directory before it is released: what nobody uses is taken away. Raises SystemFailure, Unsupported."""
    target = mounted_at(store, part.key)
    os.makedirs(target, mode=0o700, exist_ok=True)
    if not os.path.ismount(target):
        mount_erofs(image_of(store, part), [store.paths.tar(diff_id) for diff_id in part.layers], target)
    return target


def unpack_parts(store: Store, stack: Stack) -> list[str]:
    """The directories with the trees of the stack's parts, bottom first. Raises as ``unpack_tree``."""
    return [unpack_tree(store, stack, part) for part in tree_parts(store, stack)]


def tree_parts(store: Store, stack: Stack) -> list[Part]:
    """The parts that are unpacked: one for all layers where the store's file system keeps no marks of overlay's.
    Raises SystemFailure."""
    from lamina.view.upper import refusal

    return parts_of(store, stack, merged=True if refusal(store.paths.unions) else None)


def unpack_tree(store: Store, stack: Stack, part: Part, owners: Owners = AS_STATED) -> str:
    """The directory with the part's tree, unpacked now or before: one for all who can give files the same ids, and
    one for each user namespace that has the image's ids otherwise (``owners``). One process at a time does it, others
    wait. Raises SystemFailure, InvalidContent."""
    from lamina.view.unpack import remove_leftovers
    from lamina.view.unpack import unpack_tree as unpack

    target = os.path.join(store.paths.union(part.key), f"tree{rights.ids()}{owners.word}")
    with reported(target):
        if _is_whole(store, target):
            return target
        keep(os.path.dirname(target), part.layers)
        with locked(os.path.join(os.path.dirname(target), "lock")):
            if not _is_whole(store, target):
                remove_leftovers(os.fsencode(target))
                lasting.forget(target)
                if os.path.isdir(target):
                    remove_tree(target)
                tree, opaque, _ = part.made()
                unpack(tree, stack.layers, os.fsencode(target), opaque=opaque, mapped=owners)
                if lasting.must_wait():
                    lasting.settle(target, within=store.paths.ingest)
                else:
                    lasting.note(target, within=store.paths.ingest)
    return target


def _is_whole(store: Store, tree: str) -> bool:
    """Whether the tree is there, and as it was made. Raises OSError where the disk failed to take it."""
    if not os.path.isdir(tree) or lasting.trust(tree) == lasting.DOUBTFUL:
        return False
    if lasting.is_due(tree):
        lasting.settle(tree, within=store.paths.ingest)
    return True


def sweep(store: Store) -> int:
    """Take away the parts' mounts that nobody uses any more; how many. And what killed containers used of them."""
    swept = 0
    with locked(store.paths.lock):
        lines = _mountinfo()
        if _drop_dead(store, lines):
            lines = _mountinfo()
        top = os.path.realpath(store.paths.unions)
        for key in sorted(os.listdir(top)):
            target = os.path.join(top, key, "mnt")
            if os.path.ismount(target) and not _used(lines, target):
                kernel.unmount(target)
                swept += 1
    return swept


def _drop_dead(store: Store, lines: list[list[str]]) -> int:
    """Unmount the parts that are shown with other owners to containers that nobody looks after any more; how many. An
    overlay upon them lives on without."""
    top = os.path.realpath(store.containers.path("")) + os.sep
    found = [line[4] for line in lines if line[4].startswith(top) and f"/bundle/{MAPPED}" in line[4]]
    if not found:
        return 0
    living = {one.id for one in store.containers if one.is_running}
    dead = [path for path in found if path[len(top) :].partition(os.sep)[0] not in living]
    for path in dead:
        unmount_quietly(path)
    return len(dead)


def unmount_quietly(path: str) -> None:
    """Take a mount and its directory away, whoever does it first."""
    with suppress(SystemFailure):  # not mounted any more
        kernel.unmount(path)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def unneeded(path: str) -> str:
    """One of UNNEEDED that is empty, and not above ``path``; "" where there is none."""
    for one in UNNEEDED:
        if os.path.isdir(one) and not os.listdir(one) and not path.startswith(one + os.sep):
            return one
    return ""


def mounted_at(store: Store, key: str) -> str:
    """As mountinfo has it: no symlink on the way."""
    return os.path.join(os.path.realpath(store.paths.unions), key, "mnt")


def _used(lines: list[list[str]], target: str) -> bool:
    """Whether another mount shows this part (the same device elsewhere), or is an overlay upon it."""
    devices = {line[2] for line in lines if line[4] == target}
    for line in lines:
        if line[4] != target and (line[2] in devices or target in line[-1].replace("=", ",").split(",")):
            return True
    return False


def _mountinfo() -> list[list[str]]:
    """The fields of each line (proc_pid_mountinfo(5)), with blanks and the like as they are."""
    with reported("/proc/self/mountinfo"), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return [[_unescaped(word) for word in line.split()] for line in file]


def _unescaped(word: str) -> str:
    return _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), word) if "\\" in word else word
