"""Files of the host as a layer that is never written: its index is in memory, its contents stay in place."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from typing import Self

from lamina.errors import UsageError
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar_write import Content, Item, Readable
from lamina.spec.digest import Digest


class ScannedLayer:
    """A ``LayerHandle`` over scanned files. Offsets are those of an imaginary archive with all file contents in a
    row.

    ``where`` is the absolute path that was scanned. ``diff_id`` identifies the scan; it is not the digest of an
    archive. Only a scan of the same path with the same names, sizes and times has the same one.
    """

    def __init__(self, items: Iterable[Item], where: str, *, keep: object = None) -> None:
        """Index the items. ``keep`` is an object to keep alive as long as this layer."""
        self._keep = keep
        builder, end = IndexBuilder(), 0
        self._starts: list[int] = []
        self._contents: list[Content] = []
        for entry, content in items:
            offset = 0
            if entry.kind == Kind.FILE:
                offset = end
                if entry.size:
                    self._starts.append(end)
                    self._contents.append(content)
                    end += entry.size
            builder.add_entry(entry, offset)
        self._where = where
        self._size = end
        self._index = builder.finish(end)
        self.diff_id = Digest.of(where.encode("utf-8", "surrogateescape") + b"\0" + bytes(self._index.buffer))

    def index(self) -> LayerIndex:
        return self._index

    def open(self, start: int = 0, end: int | None = None) -> _Part:
        """Open the bytes of one file. Raises UsageError if the file changed since the scan, SystemFailure."""
        number = bisect_right(self._starts, start) - 1
        if number < 0:
            return _Part(io.BytesIO(), 0, self._where)
        behind = self._starts[number + 1] if number + 1 < len(self._starts) else self._size
        content = self._contents[number]
        file = content() if callable(content) else io.BytesIO(content or b"")
        part = _Part(file, min(behind, self._size if end is None else end) - self._starts[number], self._where)
        part.skip(start - self._starts[number])
        return part


class _Part:
    """The next ``size`` bytes of an open file."""

    def __init__(self, file: Readable, size: int, where: str) -> None:
        self._file, self._left, self._where = file, size, where

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.read(min(size, 1 << 20)))

    def read(self, size: int = -1, /) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        if not size:
            return b""
        data = self._file.read(size)
        if not data:
            raise UsageError(
                f"a file in {self._where!r:.200} was truncated while it was read",
                hint="try again when nothing writes to it",
            )
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
