"""An ext4 file system in a file: blocks, inodes, extents, names, extended attributes."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lamina.errors import InvalidContent, LimitExceeded
from lamina.host.files import reported
from lamina.scan.ext4.journal import BadJournal, Newer, escaped_start, newer_blocks

ROOT = 2
_JOURNAL = 8
_MAGIC = 0xEF53
_SUPERBLOCK = 1024
_HAS_JOURNAL = 0x4
_ERRORS = 0x2  # s_state
_KNOWN = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000
"""Features that do not keep a reader out: names with types, a journal to replay, extents, 64 bits, protection against
two mounts, flexible groups, a seed for checksums, large directories."""
_64BIT, _EXTENTS_USED, _INLINE, _ENCRYPTED = 0x80, 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC, _EXTENT_HEAD, _DEEPEST = 0xF30A, struct.Struct("<HHHHI"), 5
_UNWRITTEN = 32768
_XATTR_MAGIC = 0xEA020000
_XATTR = struct.Struct("<BBHIII")  # length of the name, prefix, offset, inode, size, hash
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
}
_ACLS = (2, 3)
_SHORT_INODE = 128
_MOST_SIZE = 1 << 44
_CACHED = 512  # blocks
_MOST_DIRECTORY = 1 << 17  # blocks
_FAST_LINK = 60


@dataclass(frozen=True)
class Inode:
    """``mtime``: nanoseconds. ``body``: 60 bytes: extents, the target of a short symlink, or the number of a device.
    ``attributes``: the block of the extended attributes that ``extra`` has no room for, or 0."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    flags: int
    body: bytes
    attributes: int
    extra: bytes

    @property
    def device(self) -> tuple[int, int]:
        if not (stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)):
            return 0, 0
        old, new = struct.unpack_from("<II", self.body)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return (new & 0xFFF00) >> 8, new & 0xFF | new >> 12 & 0xFFF00


@dataclass(frozen=True)
class Extent:
    """``place``: the number of the first block; -1: zeros."""

    first: int
    count: int
    place: int


