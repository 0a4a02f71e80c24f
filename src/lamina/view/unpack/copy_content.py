"""Copies the contents of files from the layers' tars into new files; the kernel copies if the tar is a local file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from lamina.errors import InvalidLayer
from lamina.host.files import CHUNK, has_extent, write_all
from lamina.layer.file_content import open_content

if TYPE_CHECKING:
    from lamina.source.protocols import LayerHandle, Stream
    from lamina.union.tree import Tree

_SMALL = 256 << 10  # bytes; larger files are copied by the kernel
_REFUSED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EBADF)


class ContentCopier:
    """Writes the contents of the tree's files. Each tar is opened once, before work is distributed to processes; a
    missing one is made again."""

    def __init__(self, tree: Tree, layers: Sequence[LayerHandle], used: Iterable[int]) -> None:
        """Open the tars of the layers with the numbers ``used``. Raises OSError, LaminaError."""
        self._tree = tree
        self._layers = layers
        self._streams: list[Stream] = []
        self._tars: dict[int, tuple[int, int, int]] = {}  # layer -> extent of its tar, if that is (a range of) a file
        self._kernel = hasattr(os, "copy_file_range")
        try:
            for layer in used:
                stream = layers[layer].open()
                self._streams.append(stream)
                if has_extent(stream) and hasattr(os, "pread"):
                    self._tars[layer] = stream.extent()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, descriptor: int, layer: int, row: int, size: int) -> None:
        """Write the content (``size`` bytes) of the file in ``row`` of ``layer`` to a new file. Raises InvalidLayer
        (the tar is too short), OSError."""
        index = self._tree.layers[layer]
        tar = self._tars.get(layer)
        if tar is None:
            self._from_stream(descriptor, layer, row)
        elif index.flags[row]:  # sparse
            self._sparse(descriptor, tar, layer, row, size)
        else:
            source, start, end = tar
            at = start + index.offset[row]
            if at + size > end:
                raise _short()
            if size > _SMALL:
                self._copy(descriptor, source, at, size)
                return
            data = os.pread(source, size, at)
            if len(data) != size:
                raise _short()
            if os.write(descriptor, data) != size:
                os.lseek(descriptor, 0, os.SEEK_SET)
                write_all(descriptor, data)

    def _copy(self, descriptor: int, source: int, at: int, size: int) -> None:
        """Copy ``size`` bytes from offset ``at`` of ``source`` to the current position of ``descriptor``; the file
        system may share the blocks."""
        while size and self._kernel:
            try:
                done = os.copy_file_range(source, descriptor, size, at)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._kernel = False
                break
            if not done:
                raise _short()
            at, size = at + done, size - done
        while size:
            data = os.pread(source, min(size, CHUNK), at)
            if not data:
                raise _short()
            write_all(descriptor, data)
            at, size = at + len(data), size - len(data)

    def _sparse(self, descriptor: int, tar: tuple[int, int, int], layer: int, row: int, size: int) -> None:
        index = self._tree.layers[layer]
        source, start, end = tar
        at = start + index.offset[row]
        os.ftruncate(descriptor, size)
        for first, length in index.sparse(row) or ():
            if at + length > end:
                raise _short()
            os.lseek(descriptor, first, os.SEEK_SET)
            self._copy(descriptor, source, at, length)
            at += length

    def _from_stream(self, descriptor: int, layer: int, row: int) -> None:
        index = self._tree.layers[layer]
        with open_content(index, row, self._layers[layer].open) as stream:
            segments = index.sparse(row)
            if segments is None:
                while data := stream.read(CHUNK):
                    write_all(descriptor, data)
                return
            os.ftruncate(descriptor, stream.size)
            for first, length in segments:
                os.lseek(descriptor, first, os.SEEK_SET)
                stream.seek(first)
                while length:
                    data = stream.read(min(length, CHUNK))
                    write_all(descriptor, data)
                    length -= len(data)


def _short() -> InvalidLayer:
    return InvalidLayer("a layer's tar is shorter than its index says", hint="run `lamina fsck --repair`")
