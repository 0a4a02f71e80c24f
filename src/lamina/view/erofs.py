"""A tree as an EROFS image: metadata only, whose files' data stays in the layers' tars (pure).

The tars are the image's devices, in the order of the tree's layers. Blocks are of 512 bytes, as in a tar: a file's
data is addressed exactly, in one block space that begins with the image itself and goes on with one tar after the
other. Format: the kernel's fs/erofs/erofs_fs.h; docs/decisions/0007. Nothing is read or opened here.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence
from dataclasses import dataclass

from lamina.errors import Unsupported
from lamina.layer.entry import Kind
from lamina.union.tree import UNSTATED, Tree

BLOCK = 512
_BITS = 9
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_AT = 1024  # of the superblock
_SLOT = struct.Struct("<64sII56x")
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_HEAD = bytes(12)
_XATTR = struct.Struct("<BBH")
_CHUNK = struct.Struct("<HHI")
_MAGIC, _CHECKSUM, _MTIME = 0xE0F5E1E2, 0x1, 0x2
_CHUNKED, _DEVICES = 0x4, 0x8
_PLAIN, _INLINE, _CHUNKS = 0, 2, 4
_HOLE = 0xFFFFFFFF
_MAX_BLOCKS = 0xFFFFFFFF
_MAX_CHUNKS = 1 << 22
_PAGE = 4096
_FORMATS = {
    Kind.FILE: 0o100000,
    Kind.DIRECTORY: 0o040000,
    Kind.SYMLINK: 0o120000,
    Kind.CHAR: 0o020000,
    Kind.BLOCK: 0o060000,
    Kind.FIFO: 0o010000,
    Kind.WHITEOUT: 0o020000,  # overlay's: a device 0/0
}
_TYPES = {
    Kind.FILE: 1,
    Kind.DIRECTORY: 2,
    Kind.CHAR: 3,
    Kind.BLOCK: 4,
    Kind.FIFO: 5,
    Kind.SYMLINK: 7,
    Kind.WHITEOUT: 3,
}
OPAQUE = b"trusted.overlay.opaque"
_PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)


@dataclass(slots=True)
class _Inode:
    """One inode on its way: where it stands, and what it says."""

    node: int
    kind: Kind
    xattrs: bytes = b""
    inline: bytes = b""
    chunks: bytes = b""
    chunk_bits: int = 0
    blocks: list[list[bytes]] | None = None  # a directory's names, by block
    size: int = 0
    at: int = 0
    start: int = 0  # block of a directory's data
    is_inline: bool = False


def write_erofs(
    tree: Tree,
    *,
    devices: Sequence[int] | None = None,
    opaque: Container[int] = (),
    uuid: bytes = bytes(16),
) -> bytes:
    """The image of ``tree``, padded to whole pages. ``uuid``: 16 bytes, for those who look.

    ``devices``: numbers (from 0) of the layers whose tars are given to the mount, in this order; all by default.
    For a layer below an overlay: nodes of Kind.WHITEOUT become its whiteouts, ``opaque`` directories are marked.

    Raises Unsupported for what the format can't say: more than 2 TiB of layers, sparse files whose segments don't
    begin and end at blocks.
    """
    return _Writer(tree, range(len(tree.layers)) if devices is None else devices, opaque).write(uuid)


class _Writer:
    def __init__(self, tree: Tree, devices: Sequence[int], opaque: Container[int]) -> None:
        self.tree = tree
        self.devices = devices
        self.opaque = opaque
        self.order: list[_Inode] = []
        self.by_key: dict[int, _Inode] = {}
        self._xattrs: dict[tuple[int, int], bytes] = {}

    def write(self, uuid: bytes) -> bytes:
        tree = self.tree
        for node in tree.walk():
            key = tree.inode(node)
            if key not in self.by_key:
                inode = self.by_key[key] = self._inode(node)
                self.order.append(inode)
        end = self._placed(_AT + 128 + 128 * len(self.devices))
        base = -(-end // _PAGE) * (_PAGE // BLOCK)
        slots = b""
        self.bases: dict[int, int] = {}
        for number in self.devices:
            blocks = -(-tree.layers[number].tar_size // BLOCK)
            self.bases[number] = base
            slots += _SLOT.pack(b"layer %d" % (number + 1), blocks, base)
            base += blocks
            if base > _MAX_BLOCKS:
                raise Unsupported("the layers have more than 2 TiB", hint="unpack the image instead")
        image = bytearray(-(-end // _PAGE) * _PAGE)
        for number, inode in enumerate(self.order):
            self._emit(image, inode, number + 1)
        image[_AT + 128 : _AT + 128 + len(slots)] = slots
        self._superblock(image, uuid)
        return bytes(image)

    def _inode(self, node: int) -> _Inode:
        tree = self.tree
        kind = tree.kind(node)
        inode = _Inode(node, kind)
        layer, row = tree.content(node)
        if node in self.opaque:
            given = {} if row == UNSTATED else tree.layers[layer].xattrs(row)
            inode.xattrs = _xattr_body({**given, OPAQUE: b"y"})
        elif row != UNSTATED:
            inode.xattrs = self._packed_xattrs(layer, row)
        if kind == Kind.DIRECTORY:
            inode.blocks, inode.size = _packed_names(tree.children(node))
            inode.is_inline = inode.size <= BLOCK - 64 and len(inode.blocks) == 1
        elif kind == Kind.SYMLINK:
            inode.inline = tree.layers[layer].link(row)
            inode.size = len(inode.inline)
            inode.is_inline = inode.size <= BLOCK
        elif kind == Kind.FILE:
            index = tree.layers[layer]
            inode.size = index.size[row]
            segments = index.sparse(row)
            if segments is not None:
                inode.chunks, inode.chunk_bits = _chunks(
                    inode.size, segments, index.offset[row], self.devices.index(layer) + 1
                )
        return inode

    def _placed(self, at: int) -> int:
        """Give every inode its place, then every directory and long symlink its blocks; where all ends."""
        for inode in self.order:
            at = -(-at // 32) * 32
            head = 64 + len(inode.xattrs)
            if inode.is_inline:
                # inline data may not cross a block
                while (at + head) % BLOCK + inode.size > BLOCK:
                    at += 32
            inode.at = at
            at += head
            if inode.chunks:
                at = -(-at // 8) * 8 + len(inode.chunks)
            elif inode.is_inline:
                at += inode.size
        block = -(-at // BLOCK)
        for inode in self.order:
            if inode.kind in (Kind.DIRECTORY, Kind.SYMLINK) and not inode.is_inline:
                inode.start = block
                block += -(-inode.size // BLOCK)
        return block * BLOCK

    def _emit(self, image: bytearray, inode: _Inode, number: int) -> None:
        tree, node = self.tree, inode.node
        layer, row = tree.content(node)
        if row == UNSTATED:
            mode, uid, gid = 0o755, 0, 0
            seconds, nsec = divmod(tree.entry(node).mtime, 1_000_000_000)
        else:
            index = tree.layers[layer]
            mode, uid, gid = index.mode[row], index.uid[row], index.gid[row]
            seconds, nsec = index.mtime[row], index.nsec[row]
        where, layout, links = 0, _PLAIN, tree.links(node)
        if inode.kind == Kind.DIRECTORY:
            links = 2 + sum(1 for child in tree.children(node).values() if tree.is_directory(child))
            where, layout = inode.start, _INLINE if inode.is_inline else _PLAIN
            data = self._directory(inode)
        elif inode.kind == Kind.SYMLINK:
            where, layout = inode.start, _INLINE if inode.is_inline else _PLAIN
            data = inode.inline
        elif inode.kind == Kind.FILE:
            data = b""
            if inode.chunks:
                where, layout = 0x20 | inode.chunk_bits, _CHUNKS
            elif inode.size:
                where = self.bases[layer] + tree.layers[layer].offset[row] // BLOCK
        else:
            data = b""
            where = _device(tree.layers[layer].offset[row]) if inode.kind in (Kind.CHAR, Kind.BLOCK) else 0
            if inode.kind == Kind.WHITEOUT:
                mode = uid = gid = 0
        icount = (len(inode.xattrs) - 12) // 4 + 1 if inode.xattrs else 0
        _INODE.pack_into(
            image,
            inode.at,
            1 | layout << 1,
            icount,
            _FORMATS[inode.kind] | mode,
            0,
            inode.size,
            where,
            number & 0xFFFFFFFF,
            uid,
            gid,
            seconds,
            nsec,
            links,
        )
        at = inode.at + 64
        image[at : at + len(inode.xattrs)] = inode.xattrs
        at += len(inode.xattrs)
        if inode.chunks:
            at = -(-at // 8) * 8
            image[at : at + len(inode.chunks)] = inode.chunks
        elif inode.is_inline:
            image[at : at + len(data)] = data
        elif data:
            image[inode.start * BLOCK : inode.start * BLOCK + len(data)] = data

    def _directory(self, inode: _Inode) -> bytes:
        tree, node = self.tree, inode.node
        children = tree.children(node)
        pieces = []
        assert inode.blocks is not None
        for number, names in enumerate(inode.blocks):
            entries, heap, at = [], [], _DIRENT.size * len(names)
            for name in names:
                child = node if name == b"." else tree.parent(node) if name == b".." else children[name]
                there = self.by_key[tree.inode(child)]
                entries.append(_DIRENT.pack(there.at // 32, at, _TYPES[there.kind]))
                heap.append(name)
                at += len(name)
            block = b"".join([*entries, *heap])
            last = number == len(inode.blocks) - 1
            pieces.append(block if last else block.ljust(BLOCK, b"\0"))
        return b"".join(pieces)

    def _packed_xattrs(self, layer: int, row: int) -> bytes:
        index = self.tree.layers[layer]
        position = index.xattr_at[row]
        if not position:
            return b""
        packed = self._xattrs.get((layer, position))
        if packed is None:
            packed = self._xattrs[layer, position] = _xattr_body(index.xattrs(row))
        return packed

    def _superblock(self, image: bytearray, uuid: bytes) -> None:
        root = self.order[0].at // 32
        fields = (
            *(_MAGIC, 0, _CHECKSUM | _MTIME, _BITS, 0, root, len(self.order), 0, 0, len(image) // BLOCK, 0, 0),
            *(uuid, b"", _CHUNKED | _DEVICES, 0, len(self.devices), (_AT + 128) // 128, 0, 0, 0, 0, 0),
        )
        _SUPERBLOCK.pack_into(image, _AT, *fields)
        checksum = crc32c(bytes(image[_AT : _AT + BLOCK]))
        struct.pack_into("<I", image, _AT + 4, checksum)


def _packed_names(children: object) -> tuple[list[list[bytes]], int]:
    """A directory's names in byte order, as many in a block as fit; and the size of its data."""
    names = sorted([b".", b"..", *children])  # type: ignore[misc]
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in names:
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += need
    return blocks, (len(blocks) - 1) * BLOCK + used