class Volume:
    """``shown``: its name in messages. All methods raise InvalidContent, SystemFailure."""

    def __init__(self, path: str, shown: str) -> None:
        self._shown = shown
        self._path = path
        with reported(path):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise self.damaged("it is not a file")
            self._newer: dict[int, int] = {}
            self._escaped: set[int] = set()
            self._cache: dict[int, bytes] = {}
            self._read_superblock()
            self._replay()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def damaged(self, why: str) -> InvalidContent:
        return InvalidContent(
            f"{self._shown} can't be read: {why}", hint="a program in the machine may have damaged it"
        )

    def _read(self, offset: int, size: int) -> bytes:
        with reported(self._path):
            data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise self.damaged("it is too short")
        return data

    def _read_superblock(self) -> None:
        head = self._read(_SUPERBLOCK, 1024)
        if head[0x38:0x3A] != struct.pack("<H", _MAGIC):
            raise self.damaged("it has no ext4 file system")
        self._inodes, low = struct.unpack_from("<II", head)
        (self._first_block, log_size) = struct.unpack_from("<II", head, 0x14)
        (self._inodes_per_group,) = struct.unpack_from("<I", head, 0x28)
        self._compatible, incompatible = struct.unpack_from("<II", head, 0x5C)
        (self._inode_size,) = struct.unpack_from("<H", head, 0x58)
        (high,) = struct.unpack_from("<I", head, 0x150)
        if incompatible & ~_KNOWN:
            raise self.damaged(f"it has features that are not known ({incompatible & ~_KNOWN:#x})")
        wide = bool(incompatible & _64BIT)
        (size,) = struct.unpack_from("<H", head, 0xFE)
        self._descriptor_size = size if wide else 32
        self.blocks = low | (high << 32 if wide else 0)
        is_sane = log_size <= 2 and self._inodes_per_group and 32 <= self._descriptor_size <= 1024
        self.block_size = 1024 << min(log_size, 2)
        is_sane = is_sane and self._inode_size in (128, 256, 512, 1024) and self._inode_size <= self.block_size
        if not is_sane:
            raise self.damaged("its superblock is damaged")

    def _replay(self) -> None:
        if not self._compatible & _HAS_JOURNAL:
            return
        journal = list(self.extents(self.inode(_JOURNAL), most=1 << 16))

        def place(number: int) -> int:
            for extent in journal:
                if extent.place >= 0 and extent.first <= number < extent.first + extent.count:
                    return extent.place + number - extent.first
            raise BadJournal("the journal has holes")

        try:
            found: dict[int, Newer] = newer_blocks(lambda number: self.block(place(number)), self.block_size)
            places = {block: place(one.place) for block, one in found.items()}
        except BadJournal as error:
            raise self.damaged(str(error)) from None
        self._cache.clear()
        self._escaped = {block for block, one in found.items() if one.escaped}
        self._newer = places

    @property
    def has_errors(self) -> bool:
        """Whether the kernel that wrote it noted errors: some changes may be lost."""
        at, inside = divmod(_SUPERBLOCK, self.block_size)
        return bool(self.block(at)[inside + 0x3A] & _ERRORS)

    def block(self, number: int) -> bytes:
        """The newest version of a block: from the journal, or from its place."""
        data = self._cache.get(number)
        if data is None:
            if not 0 <= number < self.blocks:
                raise self.damaged(f"there is no block {number}")
            data = self._read(self._newer.get(number, number) * self.block_size, self.block_size)
            if number in self._escaped:
                data = escaped_start() + data[4:]
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[number] = data
        return data

    def run(self, first: int, count: int) -> bytes:
        """Blocks in a row."""
        if not 0 <= first <= first + count <= self.blocks:
            raise self.damaged(f"there is no block {first + count - 1}")
        if self._newer and any(number in self._newer for number in range(first, first + count)):
            return b"".join(self.block(number) for number in range(first, first + count))
        return self._read(first * self.block_size, count * self.block_size)

    def inode(self, number: int) -> Inode:
        if not 0 < number <= self._inodes:
            raise self.damaged(f"there is no inode {number}")
        group, index = divmod(number - 1, self._inodes_per_group)
        at = (self._first_block + 1) * self.block_size + group * self._descriptor_size
        inside = at % self.block_size
        descriptor = self.block(at // self.block_size)[inside : inside + self._descriptor_size]
        (table,) = struct.unpack_from("<I", descriptor, 8)
        if self._descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        block, at = divmod(index * self._inode_size, self.block_size)
        raw = self.block(table + block)[at : at + self._inode_size]
        mode, uid, size = struct.unpack_from("<HHI", raw)
        (seconds,) = struct.unpack_from("<i", raw, 0x10)
        gid, links = struct.unpack_from("<HH", raw, 0x18)
        (flags,) = struct.unpack_from("<I", raw, 0x20)
        (attributes, size_high) = struct.unpack_from("<II", raw, 0x68)
        attributes |= struct.unpack_from("<H", raw, 0x76)[0] << 32
        uid_high, gid_high = struct.unpack_from("<HH", raw, 0x78)
        extra, nanoseconds = b"", 0
        if self._inode_size > _SHORT_INODE:
            (length,) = struct.unpack_from("<H", raw, _SHORT_INODE)
            if length % 4 or length > self._inode_size - _SHORT_INODE:
                raise self.damaged(f"the inode {number} is damaged")
            if length >= 12:
                (more,) = struct.unpack_from("<I", raw, 0x88)
                seconds, nanoseconds = seconds + ((more & 3) << 32), min(more >> 2, 999_999_999)
            extra = raw[_SHORT_INODE + length :]
        size |= size_high << 32
        if not mode or flags & (_INLINE | _ENCRYPTED) or size > _MOST_SIZE:
            raise self.damaged(f"the inode {number} is damaged")
        return Inode(
            number,
            mode,
            uid | uid_high << 16,
            gid | gid_high << 16,
            size,
            seconds * 1_000_000_000 + nanoseconds,
            links,
            flags,
            raw[0x28:0x64],
            attributes,
            extra,
        )

    def extents(self, inode: Inode, most: int = 0) -> Iterator[Extent]:
        """Where the content is, in its order; what lies between them is zeros. ``most``: more are an error."""
        if not inode.flags & _EXTENTS_USED:
            if any(inode.body):
                raise self.damaged(f"the inode {inode.number} has no extents")
            return
        seen: set[int] = set()
        end = 0
        for number, extent in enumerate(self._extents(inode.body, inode, seen, _DEEPEST + 1), 1):
            if extent.first < end:
                raise self.damaged(f"the extents of the inode {inode.number} overlap")
            end = extent.first + extent.count
            if most and number > most:
                raise self.damaged(f"the inode {inode.number} has too many extents")
            yield extent

    def _extents(self, data: bytes, inode: Inode, seen: set[int], above: int) -> Iterator[Extent]:
        magic, entries, _, depth, _ = _EXTENT_HEAD.unpack_from(data)
        if magic != _EXTENT_MAGIC or depth >= above or 12 + entries * 12 > len(data):
            raise self.damaged(f"the extents of the inode {inode.number} are damaged")
        for at in range(12, 12 + entries * 12, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", data, at)
                below = low | high << 32
                if below in seen:
                    raise self.damaged(f"the extents of the inode {inode.number} are damaged")
                seen.add(below)
                yield from self._extents(self.block(below), inode, seen, depth)
            else:
                first, count, high, low = struct.unpack_from("<IHHI", data, at)
                is_unwritten = count > _UNWRITTEN
                place = low | high << 32
                count -= _UNWRITTEN if is_unwritten else 0
                if place + count > self.blocks:
                    raise self.damaged(f"the inode {inode.number} is beyond the end")
                if count:
                    yield Extent(first, count, -1 if is_unwritten else place)

    def target(self, inode: Inode) -> bytes:
        """The target of a symlink."""
        if inode.size >= self.block_size:
            raise self.damaged(f"the symlink {inode.number} is too long")
        if inode.size < _FAST_LINK and not inode.flags & _EXTENTS_USED:
            data = inode.body[: inode.size]
        else:
            extent = next(self.extents(inode), None)
            data = (
                self.block(extent.place)[: inode.size] if extent and not extent.first and extent.place >= 0 else b""
            )
        if not data or b"\0" in data:
            raise self.damaged(f"the symlink {inode.number} is damaged")
        return data

    def entries(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        """The names in a directory with the numbers of their inodes."""
        if not stat.S_ISDIR(directory.mode):
            raise self.damaged(f"the inode {directory.number} is not a directory")
        read = 0
        last = -(-directory.size // self.block_size)
        for extent in self.extents(directory):
            for number in range(min(extent.count, max(0, last - extent.first))):
                read += 1
                if read > _MOST_DIRECTORY:
                    raise LimitExceeded(
                        f"{self._shown} has a directory with more than {_MOST_DIRECTORY} blocks",
                        hint="a program in the machine may have damaged it",
                    )
                if extent.place >= 0:
                    yield from self._names(self.block(extent.place + number), directory)

    def _names(self, data: bytes, directory: Inode) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at + 8 <= len(data):
            inode, size, length, _ = struct.unpack_from("<IHBB", data, at)
            if size < 8 or size % 4 or at + size > len(data) or (inode and length + 8 > size):
                raise self.damaged(f"the directory {directory.number} is damaged")
            name = data[at + 8 : at + 8 + length]
            at += size
            if not inode or name in (b".", b".."):
                continue
            if not name or b"/" in name or b"\0" in name:
                raise self.damaged(f"the directory {directory.number} has a name that is none")
            yield name, inode

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """The extended attributes, as getxattr(2) returns them."""
        found: dict[bytes, bytes] = {}
        if len(inode.extra) >= 4 and struct.unpack_from("<I", inode.extra)[0] == _XATTR_MAGIC:
            self._attributes(inode, inode.extra[4:], 0, found)
        if inode.attributes:
            data = self.block(inode.attributes)
            if struct.unpack_from("<I", data)[0] != _XATTR_MAGIC:
                raise self.damaged(f"the attributes of the inode {inode.number} are damaged")
            self._attributes(inode, data, 32, found)
        return found

    def _attributes(self, inode: Inode, data: bytes, at: int, found: dict[bytes, bytes]) -> None:
        """``data``: offsets of values are from its start. ``at``: where the entries start."""
        while at + 4 <= len(data) and data[at : at + 4] != b"\0\0\0\0":
            if at + _XATTR.size > len(data):
                raise self.damaged(f"the attributes of the inode {inode.number} are damaged")
            length, prefix, offset, other, size, _ = _XATTR.unpack_from(data, at)
            name = data[at + _XATTR.size : at + _XATTR.size + length]
            at += (_XATTR.size + length + 3) & ~3
            value = data[offset : offset + size]
            if len(name) != length or len(value) != size or other or b"\0" in name:
                raise self.damaged(f"the attributes of the inode {inode.number} are damaged")
            if prefix in _PREFIXES:
                if prefix in _ACLS:
                    value = self._acl(value, inode)
                found[_PREFIXES[prefix] + name] = value

    def _acl(self, value: bytes, inode: Inode) -> bytes:
        """An access control list in the form of the system calls: each entry with an id."""
        entries, at = [struct.pack("<I", 2)], 4
        if value[:4] != struct.pack("<I", 1):
            raise self.damaged(f"the access control list of the inode {inode.number} is damaged")
        while at < len(value):
            has_id = len(value) >= at + 4 and struct.unpack_from("<H", value, at)[0] in (2, 8)
            if len(value) < at + (8 if has_id else 4):
                raise self.damaged(f"the access control list of the inode {inode.number} is damaged")
            entries.append(value[at : at + 8] if has_id else value[at : at + 4] + b"\xff\xff\xff\xff")
            at += 8 if has_id else 4
        return b"".join(entries)
