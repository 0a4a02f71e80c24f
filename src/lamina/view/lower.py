"""The read-only directories below a union, made once a host: a mounted EROFS image, or an unpacked tree, a part.

They stand in the store's ``unions/``; a mounted one stays while some mount uses it, which mountinfo tells.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from lamina.errors import SystemFailure
from lamina.files import replace_file, reported
from lamina.source import Stack
from lamina.store.lock import locked
from lamina.view import kernel
from lamina.view.parts import Part, keep

if TYPE_CHECKING:
    from lamina.store.store import Store

_ESCAPED = re.compile(r"\\([0-7]{3})")


def write_images(store: Store, stack: Stack, parts: list[Part]) -> None:
    """The metadata image of each part, written where it is missing, and the tars that it points into."""
    from lamina.view.erofs import write_erofs

    for layer in stack.layers:
        store.layers.need_tar(layer.descriptor, layer.diff_id)
    for part in parts:
        path = _image(store, part)
        if not os.path.exists(path):
            tree, opaque, devices = part.made()
            data = write_erofs(tree, devices=devices, opaque=opaque, uuid=bytes.fromhex(part.key)[:16])
            keep(os.path.dirname(path), part.layers)
            replace_file(path, [data], mode=0o444)


def mount_image(store: Store, part: Part) -> str:
    """The directory where the part's image is mounted, now or before. Call it with the store's lock held, and use
    the directory before it is released: what nobody uses is taken away. Raises SystemFailure, Unsupported."""
    target = mounted_at(store, part.key)
    os.makedirs(target, mode=0o700, exist_ok=True)
    if not os.path.ismount(target):
        options: list[tuple[str, str | None]] = [("source", _image(store, part))]
        options += [("device", store.paths.tar(diff_id)) for diff_id in part.layers]
        attributes = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES
        try:
            # read past the tars' own page cache: else every byte is kept twice
            kernel.mount("erofs", [*options, ("directio", None)], target, attributes=attributes)
        except SystemFailure:
            kernel.mount("erofs", options, target, attributes=attributes)
    return target


def unpack_tree(store: Store, stack: Stack, part: Part) -> str:
    """The directory with the part's tree, unpacked now or before. Raises SystemFailure, InvalidContent."""
    from lamina.view.unpack import unpack_tree as unpack

    target = os.path.join(store.paths.union(part.key), "tree")
    if not os.path.isdir(target):
        keep(os.path.dirname(target), part.layers)
        tree, opaque, _ = part.made()
        unpack(tree, stack.open_content, os.fsencode(target), opaque=opaque)
    return target


def sweep(store: Store) -> int:
    """Take away the parts' mounts that nobody uses any more; how many."""
    swept = 0
    with locked(store.paths.lock):
        lines = _mountinfo()
        for key in sorted(os.listdir(store.paths.unions)):
            target = mounted_at(store, key)
            if os.path.ismount(target) and not _used(lines, target):
                kernel.unmount(target)
                swept += 1
    return swept


def mounted_at(store: Store, key: str) -> str:
    """As mountinfo has it: no symlink on the way."""
    return os.path.join(os.path.realpath(store.paths.union(key)), "mnt")


def _image(store: Store, part: Part) -> str:
    return os.path.join(store.paths.union(part.key), "erofs")


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
        return [[_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), word) for word in line.split()] for line in file]
