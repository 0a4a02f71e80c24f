"""Writes a tree as an EROFS image with only metadata; the data of files stays in the layers' tars (pure).

The tars are devices of the image, in the order of the tree's layers. Blocks have 512 bytes as in a tar, so that the
data of a file can be addressed exactly: one block space begins with the image itself and continues with one tar after
the other. Format: fs/erofs/erofs_fs.h of the kernel; docs/decisions/0007. Nothing is read or opened here.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import struct
import zlib
from array import array
from collections.abc import Container, Iterator, Sequence

from lamina.errors import Unsupported
from lamina.layer.entry import Kind
from lamina.union.tree import UNSTATED, Tree

BLOCK = 512
BITS = 9
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
AT = 1024  # offset of the superblock
SLOT = struct.Struct("<64sII56x")
INODE = struct.Struct("<HHHHQIIIIqII16x")
DIRENT = struct.Struct("<QHBB")
_XATTR_HEAD = bytes(12)
XATTR = struct.Struct("<BBH")
CHUNK = struct.Struct("<HHI")
TRAILER = struct.Struct("<4sI")
"""The end of the last page, which the kernel ignores: a mark, and the CRC-32 of everything before it."""
_SUMMED = b"crc\0"
MAGIC, CHECKSUM, _MTIME = 0xE0F5E1E2, 0x1, 0x2
CHUNKED, DEVICES = 0x4, 0x8
PLAIN, INLINE, CHUNKS = 0, 2, 4
HOLE = 0xFFFFFFFF
_MAX_BLOCKS = 0xFFFFFFFF
_MAX_CHUNKS = 1 << 22
_PAGE = 4096
_PIECE = 1 << 20
_SUMMED_AT_ONCE = 8 << 20
_REGULAR, DIRECTORY_TYPE, _CHAR, _BLOCK, _FIFO, _LINK = 1, 2, 3, 4, 5, 7
_FORMATS = (0, 0o100000, 0o040000, 0o020000, 0o060000, 0o010000, 0, 0o120000)
"""The format bits of an inode's mode, by the type in directory entries."""
_TYPE_OF = {
    int(Kind.FILE): _REGULAR,
    int(Kind.DIRECTORY): DIRECTORY_TYPE,
    int(Kind.CHAR): _CHAR,
    int(Kind.BLOCK): _BLOCK,
    int(Kind.FIFO): _FIFO,
    int(Kind.SYMLINK): _LINK,
    int(Kind.WHITEOUT): _CHAR,  # overlayfs's whiteout: a device 0/0
}
_FILE, _DIRECTORY, _SYMLINK = int(Kind.FILE), int(Kind.DIRECTORY), int(Kind.SYMLINK)
DEEP = 255
"""The largest layer number that a name records, in a byte which the kernel ignores (from 1; 0: no layer). This value
means that layer or a higher one."""
OPAQUE = b"trusted.overlay.opaque"
PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)


def write_erofs(
    tree: Tree, *, devices: Sequence[int] | None = None, opaque: Container[int] = (), uuid: bytes = bytes(16)
) -> bytes:
    """Return the result of ``erofs_pieces`` as one object."""
    return b"".join(erofs_pieces(tree, devices=devices, opaque=opaque, uuid=uuid))


def erofs_pieces(
    tree: Tree,
    *,
    devices: Sequence[int] | None = None,
    opaque: Container[int] = (),
    uuid: bytes = bytes(16),
    joined: bool = False,
) -> Iterator[bytes]:
    """Yield the image of ``tree``, padded to whole pages. ``uuid`` has 16 bytes and identifies the image.

    ``devices`` are the numbers (from 0) of the layers whose tars are passed to the mount, in this order; all by
    default. For a lower layer of an overlay, nodes of Kind.WHITEOUT become its whiteouts, and ``opaque`` directories
    are marked. ``joined``: the tars are one device, one after the other, each padded to whole blocks.

    Raises Unsupported for what the format can't express: more than 2 TiB of layers, sparse files whose segments are
    not whole blocks.
    """
    numbers = range(len(tree.layers)) if devices is None else devices
    yield from _Writer(tree, numbers, opaque, tell_layers=devices is None, joined=joined).pieces(uuid)


