"""Reads an EROFS image that ``erofs.write`` wrote, in place: names, attributes, and the location of file data. Only
the pages that a query needs are loaded.

Images of other programs may use features that are missing here (compression, compact inodes, shared xattrs); they
raise Unsupported.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from lamina.errors import StoreDamaged, Unsupported
from lamina.host.files import READ_FLAGS
from lamina.layer.entry import Kind
from lamina.view.erofs import write as form
from lamina.view.erofs.write import BLOCK

_KINDS = {
    0o100000: Kind.FILE,
    0o040000: Kind.DIRECTORY,
    0o120000: Kind.SYMLINK,
    0o020000: Kind.CHAR,
    0o060000: Kind.BLOCK,
    0o010000: Kind.FIFO,
}
_PREFIX = {number: prefix for prefix, number in form.PREFIXES}


class Name(NamedTuple):
    """One name in a directory. ``nid`` is the number of its inode. ``layer`` is the number (from 1) of the layer that
    states it in a merged image; 0 for none, erofs.DEEP for that number or a higher one."""

    name: bytes
    nid: int
    is_directory: bool
    layer: int


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode. ``mtime`` is in nanoseconds, ``rdev`` (major, minor), ``where`` the start of content, names or
    target."""

    nid: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    rdev: tuple[int, int]
    xattr_at: int
    xattr_end: int
    layout: int
    where: int


class Extent(NamedTuple):
    """The location of a file's data: the device (from 1, in the order of the mount), the offset of the first byte in
    it, and the data segments (offset in the file, length), stored one after the other from there; None for a file
    without holes."""

    device: int
    offset: int
    sparse: tuple[tuple[int, int], ...] | None


