"""The columnar index of one layer: all its entries in archive order, in one buffer that can be memory-mapped.

It has fixed-width columns (54 bytes an entry), a heap of base names, a table of directories (parent and name, so that
each directory's path is stored once), and a heap of link targets, sparse maps and xattrs. It is built in one pass
while the layer streams; an ``Entry`` is only made on access. The file is derived data in the host's byte order: a
damaged one raises ``StoreDamaged`` and is made again from the blob.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping

from lamina.errors import LimitExceeded, StoreDamaged
from lamina.layer.entry import Entry, Kind

VERSION = 1
MAX_ENTRIES = 4_000_000
MAX_HEAP = 1 << 30  # bytes of names; likewise of links and xattrs together
MAX_PATHS = 256 << 20  # bytes of the paths of all directories: a few entries with long paths name many

_MAGIC = b"LAMINDEX"
_ORDER = 0x01020304
_HEADER = struct.Struct(
    "=8sIIQQQQQI4x"
)  # magic, order, version, rows, directories, tar size, content size, file size, crc
_SECTION = struct.Struct("=QQ")
_ROW_COLUMNS = (
    ("kind", "B"),
    ("flags", "B"),
    ("mode", "H"),
    ("uid", "I"),
    ("gid", "I"),
    ("size", "Q"),
    ("offset", "Q"),
    ("mtime", "q"),
    ("nsec", "I"),
    ("directory", "I"),
    ("link_at", "I"),
    ("xattr_at", "I"),
)
_OTHER_COLUMNS = (("name_at", "I"), ("dir_parent", "I"), ("dir_name_at", "I"))
_HEAPS = ("names", "dir_names", "heap", "notes")
_SECTIONS = len(_ROW_COLUMNS) + len(_OTHER_COLUMNS) + len(_HEAPS)
_BODY = _HEADER.size + _SECTIONS * _SECTION.size + (-(_HEADER.size + _SECTIONS * _SECTION.size) % 8)
_BATCH = 4096
_LARGE = 100_000  # entries
_SMALL = 64 << 10  # bytes

_KINDS = tuple(Kind)
FLAG_SPARSE = 1  # the link heap holds the file's segments instead of a target

Row = tuple[int, int, int, int, int, int, int, int, int, int, int, int]


class IndexBuilder:
    """Builds an index: takes entries in archive order; ``finish`` returns the index."""

    def __init__(self) -> None:
        self._columns = [array(code) for _, code in _ROW_COLUMNS]
        self._batch: list[Row] = []
        self._names: list[bytes] = []
        self._name_heap = bytearray()
        self._name_at = array("I", [0])
        self._directories: dict[bytes, int] = {b"": 0}
        self._path_bytes = 0
        self._dir_parent = array("I", [0])
        self._dir_names = bytearray()
        self._dir_name_at = array("I", [0, 0])
        self._heap = bytearray(1)  # position 0 means "none"
        self._xattr_positions: dict[bytes, int] = {}
        self._notes: dict[str, None] = {}
        self._rows = 0
        self._content = 0

    def __len__(self) -> int:
        return self._rows

    def directory(self, path: bytes) -> int:
        """Return the id of the directory with this normalised path; add it and its parents if they are new."""
        known = self._directories.get(path)
        if known is not None:
            return known
        missing = []
        while known is None:
            parent, _, name = path.rpartition(b"/")
            missing.append((path, name))
            path = parent
            known = self._directories.get(path)
        for path, name in reversed(missing):
            self._dir_parent.append(known)
            self._dir_names += name
            self._dir_name_at.append(len(self._dir_names))
            known = len(self._directories)
            self._directories[path] = known
            self._path_bytes += len(path)
        if known > MAX_ENTRIES or self._path_bytes > MAX_PATHS:
            raise LimitExceeded(
                f"the layer names more than {MAX_ENTRIES} directories, or their paths are longer than {MAX_PATHS} "
                "bytes together",
                hint="report it to the publisher of the image",
            )
        return known

    def note(self, text: str) -> None:
        """Keep a warning about the layer, once."""
        if len(self._notes) < 100:
            self._notes[text] = None

    def add(
        self,
        path: bytes,
        kind: int,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        offset: int = 0,
        mtime: int = 0,
        nsec: int = 0,
        link: bytes = b"",
        xattrs: Mapping[bytes, bytes] | None = None,
        sparse: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        """Add an entry. ``path`` and ``link`` must be normalised; ``mtime`` is in seconds; ``offset`` is that of the
        content, or ``major << 32 | minor`` of a device. For OPAQUE, ``path`` is the directory itself."""
        if kind == Kind.OPAQUE:
            directory, name = self.directory(path), b""
        else:
            parent, _, name = path.rpartition(b"/")
            directory = self._directories.get(parent, -1)
            if directory < 0:
                directory = self.directory(parent)
        flags = link_at = xattr_at = 0
        if sparse is not None:
            flags = FLAG_SPARSE
            link_at = self._store(array("Q", [part for segment in sparse for part in segment]).tobytes())
        elif link:
            link_at = self._store(link)
        if xattrs:
            packed = _pack_xattrs(xattrs)
            xattr_at = self._xattr_positions.get(packed, 0)
            if not xattr_at:
                xattr_at = self._store(packed)
                if len(self._xattr_positions) < 65536:
                    self._xattr_positions[packed] = xattr_at
        if kind == Kind.FILE:
            self._content += size
        self._names.append(name)
        self._batch.append((kind, flags, mode, uid, gid, size, offset, mtime, nsec, directory, link_at, xattr_at))
        self._rows += 1
        if len(self._batch) >= _BATCH:
            self._flush()

    def add_entry(self, entry: Entry, offset: int | None = None) -> None:
        """Add ``entry``; ``offset`` overrides the offset of its content."""
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            offset = entry.rdev[0] << 32 | entry.rdev[1]
        elif offset is None:
            offset = entry.offset
        seconds, nanoseconds = divmod(entry.mtime, 1_000_000_000)
        self.add(
            entry.path,
            int(entry.kind),
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            offset,
            seconds,
            nanoseconds,
            entry.link,
            entry.xattrs,
            entry.sparse,
        )

    def _store(self, data: bytes) -> int:
        position = len(self._heap)
        if position + len(data) + 4 > MAX_HEAP:
            raise LimitExceeded(
                "the layer's links and xattrs exceed 1 GiB", hint="report it to the publisher of the image"
            )
        self._heap += len(data).to_bytes(4, "little")
        self._heap += data
        return position

    def _flush(self) -> None:
        if not self._batch:
            return
        for column, values in zip(self._columns, zip(*self._batch, strict=True), strict=True):
            column.extend(values)
        position = len(self._name_heap)
        at = self._name_at
        for name in self._names:
            position += len(name)
            at.append(position)
        self._name_heap += b"".join(self._names)
        self._batch.clear()
        self._names.clear()
        if self._rows > MAX_ENTRIES or position > MAX_HEAP:
            raise LimitExceeded(
                f"the layer has more than {MAX_ENTRIES} entries", hint="report it to the publisher of the image"
            )

    def finish(self, tar_size: int) -> LayerIndex:
        """Return the index, in memory. ``tar_size`` is the size of the whole uncompressed archive in bytes."""
        return LayerIndex(b"".join(self.chunks(tar_size)))

    def chunks(self, tar_size: int) -> list[memoryview]:
        """Return the content of the index file in pieces that share the builder's memory: write them, then drop the
        builder."""
        self._flush()
        notes = "\n".join(self._notes).encode("utf-8", "backslashreplace")
        parts = [
            *(memoryview(column) for column in self._columns),
            memoryview(self._name_at),
            memoryview(self._dir_parent),
            memoryview(self._dir_name_at),
            *(memoryview(heap) for heap in (self._name_heap, self._dir_names, self._heap, notes)),
        ]
        pieces, table, position = [], [], _BODY
        for part in parts:
            raw = part.cast("B") if part.nbytes else part[:0]
            padding = -len(raw) % 8
            table.append(_SECTION.pack(position, len(raw)))
            pieces += [raw, memoryview(bytes(padding))]
            position += len(raw) + padding
        pieces.insert(0, memoryview(b"".join(table).ljust(_BODY - _HEADER.size, b"\0")))
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        header = _HEADER.pack(
            _MAGIC, _ORDER, VERSION, self._rows, len(self._dir_parent), tar_size, self._content, position, crc
        )
        return [memoryview(header), *pieces]


class LayerIndex:
    """All entries of one layer. The column attributes are memoryviews with one value for each row, in
    archive order."""

    kind: memoryview
    flags: memoryview
    mode: memoryview
    uid: memoryview
    gid: memoryview
    size: memoryview
    offset: memoryview
    mtime: memoryview
    nsec: memoryview
    directory: memoryview
    link_at: memoryview
    xattr_at: memoryview
    name_at: memoryview
    dir_parent: memoryview
    dir_name_at: memoryview

    def __init__(self, buffer: bytes | bytearray | mmap.mmap, what: str = "layer index") -> None:
        """Raises StoreDamaged if the buffer is not a complete index of this version."""
        self._buffer = buffer
        view = memoryview(buffer)
        if len(view) < _BODY:
            raise _damaged(what)
        magic, order, version, rows, directories, tar_size, content, size, crc = _HEADER.unpack_from(view)
        if magic != _MAGIC or order != _ORDER or version != VERSION or size != len(view):
            raise _damaged(what)
        if zlib.crc32(view[_HEADER.size :]) != crc:
            raise _damaged(what)
        self._rows: int = rows
        self._directories: int = directories
        self.tar_size: int = tar_size
        self.content_size: int = content
        self.checksum: int = crc
        """CRC-32 of the whole index."""
        parts = [
            view[at : at + length]
            for at, length in (
                _SECTION.unpack_from(view, _HEADER.size + number * _SECTION.size) for number in range(_SECTIONS)
            )
        ]
        for number, (name, code) in enumerate(_ROW_COLUMNS + _OTHER_COLUMNS):
            setattr(self, name, parts[number].cast(code))  # type: ignore[call-overload]
        self._names, self._dir_names, self._heap, notes = parts[-4:]
        self.warnings: tuple[str, ...] = tuple(bytes(notes).decode().split("\n")) if len(notes) else ()
        self.release_pages()  # the checksum has read every page

    @classmethod
    def load(cls, path: str) -> LayerIndex:
        """Memory-map an index file; a small one is read, because a mapped file keeps a descriptor. Raises
        StoreDamaged; OSError if it can't be opened."""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            size = os.fstat(descriptor).st_size
            if size < _HEADER.size:
                raise _damaged(path)
            if size <= _SMALL:
                return cls(os.read(descriptor, size), path)
            mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        return cls(mapped, path)

    def release_pages(self) -> None:
        """Release the memory of the pages read so far, if the index is a large mapped file. The kernel maps them
        again on access."""
        if self._rows > _LARGE and isinstance(self._buffer, mmap.mmap) and hasattr(self._buffer, "madvise"):
            self._buffer.madvise(mmap.MADV_DONTNEED)

    @property
    def buffer(self) -> bytes | bytearray | mmap.mmap:
        """The content of the index file."""
        return self._buffer

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(self._rows))

    def rows_of(self, kind: int) -> Iterator[int]:
        """Yield the rows of one kind, in order; cheap if there are few."""
        kinds = bytes(self.kind)
        row = kinds.find(kind)
        while row >= 0:
            yield row
            row = kinds.find(kind, row + 1)

    def basename(self, row: int) -> bytes:
        return bytes(self._names[self.name_at[row] : self.name_at[row + 1]])

    def each_basename(self) -> Iterator[bytes]:
        """Yield the base names of all rows; they are made in batches."""
        return itertools.chain.from_iterable(map(self._basenames, range(0, self._rows, _BATCH)))

    def _basenames(self, row: int) -> list[bytes]:
        """Return the base names of one batch of rows, from ``row`` on."""
        at = self.name_at[row : row + _BATCH + 1].tolist()
        first = at[0]
        heap = bytes(self._names[first : at[-1]])
        return [heap[start - first : end - first] for start, end in itertools.pairwise(at)]

    @property
    def names(self) -> memoryview:
        """The base names of all rows in one buffer: that of ``row`` begins at ``name_at[row]``."""
        return self._names

    @property
    def directory_count(self) -> int:
        """Number of directories that contain entries, with the root (number 0). Parents have lower numbers."""
        return self._directories

    def directory_parent(self, number: int) -> int:
        parent: int = self.dir_parent[number]
        return parent

    def directory_name(self, number: int) -> bytes:
        return bytes(self._dir_names[self.dir_name_at[number] : self.dir_name_at[number + 1]])

    def directory_path(self, number: int) -> bytes:
        names = []
        while number:
            names.append(self.directory_name(number))
            number = self.dir_parent[number]
        return b"/".join(reversed(names))

    def has_directory_with(self, text: bytes) -> bool:
        """Whether a directory name may contain ``text``; False is certain."""
        return text in bytes(self._dir_names)

    def directory_paths(self) -> list[bytes]:
        """Return the paths of all directories, by number."""
        heap, at = bytes(self._dir_names), self.dir_name_at.tolist()
        found = [b""]
        for number in range(1, self._directories):
            above, name = found[self.dir_parent[number]], heap[at[number] : at[number + 1]]
            found.append(above + b"/" + name if above else name)
        return found

    def path(self, row: int) -> bytes:
        """Return the entry's path; for an OPAQUE, its directory's."""
        parent = self.directory_path(self.directory[row])
        name = self.basename(row)
        return parent + b"/" + name if parent and name else parent or name

    def link(self, row: int) -> bytes:
        """Return the target of a symlink or a hard link; empty for everything else."""
        if self.flags[row] & FLAG_SPARSE:
            return b""
        return self._fetch(self.link_at[row])

    def sparse(self, row: int) -> tuple[tuple[int, int], ...] | None:
        """Return the data segments (offset in the file, length) of a sparse file, else None."""
        if not self.flags[row] & FLAG_SPARSE:
            return None
        numbers = array("Q", self._fetch(self.link_at[row]))
        return tuple(zip(numbers[::2], numbers[1::2], strict=True))

    def xattrs(self, row: int) -> dict[bytes, bytes]:
        return _unpack_xattrs(self._fetch(self.xattr_at[row]))

    def rdev(self, row: int) -> tuple[int, int]:
        """Return (major, minor) of a device, (0, 0) for everything else."""
        if self.kind[row] not in (Kind.CHAR, Kind.BLOCK):
            return (0, 0)
        both: int = self.offset[row]
        return both >> 32, both & 0xFFFFFFFF

    def entry(self, row: int, path: bytes | None = None) -> Entry:
        """Return the row as an ``Entry``. ``path`` overrides its path, if the caller knows it or wants another."""
        kind, link_at, xattr_at = _KINDS[self.kind[row]], self.link_at[row], self.xattr_at[row]
        return Entry(
            self.path(row) if path is None else path,
            kind,
            self.mode[row],
            self.uid[row],
            self.gid[row],
            self.size[row],
            self.mtime[row] * 1_000_000_000 + self.nsec[row],
            self.link(row) if link_at else b"",
            self.xattrs(row) if xattr_at else {},
            self.rdev(row) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
            self.offset[row] if kind is Kind.FILE else 0,
            self.sparse(row) if link_at else None,
        )

    def _fetch(self, position: int) -> bytes:
        if not position:
            return b""
        length = int.from_bytes(self._heap[position : position + 4], "little")
        return bytes(self._heap[position + 4 : position + 4 + length])


def _pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    return b"".join(
        struct.pack("<II", len(name), len(value)) + name + value for name, value in sorted(xattrs.items())
    )


def _unpack_xattrs(packed: bytes) -> dict[bytes, bytes]:
    found, position = {}, 0
    while position < len(packed):
        name_length, value_length = struct.unpack_from("<II", packed, position)
        position += 8
        name = packed[position : position + name_length]
        position += name_length
        found[name] = packed[position : position + value_length]
        position += value_length
    return found


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"{what} is not a complete index of version {VERSION}", hint="run `lamina fsck --repair`")