class _Writer:
    """Writes in two passes over the tree: first every inode gets its place, then everything is written. It uses
    columns instead of objects because an image may have hundreds of thousands of inodes."""

    def __init__(
        self, tree: Tree, devices: Sequence[int], opaque: Container[int], *, tell_layers: bool, joined: bool
    ) -> None:
        self.tree = tree
        self.slot_count = min(1, len(devices)) if joined else len(devices)
        self.devices = devices
        self.opaque = opaque
        self.deep = DEEP if tell_layers else 0  # a single layer's image must be the same in every stack
        self.order = array("I")  # inodes (nodes of the tree) in the order of the image
        self.places = array("I", bytes(4 * len(tree.names)))  # place of each inode, in units of 32 bytes
        self.types = bytearray(len(tree.names))  # type of each inode, as in directory entries
        self.xattrs: dict[int, bytes] = {}
        self.names: dict[int, list[list[bytes]]] = {}  # names of directories, by block
        self.tails: dict[int, bytes] = {}  # data after an inode: chunk indexes, target of a symlink
        self.sizes: dict[int, int] = {}  # sizes of directories and symlinks in bytes
        self.chunk_bits: dict[int, int] = {}
        self.bases: dict[int, int] = {}  # block at which a layer's tar is mapped
        self.starts: dict[int, int] = {}  # first data block of directories and symlinks that are not inline
        self._packed: dict[tuple[int, int], bytes] = {}

    def pieces(self, uuid: bytes) -> Iterator[bytes]:
        end = self._place_all(AT + max(BLOCK, 128 + SLOT.size * self.slot_count))
        total = -(-(end + TRAILER.size) // _PAGE) * _PAGE
        slots = self._slots(total // BLOCK)
        out, done, summed = bytearray(AT), 0, 0  # ``done`` is the offset at which ``out`` begins
        out += self._superblock(total // BLOCK, slots, uuid)
        for at, data in itertools.chain(self._inodes(), self._data_apart()):
            if len(out) > _PIECE:
                yield bytes(out)
                summed = zlib.crc32(out, summed)
                done += len(out)
                out = bytearray()
            out += bytes(at - done - len(out))
            out += data
        out += bytes(total - TRAILER.size - done - len(out))
        yield bytes(out) + TRAILER.pack(_SUMMED, zlib.crc32(out, summed))

    def _slots(self, base: int) -> bytes:
        """Return the device slots, each mapped after the one before. ``base`` is the number of blocks of
        the image."""
        slots, first = b"", base
        for position, number in enumerate(self.devices, 1):
            blocks = self._blocks(number)
            self.bases[number] = base
            slots += SLOT.pack(b"layer %d" % position, blocks, base)
            base += blocks
            if base > _MAX_BLOCKS:
                raise Unsupported("the layers have more than 2 TiB", hint="unpack the image instead")
        if self.slot_count < len(self.devices):
            return SLOT.pack(b"layers", base - first, first)
        return slots

    def _blocks(self, layer: int) -> int:
        return -(-self.tree.layers[layer].tar_size // BLOCK)

    def _place_all(self, at: int) -> int:
        """Assign a place to every inode, then blocks to every large directory and long symlink; returns where the
        last one ends."""
        tree, places, types, order = self.tree, self.places, self.types, self.order
        hardlinks, kids, rows, origins = tree.hardlinks, tree.kids, tree.rows, tree.origin_layers
        columns = [(index.kind, index.flags, index.xattr_at) for index in tree.layers]
        apart: list[int] = []
        for node in tree.walk():
            inode = hardlinks.get(node, node)
            if places[inode]:
                continue
            layer, row = origins[inode], rows[inode]
            if row == UNSTATED:
                kind, flags, xattrs = _DIRECTORY, 0, 0
            else:
                kinds, all_flags, xattr_at = columns[layer]
                kind, flags, xattrs = kinds[row], all_flags[row], xattr_at[row]
            head = 64
            if xattrs or inode in self.opaque:
                head += self._take_xattrs(inode, layer, row)
            inline = 0
            if kids[inode] is not None:
                kind = _DIRECTORY
                self.names[inode], size = _packed_names(kids[inode])
                self.sizes[inode] = size
                if size <= BLOCK - 64 and len(self.names[inode]) == 1:
                    inline = size
                else:
                    apart.append(inode)
            elif kind == _SYMLINK:
                self.tails[inode] = tree.layers[layer].link(row)
                self.sizes[inode] = size = len(self.tails[inode])
                if size <= BLOCK:
                    inline = size
                else:
                    apart.append(inode)
            elif flags and kind == _FILE:
                self._take_chunks(inode, layer, row)
            at = (at + 31) & ~31
            if inline:  # inline data must not cross a block border
                while (at + head) % BLOCK + inline > BLOCK:
                    at += 32
            places[inode] = at >> 5
            types[inode] = _TYPE_OF[kind]
            order.append(inode)
            at += head + inline
            if inode in self.chunk_bits:
                at = -(-at // 8) * 8 + len(self.tails[inode])
        block = -(-at // BLOCK)
        for inode in apart:
            self.starts[inode] = block
            block += -(-self.sizes[inode] // BLOCK)
        return block * BLOCK

    def _take_xattrs(self, inode: int, layer: int, row: int) -> int:
        index = self.tree.layers[layer]
        if inode in self.opaque:
            given = {} if row == UNSTATED else index.xattrs(row)
            body = _xattr_body({**given, OPAQUE: b"y"})
        else:
            key = (layer, index.xattr_at[row])
            known = self._packed.get(key)
            if known is None:
                known = self._packed[key] = _xattr_body(index.xattrs(row))
            body = known
        if body:
            self.xattrs[inode] = body
        return len(body)

    def _take_chunks(self, inode: int, layer: int, row: int) -> None:
        index = self.tree.layers[layer]
        segments = index.sparse(row)
        if segments is not None:
            position, before = self.devices.index(layer), 0
            if self.slot_count < len(self.devices):
                before = sum(map(self._blocks, self.devices[:position])) * BLOCK
                position = 0
            chunks = _chunks(index.size[row], segments, before + index.offset[row], position + 1)
            if chunks[0]:
                self.tails[inode], self.chunk_bits[inode] = chunks

    def _inodes(self) -> Iterator[tuple[int, bytes]]:
        """Yield each inode with the data after it, and its offset."""
        tree, places, types, pack = self.tree, self.places, self.types, INODE.pack
        rows, origins = tree.rows, tree.origin_layers
        columns = [
            (index.mode, index.uid, index.gid, index.mtime, index.nsec, index.size, index.offset)
            for index in tree.layers
        ]
        linked = set(tree.hardlinks.values())
        for number, inode in enumerate(self.order, 1):
            layer, row, kind = origins[inode], rows[inode], types[inode]
            if row == UNSTATED:
                mode, uid, gid = 0o755, 0, 0
                seconds, nsec = divmod(tree.entry(inode).mtime, 1_000_000_000)
                size = offset = 0
            else:
                modes, uids, gids, times, nsecs, sizes, offsets = columns[layer]
                mode, uid, gid, seconds, nsec = modes[row], uids[row], gids[row], times[row], nsecs[row]
                size, offset = sizes[row], offsets[row]
            links = tree.links(inode) if inode in linked else 1
            layout, where, data = PLAIN, 0, b""
            if kind == _REGULAR:
                if inode in self.chunk_bits:
                    layout, where, data = CHUNKS, 0x20 | self.chunk_bits[inode], self.tails[inode]
                elif size:
                    where = self.bases[layer] + offset // BLOCK
            elif kind in (DIRECTORY_TYPE, _LINK):
                size = self.sizes[inode]
                if kind == DIRECTORY_TYPE:
                    links = 2 + sum(types[child] == DIRECTORY_TYPE for child in tree.children(inode).values())
                if inode in self.starts:
                    where = self.starts[inode]
                else:
                    layout, data = INLINE, self._own_data(inode)
            else:
                size = 0
                if kind != _FIFO:
                    where = _device(offset)
                if tree.layers[layer].kind[row] == Kind.WHITEOUT:
                    mode = uid = gid = where = 0
            xattrs = self.xattrs.get(inode, b"")
            icount = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
            coded, mode = 1 | layout << 1, _FORMATS[kind] | mode
            head = pack(coded, icount, mode, 0, size, where, number, uid, gid, seconds, nsec, links)
            if xattrs or data:
                if layout == CHUNKS:
                    xattrs += bytes(-len(xattrs) % 8)
                head = b"".join((head, xattrs, data))
            yield places[inode] << 5, head

    def _data_apart(self) -> Iterator[tuple[int, bytes]]:
        """Yield the names of large directories and the targets of long symlinks, and their offsets."""
        for inode, block in self.starts.items():
            yield block * BLOCK, self._own_data(inode)

    def _own_data(self, inode: int) -> bytes:
        return self.tails[inode] if inode in self.tails else self._directory(inode)

    def _directory(self, node: int) -> bytes:
        tree, places, types, pack, deep = self.tree, self.places, self.types, DIRENT.pack, self.deep
        inodes, origins, rows = tree.hardlinks, tree.origin_layers, tree.rows
        children = {**tree.children(node), b".": node, b"..": tree.parent(node)}
        pieces = []
        blocks = self.names[node]
        for number, names in enumerate(blocks):
            entries, at = [], DIRENT.size * len(names)
            for name in names:
                child = children[name]
                inode = inodes.get(child, child)
                layer = 0 if rows[child] == UNSTATED else origins[child] + 1
                entries.append(pack(places[inode], at, types[inode], layer if layer < deep else deep))
                at += len(name)
            block = b"".join(entries + names)
            pieces.append(block if number == len(blocks) - 1 else block.ljust(BLOCK, b"\0"))
        return b"".join(pieces)

    def _superblock(self, blocks: int, slots: bytes, uuid: bytes) -> bytes:
        """Return the superblock, with the slots after it."""
        fields = (
            *(MAGIC, 0, CHECKSUM | _MTIME, BITS, 0, self.places[0], len(self.order), 0, 0, blocks, 0, 0),
            *(uuid, b"", CHUNKED | DEVICES, 0, self.slot_count, (AT + 128) // 128, 0, 0, 0, 0, 0),
        )
        found = bytearray(SUPERBLOCK.pack(*fields) + slots)
        # the checksum covers the rest of its block: no inode may begin there
        struct.pack_into("<I", found, 4, crc32c(bytes(found[:BLOCK]).ljust(BLOCK, b"\0")))
        return bytes(found)


def _packed_names(children: object) -> tuple[list[list[bytes]], int]:
    """Distribute a directory's names, in byte order, over blocks; also returns the size of its data."""
    names = sorted([b".", b"..", *children])  # type: ignore[misc]
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in names:
        need = DIRENT.size + len(name)
        if used + need > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += need
    return blocks, (len(blocks) - 1) * BLOCK + used


def _xattr_body(xattrs: object) -> bytes:
    """Encode inline xattrs: a header, then the entries; b"" if there are none that the format can hold."""
    entries = []
    for name, value in sorted(xattrs.items()):  # type: ignore[attr-defined]
        for prefix, number in PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                entry = XATTR.pack(len(rest), number, len(value)) + rest + value
                entries.append(entry.ljust(-(-len(entry) // 4) * 4, b"\0"))
                break
    return _XATTR_HEAD + b"".join(entries) if entries else b""


def _chunks(size: int, segments: tuple[tuple[int, int], ...], offset: int, device: int) -> tuple[bytes, int]:
    """Return the chunk indexes of a sparse file, and the size of a chunk as a power of two relative to a block."""
    ends = [start + length for start, length in segments if length]
    edges = [start for start, length in segments if length] + [end for end in ends if end != size]
    if any(edge % BLOCK for edge in edges):
        raise Unsupported("the data segments of a sparse file are not whole blocks", hint="unpack the image instead")
    bits = 0
    while bits < 22 and all(edge % (BLOCK << (bits + 1)) == 0 for edge in edges):
        bits += 1
    step = BLOCK << bits
    count = -(-size // step)
    if count > _MAX_CHUNKS:
        raise Unsupported(f"a sparse file has too many chunks: {count}", hint="unpack the image instead")
    found = bytearray(CHUNK.pack(0, 0, HOLE) * count)
    at = offset
    for start, length in segments:
        for piece in range(start, start + length, step):
            CHUNK.pack_into(found, piece // step * 8, 0, device, (at + piece - start) // BLOCK)
        at += length
    return bytes(found), bits


def _device(rdev: int) -> int:
    """Encode major and minor as the kernel's new_encode_dev does."""
    major, minor = rdev >> 32, rdev & 0xFFFFFFFF
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def is_whole(view: memoryview) -> bool:
    """Whether an image is complete and unchanged, by its checksum (1 ms for each MB)."""
    if len(view) < _PAGE or len(view) % _PAGE:
        return False
    summed, end = 0, len(view) - TRAILER.size
    for at in range(0, end, _SUMMED_AT_ONCE):
        summed = zlib.crc32(view[at : min(at + _SUMMED_AT_ONCE, end)], summed)
        if len(view) > _SUMMED_AT_ONCE and hasattr(view.obj, "madvise"):
            view.obj.madvise(mmap.MADV_DONTNEED)  # of a large mapped file keep no more in memory than needed
    return bytes(view[-TRAILER.size :]) == TRAILER.pack(_SUMMED, summed)


@functools.cache
def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def crc32c(data: bytes) -> int:
    """Compute CRC-32C (Castagnoli), started at ~0 and without the final inversion, as in EROFS."""
    value, table = 0xFFFFFFFF, _table()
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value
