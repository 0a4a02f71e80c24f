"""A root file system becomes an image of one layer: a tar (also compressed), or a directory. Owners are kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, Protocol

from lamina.config import MAX_LAYER
from lamina.errors import InvalidLayer, NotFound
from lamina.files import CHUNK, SharedRange, reported
from lamina.layer.codec import sniff
from lamina.layer.content import Content, open_content
from lamina.layer.index import LayerIndex
from lamina.layer.read import LayerReader
from lamina.layer.write import Item
from lamina.scan.directory import scan, scan_file
from lamina.union.squashed import squashed

OnWarning = Callable[[str], object]


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@contextmanager
def archive_items(
    source: Source, what: str, *, max_layer: int = MAX_LAYER, on_warning: OnWarning = lambda text: None
) -> Iterator[list[Item]]:
    """The entries of a tar (plain, gzip, zstd, bzip2 or xz), each path once, hardlinks bound, usable while the
    block runs: the tar lies in a temporary file. ``what`` names it in messages.

    Raises InvalidLayer, LimitExceeded (``max_layer`` bytes), SystemFailure.
    """
    with reported(tempfile.gettempdir()):
        spool = tempfile.TemporaryFile(prefix="lamina-")  # noqa: SIM115  (closed below)
    with spool:
        index = _spooled(source, spool, what, max_layer)
        for warning in index.warnings:
            on_warning(warning)
        if not len(index):
            raise InvalidLayer(f"{what} has no entries", hint="is it a tar of a root file system?")
        if _is_image_archive(index):
            on_warning(f"{what} looks like an archive of images, not of files: `lamina load` reads these")
        yield [
            (one.entry, None if one.content is None else partial(_open, index, one.content[1], spool))
            for one in squashed([index], 0, implied=True)
        ]


def directory_items(path: str, *, on_warning: OnWarning = lambda text: None) -> list[Item]:
    """Everything in a directory of this machine with its owners, and the directory itself as the root. Raises
    NotFound, SystemFailure."""
    if not os.path.isdir(path):
        raise NotFound(f"no directory {path!r:.300}", hint="check the path")
    real = os.path.realpath(path)
    return [scan_file(real, b"", owner=None), *scan(real, owner=None, on_warning=on_warning)]


def _spooled(source: Source, spool: IO[bytes], what: str, max_layer: int) -> LayerIndex:
    head = source.read(CHUNK)
    if not head:
        raise InvalidLayer(f"{what} is empty", hint="is it a tar of a root file system?")
    plain = _python_codec(head)
    reader = LayerReader("none" if plain else sniff(head), max_layer=max_layer, what=what)
    stream: Source = _Joined(head, source)
    if plain is not None:
        stream = plain(stream)
    while data := _read(stream, plain is not None, what):
        for piece in reader.feed(data):
            with reported(tempfile.gettempdir()):
                spool.write(piece)
    with reported(tempfile.gettempdir()):
        spool.flush()
    return reader.finish().index


def _read(stream: Source, decoding: bool, what: str) -> bytes:
    if not decoding:
        with reported(what):
            return stream.read(CHUNK)
    import lzma

    try:
        return stream.read(CHUNK)
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise InvalidLayer(f"{what}: corrupt data: {error}", hint="get the archive again") from None


def _python_codec(head: bytes) -> Callable[[Any], Source] | None:
    """bzip2 and xz, which layers never have."""
    if head.startswith(b"BZh"):
        import bz2

        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\0"):
        import lzma

        return lzma.LZMAFile
    return None


class _Joined:
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, rest: Source) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            size = len(self._head) if size < 0 else size
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._rest.read(size)

    def seekable(self) -> bool:
        return False


def _open(index: LayerIndex, row: int, spool: IO[bytes]) -> Content:
    return open_content(index, row, lambda start, end: SharedRange(spool, spool.fileno(), start, end))


def _is_image_archive(index: LayerIndex) -> bool:
    top = {index.basename(row) for row, directory in enumerate(index.directory) if directory == 0}
    return b"oci-layout" in top or {b"manifest.json", b"repositories"} <= top
