"""The union of an image as virtio disks: EROFS metadata, and the tars of the layers, which stay where they are."""

from __future__ import annotations

import errno
import os

from lamina.errors import SystemFailure, Unsupported
from lamina.host.files import replace_file, reported
from lamina.light import TYPE_CHECKING, Value
from lamina.run.machine.machine import Disk
from lamina.view.overlay.lower import write_images
from lamina.view.parts import image_of, merged_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.source.stack import Stack
    from lamina.store.store import Store

UNION, LAYERS, UPPER = "lamina-union", "lamina-layers", "lamina-upper"
"""Serial numbers of disks; ``layer_serial`` for a layer's own. They have 20 bytes at most."""
MOST_APART = 16
"""So many layers have a disk each. More are joined into one: a board has about 28 places for disks."""
_SECTOR = 512
_DESCRIPTION = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
"""
_MOST_PATH = 511  # bytes, which QEMU reads
_TAIL = '\nddb.adapterType = "ide"\n'


class UnionDisks(Value):
    """``metadata``: the EROFS image. ``tars``: of the layers, in the order of its devices. ``joined``: the image has
    one device, which is the tars one after the other."""

    metadata: str
    tars: tuple[str, ...]
    joined: bool


def union_disks(store: Store, stack: Stack, directory: str, *, apart: int = MOST_APART) -> UnionDisks:
    """Write what is missing. ``directory``: where the metadata for joined tars is written. ``apart``: more layers
    than this are joined. Raises Unsupported, SystemFailure."""
    part = merged_part(stack)
    write_images(store, stack, [part])
    tars = tuple(os.path.abspath(store.paths.tar(diff_id)) for diff_id in part.layers)
    if len(tars) <= apart:
        return UnionDisks(os.path.abspath(image_of(store, part)), tars, joined=False)
    from lamina.view.erofs.write import erofs_pieces

    tree, opaque, devices = part.make_tree()
    path = os.path.join(os.path.abspath(directory), "erofs")
    replace_file(path, erofs_pieces(tree, devices=devices, opaque=opaque, uuid=part.uuid, joined=True), lasting=False)
    return UnionDisks(path, tars, joined=True)


def disks_of(union: UnionDisks, directory: str) -> list[Disk]:
    """As QEMU takes them, the metadata first. ``directory``: where the description of joined tars is written. Raises
    Unsupported, SystemFailure."""
    first = Disk(union.metadata, serial=UNION)
    if not union.joined:
        return [first, *(Disk(tar, serial=layer_serial(number)) for number, tar in enumerate(union.tars))]
    path = os.path.join(os.path.abspath(directory), "layers.vmdk")
    replace_file(path, [description(union.tars)], lasting=False)
    return [first, Disk(path, format="vmdk", serial=LAYERS)]


def layer_serial(number: int) -> str:
    return f"lamina-layer-{number}"


def description(tars: tuple[str, ...]) -> bytes:
    """A VMDK description of files one after the other, each padded to whole sectors. Raises Unsupported.

    No empty line may come before an extent: QEMU would read that extent twice."""
    lines = []
    for tar in tars:
        if '"' in tar or "\n" in tar or "\r" in tar or len(os.fsencode(tar)) > _MOST_PATH:
            raise Unsupported(f"{tar!r:.300} can't be part of a disk", hint="move the store to another path")
        lines.append(f'RW {-(-os.path.getsize(tar) // _SECTOR)} FLAT "{tar}" 0\n')
    return f"{_DESCRIPTION}{''.join(lines)}{_TAIL}".encode("utf-8", "surrogateescape")


def joined_file(tars: Sequence[str], path: str) -> None:
    """Write the tars one after the other, each padded to whole sectors; file systems that can, share the blocks.
    Raises SystemFailure."""
    with reported(path), open(path, "xb") as file:
        for tar in tars:
            with open(tar, "rb") as source:
                left = os.fstat(source.fileno()).st_size
                while left:
                    done = _copied(source.fileno(), file.fileno(), left)
                    if not done:
                        raise SystemFailure(f"{tar} ended early", hint="run `lamina fsck`")
                    left -= done
            at = file.seek(0, os.SEEK_END)
            file.truncate(-(-at // _SECTOR) * _SECTOR)
            file.seek(0, os.SEEK_END)
        os.fsync(file.fileno())


def _copied(source: int, target: int, most: int) -> int:
    try:
        return os.copy_file_range(source, target, min(most, 1 << 30))
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.sendfile(target, source, None, min(most, 1 << 30))


def names(disks: int) -> list[str]:
    """How the kernel names so many virtio disks: vda, vdb..."""
    return [f"/dev/vd{_letters(number)}" for number in range(disks)]


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