class ErofsImage:
    """A complete image in memory or mapped. Raises StoreDamaged if it is truncated or its superblock has changed;
    other damage (bad offsets) raises StoreDamaged when it is met. ``load`` checks the whole image."""

    def __init__(self, data: bytes | bytearray | mmap.mmap, what: str = "EROFS image") -> None:
        self._data = data
        self._what = what
        self.root_layer = 0
        """The layer of the root, as in ``Name.layer``."""
        blocks, self.inodes, self.root, devices, slots = self._superblock()
        if blocks * BLOCK != len(data):
            raise self._damaged(f"it has {len(data)} bytes, not {blocks * BLOCK}")
        if slots + devices * form.SLOT.size > len(data):
            raise self._damaged("its table of devices is truncated")
        self.devices: tuple[tuple[int, int], ...] = tuple(
            form.SLOT.unpack_from(data, slots + number * form.SLOT.size)[1:] for number in range(devices)
        )
        """Number of blocks of each device, and the block at which it is mapped."""
        itself = self.find(self.inode(self.root), b".")
        if itself is not None:
            self.root_layer = itself.layer

    @classmethod
    def load(cls, path: str) -> Self:
        """Map and check an image file. Raises StoreDamaged; OSError if it can't be opened."""
        descriptor = os.open(path, READ_FLAGS)
        try:
            if os.fstat(descriptor).st_size < 4096:
                raise StoreDamaged(f"{path} is truncated", hint="run `lamina fsck --repair`")
            mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        with memoryview(mapped) as view:
            whole = form.is_whole(view)
        if not whole:
            raise StoreDamaged(f"{path} is damaged: its checksum is wrong", hint="run `lamina fsck --repair`")
        return cls(mapped, path)

    def _superblock(self) -> tuple[int, int, int, int, int]:
        if len(self._data) < 4096:
            raise self._damaged("it is truncated")
        block = bytearray(self._data[form.AT : form.AT + BLOCK])
        fields = form.SUPERBLOCK.unpack_from(block)
        magic, checksum, compat, bits, _, root, inodes, _, _, blocks, meta = fields[:11]
        incompat, compressed, devices, slot = fields[14:18]
        if magic != form.MAGIC:
            raise self._damaged("it is not an EROFS image")
        block[4:8] = bytes(4)
        if not compat & form.CHECKSUM or form.crc32c(bytes(block)) != checksum:
            raise self._damaged("the checksum of its superblock is wrong")
        if bits != form.BITS or meta or compressed or incompat & ~(form.CHUNKED | form.DEVICES):
            raise Unsupported(f"{self._what} has features that lamina does not write", hint="mount it to read it")
        return blocks, inodes, root, devices, slot * 128

    def inode(self, nid: int) -> Inode:
        """Read an inode. Raises StoreDamaged."""
        at = nid * 32
        if not form.AT < at <= len(self._data) - form.INODE.size:
            raise self._damaged(f"it has no inode {nid}")
        fields = form.INODE.unpack_from(self._data, at)
        coded, icount, mode, _, size, where, _, uid, gid, seconds, nsec, links = fields
        kind = _KINDS.get(mode & 0o170000)
        layout = coded >> 1
        if kind is None or not coded & 1 or layout not in (form.PLAIN, form.INLINE, form.CHUNKS):
            raise self._damaged(f"inode {nid} is malformed")
        device = kind in (Kind.CHAR, Kind.BLOCK)
        rdev = (where >> 8 & 0xFFF, where & 0xFF | where >> 12 & 0xFFF00) if device else (0, 0)
        start = at + form.INODE.size
        end = start + (12 + (icount - 1) * 4 if icount else 0)
        mtime = seconds * 1_000_000_000 + nsec
        return Inode(nid, kind, mode & 0o7777, uid, gid, size, mtime, links, rdev, start, end, layout, where)

    def names(self, directory: Inode) -> Iterator[Name]:
        """Yield all names in a directory in byte order, without ``.`` and ``..``. Raises StoreDamaged."""
        for at, end in self._blocks(directory):
            for found in self._names_of(at, end):
                if found.name not in (b".", b".."):
                    yield found

    def find(self, directory: Inode, name: bytes) -> Name | None:
        """Find the entry ``name`` by binary search over the directory's blocks, then within one. Raises
        StoreDamaged."""
        blocks = self._blocks(directory)
        low, high = 0, len(blocks)
        while high - low > 1:
            middle = (low + high) // 2
            if self._name(*blocks[middle], 0).name <= name:
                low = middle
            else:
                high = middle
        if not blocks:
            return None
        at, end = blocks[low]
        low, high = 0, self._count(at, end)
        while low < high:
            middle = (low + high) // 2
            found = self._name(at, end, middle)
            if found.name == name:
                return found
            if found.name < name:
                low = middle + 1
            else:
                high = middle
        return None

    def link(self, inode: Inode) -> bytes:
        """Return the target of a symlink. Raises StoreDamaged."""
        return self._own_data(inode)

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Return the xattrs of an inode. Raises StoreDamaged."""
        found = {}
        at = inode.xattr_at + 12
        while at < inode.xattr_end:
            length, prefix, size = form.XATTR.unpack(self._slice(at, form.XATTR.size))
            at += form.XATTR.size
            if prefix not in _PREFIX or at + length + size > inode.xattr_end:
                raise self._damaged(f"the xattrs of inode {inode.nid} are malformed")
            found[_PREFIX[prefix] + self._slice(at, length)] = self._slice(at + length, size)
            at = -(-(at + length + size) // 4) * 4
        return found

    def extent(self, inode: Inode) -> Extent | None:
        """Return the location of a regular file's data; None if it is empty. Raises StoreDamaged."""
        if not inode.size:
            return None
        if inode.layout == form.CHUNKS:
            return self._chunks(inode)
        for number, (blocks, base) in enumerate(self.devices, 1):
            if base <= inode.where < base + blocks:
                if inode.where + -(-inode.size // BLOCK) > base + blocks:
                    break
                return Extent(number, (inode.where - base) * BLOCK, None)
        raise self._damaged(f"the data of inode {inode.nid} is outside its devices")

    def walk(self) -> Iterator[tuple[bytes, Name]]:
        """Yield every path with its name's entry, the root (b"") first: depth first, parents before children, names
        in byte order. Raises StoreDamaged."""
        pending = [(b"", Name(b"", self.root, True, 0))]
        seen = 0
        while pending:
            path, name = pending.pop()
            yield path, name
            if name.is_directory:
                seen += 1
                if seen > self.inodes:
                    raise self._damaged("its directories contain each other")
                prefix = path + b"/" if path else b""
                below = [(prefix + child.name, child) for child in self.names(self.inode(name.nid))]
                pending += reversed(below)

    def _chunks(self, inode: Inode) -> Extent:
        step = BLOCK << (inode.where & 0x1F)
        at = -(-inode.xattr_end // 8) * 8
        count = -(-inode.size // step)
        table = self._slice(at, count * form.CHUNK.size)
        segments: list[tuple[int, int]] = []
        first: tuple[int, int] | None = None
        for number, (_, device, block) in enumerate(form.CHUNK.iter_unpack(table)):
            if block == form.HOLE:
                continue
            start = number * step
            length = min(step, inode.size - start)
            if first is None:
                first = (device, block * BLOCK)
            if segments and sum(segments[-1]) == start:
                segments[-1] = (segments[-1][0], segments[-1][1] + length)
            else:
                segments.append((start, length))
        if first is None:
            return Extent(0, 0, ())
        if not 1 <= first[0] <= len(self.devices):
            raise self._damaged(f"the data of inode {inode.nid} is outside its devices")
        return Extent(*first, tuple(segments))

    def _own_data(self, inode: Inode) -> bytes:
        at = inode.xattr_end if inode.layout == form.INLINE else inode.where * BLOCK
        return self._slice(at, inode.size)

    def _blocks(self, directory: Inode) -> list[tuple[int, int]]:
        """Return where each block of names begins and ends."""
        if directory.kind != Kind.DIRECTORY or directory.layout == form.CHUNKS:
            raise self._damaged(f"inode {directory.nid} is not a directory")
        if directory.layout == form.INLINE:
            at = directory.xattr_end
        else:
            at = directory.where * BLOCK
        end = at + directory.size
        if end > len(self._data):
            raise self._damaged(f"the names of inode {directory.nid} are missing")
        return [(start, min(start + BLOCK, end)) for start in range(at, end, BLOCK)]

    def _count(self, at: int, end: int) -> int:
        first = form.DIRENT.unpack(self._slice(at, form.DIRENT.size))[1]
        if not form.DIRENT.size <= first <= end - at:
            raise self._damaged("a directory is malformed")
        count: int = first // form.DIRENT.size
        return count

    def _name(self, at: int, end: int, number: int) -> Name:
        """Return entry number ``number`` of the block."""
        size = form.DIRENT.size
        count = self._count(at, end)
        nid, start, kind, layer = form.DIRENT.unpack_from(self._data, at + number * size)
        if number + 1 < count:
            stop = form.DIRENT.unpack_from(self._data, at + (number + 1) * size)[1]
        else:
            stop = end - at
        if not count * size <= start <= stop <= end - at:
            raise self._damaged("a directory is malformed")
        name = self._slice(at + start, stop - start).rstrip(b"\0")  # the last name of a full block is padded
        return Name(name, nid, kind == form.DIRECTORY_TYPE, layer)

    def _names_of(self, at: int, end: int) -> Iterator[Name]:
        """Yield all entries of the block at once."""
        size = form.DIRENT.size
        count = self._count(at, end)
        block = self._slice(at, end - at)
        entries = list(form.DIRENT.iter_unpack(block[: count * size]))
        stops = [entry[1] for entry in entries[1:]] + [end - at]
        for (nid, start, kind, layer), stop in zip(entries, stops, strict=True):
            if not count * size <= start <= stop <= end - at:
                raise self._damaged("a directory is malformed")
            yield Name(block[start:stop].rstrip(b"\0"), nid, kind == form.DIRECTORY_TYPE, layer)

    def _slice(self, at: int, length: int) -> bytes:
        data = bytes(self._data[at : at + length])
        if at < 0 or len(data) != length:
            raise self._damaged("it points beyond its end")
        return data

    def _damaged(self, how: str) -> StoreDamaged:
        return StoreDamaged(f"{self._what}: {how}", hint="run `lamina fsck --repair`: it is made again when needed")
