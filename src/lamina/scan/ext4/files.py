"""A directory in an ext4 disk image as a tree of files, which ``scan`` reads."""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator, Iterator

from lamina.errors import LimitExceeded, NotFound
from lamina.layer.index import MAX_ENTRIES
from lamina.layer.safe_path import MAX_PATH
from lamina.layer.tar_write import Readable
from lamina.scan.ext4.volume import ROOT, Extent, Inode, Volume
from lamina.scan.files import OPAQUE, FileState, belongs

_PIECE = 256  # blocks
_HINT = "a program in the machine may have damaged it"


class DiskFiles:
    """The files below the directory ``top`` (its name in the root directory) of the volume."""

    def __init__(self, volume: Volume, top: bytes) -> None:
        """Raises NotFound (no such directory), InvalidContent, SystemFailure."""
        self._volume = volume
        number = dict(volume.entries(volume.inode(ROOT))).get(top)
        if number is None:
            raise NotFound(f"the disk has no directory {top!r:.100}", hint="start the machine once")
        self._numbers: dict[bytes, int] = {b"": number}
        self._directories: set[int] = set()
        self._inodes: dict[int, Inode] = {}

    def _inode(self, path: bytes) -> Inode:
        number = self._numbers[path]
        found = self._inodes.get(number)
        if found is None:
            self._inodes = {number: self._volume.inode(number)}  # it is asked several times in a row
            found = self._inodes[number]
        return found

    def names(self, path: bytes) -> list[bytes]:
        inode = self._inode(path)
        if inode.number in self._directories:
            raise self._volume.damaged(f"the directory {inode.number} is in itself, or in two places")
        self._directories.add(inode.number)
        found = []
        for name, number in self._volume.entries(inode):
            inner = path + b"/" + name if path else name
            if inner in self._numbers:
                raise self._volume.damaged(f"the directory {inode.number} has a name twice")
            if len(inner) > MAX_PATH or len(self._numbers) > MAX_ENTRIES:
                raise LimitExceeded(
                    f"the machine wrote more than {MAX_ENTRIES} files, or paths of more than {MAX_PATH} bytes",
                    hint=_HINT,
                )
            self._numbers[inner] = number
            found.append(name)
        return found

    def state(self, path: bytes) -> FileState:
        inode = self._inode(path)
        return FileState(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            inode.mtime,
            inode.links,
            (0, inode.number),
            inode.device,
        )

    def link(self, path: bytes) -> bytes:
        return self._volume.target(self._inode(path))

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        found = self._volume.xattrs(self._inode(path))
        return {name: found[name] for name in sorted(found) if belongs(name)}

    def is_opaque(self, path: bytes) -> bool:
        found = self._volume.xattrs(self._inode(path))
        return any(found.get(name) == b"y" for name in OPAQUE)

    def opener(self, path: bytes, state: FileState) -> Callable[[], Readable]:
        inode = self._inode(path)
        return lambda: DiskContent(self._volume, inode)

    def shown(self, path: bytes) -> str:
        return "/" + path.decode("utf-8", "surrogateescape")


class DiskContent:
    """The content of a file, read from its start."""

    def __init__(self, volume: Volume, inode: Inode) -> None:
        if not stat.S_ISREG(inode.mode):
            raise volume.damaged(f"the inode {inode.number} is not a file")
        self._pieces = _pieces(volume, inode)
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            data, self._left = self._left + b"".join(self._pieces), b""
            return data
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = piece
        data, self._left = self._left[:size], self._left[size:]
        return data

    def close(self) -> None:
        self._pieces.close()
        self._left = b""


def _pieces(volume: Volume, inode: Inode) -> Generator[bytes]:
    size = volume.block_size
    at, end = 0, inode.size
    for extent in _up_to(volume, inode):
        yield from _zeros(min(extent.first * size, end) - at)
        at = min(extent.first * size, end)
        for start in range(0, extent.count, _PIECE):
            count = min(_PIECE, extent.count - start)
            if at >= end:
                return
            length = min(count * size, end - at)
            yield bytes(length) if extent.place < 0 else volume.run(extent.place + start, count)[:length]
            at += length
    yield from _zeros(end - at)


def _up_to(volume: Volume, inode: Inode) -> Iterator[Extent]:
    for extent in volume.extents(inode):
        if extent.first * volume.block_size >= inode.size:
            return
        yield extent


def _zeros(count: int) -> Iterator[bytes]:
    piece = bytes(_PIECE * 4096)
    while count > 0:
        yield piece[:count] if count < len(piece) else piece
        count -= len(piece)
