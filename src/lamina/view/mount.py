"""The union of an image of the store as a real, read-only directory: an EROFS image of metadata over the layers'
tars, made once and kept as derived data. Linux from 6.12, root; nothing is unpacked.

A mount is kept from gc by a root in the store that lives as long as the mount does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.errors import Conflict, NotFound, SystemFailure, Unsupported
from lamina.files import replace_file, reported
from lamina.source import Stack

if TYPE_CHECKING:
    from lamina.store.store import Store

WRITER = 1
"""Version of what ``erofs.write_erofs`` writes: part of the key that images are kept under."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount: the image's name when it was made, and where."""

    name: str
    target: str
    root: str


def mount(store: Store, stack: Stack, target: str = "", *, name: str = "") -> Mounted:
    """Mount the union read-only at ``target``, an empty directory (made where it is missing); "" is one in the store.
    ``name`` is what `mounts` shows.

    Raises Conflict (mounted already, not empty), Unsupported (no such kernel, not Linux), SystemFailure (no rights).
    """
    if not hasattr(os, "geteuid"):
        raise Unsupported("only Linux can mount an image", hint="`lamina unpack` writes it into a directory")
    if os.geteuid() != 0:
        raise SystemFailure(
            "only root may mount", hint="`lamina unpack`, or look into it with ls, cat and the fs view"
        )
    from lamina.view.kernel import NO_DEVICES, NO_SETUID, READ_ONLY
    from lamina.view.kernel import mount as kernel_mount

    key = union_key(stack)
    directory = store.paths.union(key)
    target = os.path.abspath(target or os.path.join(directory, "mnt"))
    with reported(target):
        os.makedirs(target, exist_ok=True)
        if os.path.ismount(target):
            raise Conflict(f"{target} is a mount already", hint="`lamina umount` it, or choose another directory")
        if os.listdir(target):
            raise Conflict(f"{target} is not empty", hint="choose an empty directory")
        with store.roots.mounting(f"mount of {name or stack.name}", list(stack.diff_ids), mount=target) as root:
            image = _image(store, stack, key)
            devices = [("device", store.paths.tar(diff_id)) for diff_id in stack.diff_ids]
            kernel_mount(
                "erofs",
                [("source", image), *devices],
                target,
                attributes=READ_ONLY | NO_SETUID | NO_DEVICES,
            )
    return Mounted(name or stack.name, target, root)


def unmount(store: Store, target: str) -> Mounted:
    """Raises NotFound where nothing of this store is mounted there, SystemFailure."""
    from lamina.view.kernel import unmount as kernel_unmount

    target = os.path.abspath(target)
    for found in mounts(store):
        if found.target == target:
            kernel_unmount(target)
            store.roots.remove(found.root)
            if target.startswith(store.paths.unions + os.sep):
                os.rmdir(target)
            return found
    raise NotFound(f"no image is mounted at {target}", hint="see `lamina mounts`")


def mounts(store: Store) -> list[Mounted]:
    """What is mounted from this store, as far as this mount namespace shows."""
    found = [
        Mounted(root.purpose.removeprefix("mount of "), root.mount, root.name)
        for root in store.roots
        if root.mount and root.alive and os.path.ismount(root.mount)
    ]
    return sorted(found, key=lambda one: one.target)


def union_key(stack: Stack) -> str:
    """What the stack's EROFS image is kept under."""
    text = "\n".join([f"erofs {WRITER}", *map(str, stack.diff_ids)])
    return hashlib.sha256(text.encode()).hexdigest()


def _image(store: Store, stack: Stack, key: str) -> str:
    """The path of the metadata image, written where it is missing."""
    from lamina.view.erofs import write_erofs

    path = os.path.join(store.paths.union(key), "erofs")
    for layer in stack.layers:
        with layer.open(0, 0):
            pass  # makes the tar again where it is gone
    if not os.path.exists(path):
        data = write_erofs(stack.tree(), uuid=bytes.fromhex(key)[:16])
        os.makedirs(store.paths.union(key), mode=0o700, exist_ok=True)
        layers = "".join(f"{diff_id}\n" for diff_id in stack.diff_ids)
        replace_file(os.path.join(store.paths.union(key), "layers"), [layers.encode()])
        replace_file(path, [data], mode=0o444)
    return path