def _xattr_body(xattrs: object) -> bytes:
    """Inline xattrs: a header, then the entries; b"" where none can be said."""
    entries = []
    for name, value in sorted(xattrs.items()):  # type: ignore[attr-defined]
        for prefix, number in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                entry = _XATTR.pack(len(rest), number, len(value)) + rest + value
                entries.append(entry.ljust(-(-len(entry) // 4) * 4, b"\0"))
                break
    return _XATTR_HEAD + b"".join(entries) if entries else b""


def _chunks(size: int, segments: tuple[tuple[int, int], ...], offset: int, device: int) -> tuple[bytes, int]:
    """Chunk indexes of a sparse file, and the chunk's size as a power of two above the block's."""
    ends = [start + length for start, length in segments if length]
    edges = [start for start, length in segments if length] + [end for end in ends if end != size]
    if any(edge % BLOCK for edge in edges):
        raise Unsupported("a sparse file whose segments are no whole blocks", hint="unpack the image instead")
    bits = 0
    while bits < 22 and all(edge % (BLOCK << (bits + 1)) == 0 for edge in edges):
        bits += 1
    step = BLOCK << bits
    count = -(-size // step)
    if count > _MAX_CHUNKS:
        raise Unsupported(f"a sparse file of {count} pieces", hint="unpack the image instead")
    found = bytearray(_CHUNK.pack(0, 0, _HOLE) * count)
    at = offset
    for start, length in segments:
        for piece in range(start, start + length, step):
            _CHUNK.pack_into(found, piece // step * 8, 0, device, (at + piece - start) // BLOCK)
        at += length
    return bytes(found), bits


def _device(rdev: int) -> int:
    """Major and minor as the kernel's new_encode_dev has them."""
    major, minor = rdev >> 32, rdev & 0xFFFFFFFF
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def crc32c(data: bytes) -> int:
    """Castagnoli's, from ~0 and without the last inversion, as EROFS has it."""
    value, table = 0xFFFFFFFF, _table()
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value
