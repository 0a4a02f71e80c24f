"""Makes an image of one layer from a root file system: a tar (also compressed) or a directory. Owners are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Protocol

from lamina.errors import InvalidLayer, NotFound, UsageError
from lamina.host.files import CHUNK, SharedRange, reported
from lamina.host.spool import Spool
from lamina.layer.archive_codec import archive_decoder
from lamina.layer.decode import LayerReader
from lamina.layer.entry import Kind
from lamina.layer.file_content import Content, open_content
from lamina.layer.index import LayerIndex
from lamina.layer.tar_write import Item
from lamina.layer.tarheader import BLOCK
from lamina.layer.whiteout import opaque_path_for, path_for
from lamina.scan.directory import scan, scan_file
from lamina.settings import MAX_LAYER
from lamina.union.squashed import squashed

OnWarning = Callable[[str], object]


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@contextmanager
def archive_items(
    source: Source,
    what: str,
    *,
    max_layer: int = MAX_LAYER,
    implied: bool = True,
    files_only: bool = False,
    on_warning: OnWarning = lambda text: None,
) -> Iterator[list[Item]]:
    """Read the entries of a tar (plain, gzip, zstd, bzip2, xz or lzma), each path once, with hard links resolved.
    They can be used while the block runs, because the tar is in a temporary file. ``what`` names it in errors.
    ``implied``: add entries for directories that the tar does not state. ``files_only``: raise an error for names of
    whiteouts instead of dropping them.

    Raises InvalidLayer, LimitExceeded (``max_layer`` bytes), UsageError (a whiteout), SystemFailure.
    """
    spooling = Spool(what)
    with spooling.file as spool:
        index = _spooled(source, spooling, what, max_layer)
        for warning in index.warnings:
            on_warning(warning)
        if files_only:
            _check_whiteouts(index, what)
        if not len(index):
            raise InvalidLayer(f"{what} has no entries", hint="check that it is a tar of a root file system")
        if implied and _is_image_archive(index):
            on_warning(f"{what} looks like an archive of images, not of files: use `lamina load` for it")
        yield [
            (one.entry, None if one.content is None else partial(_open, index, one.content[1], spool))
            for one in squashed([index], 0, implied=implied)
        ]


def _check_whiteouts(index: LayerIndex, what: str) -> None:
    row = next((row for row, kind in enumerate(index.kind) if kind >= Kind.WHITEOUT), None)
    if row is None:
        return
    name = (opaque_path_for if index.kind[row] == Kind.OPAQUE else path_for)(index.path(row))
    raise UsageError(
        f"{what} has {os.fsdecode(name)!r:.300}: in an image this name is a whiteout, which hides a file",
        hint="leave it out: tar --exclude='.wh.*'",
    )


def directory_items(path: str, *, on_warning: OnWarning = lambda text: None) -> list[Item]:
    """Scan a directory of this host with its owners; the directory itself becomes the root. Raises NotFound,
    SystemFailure."""
    if not os.path.isdir(path):
        raise NotFound(f"{path!r:.300} is not a directory", hint="check the path")
    real = os.path.realpath(path)
    return [scan_file(real, b"", owner=None), *scan(real, owner=None, on_warning=on_warning)]


def _spooled(source: Source, spool: Spool, what: str, max_layer: int) -> LayerIndex:
    head = _read(source, what)
    if not head:
        raise InvalidLayer(f"{what} is empty", hint="check that it is a tar of a root file system")
    while len(head) < BLOCK and (more := _read(source, what)):
        head += more
    reader = LayerReader(max_layer=max_layer, what=what, inflate=archive_decoder(head))
    data = head
    while data:
        for piece in reader.feed(data):
            spool.write(piece)
        data = _read(source, what)
    spool.finish()
    return reader.finish().index


def _read(source: Source, what: str) -> bytes:
    with reported(what):
        return source.read(CHUNK)


def _open(index: LayerIndex, row: int, spool: IO[bytes]) -> Content:
    return open_content(index, row, lambda start, end: SharedRange(spool, spool.fileno(), start, end))


def _is_image_archive(index: LayerIndex) -> bool:
    top = {index.basename(row) for row, directory in enumerate(index.directory) if directory == 0}
    return b"oci-layout" in top or {b"manifest.json", b"repositories"} <= top
