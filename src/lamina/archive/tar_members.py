"""Members of a tar archive of images, read in place, never extracted. A compressed archive (gzip, zstd, bzip2, xz,
lzma) is first inflated to an unnamed temporary file, within limits; an archive on a pipe is written to one, because
docker's list of images comes last and refers to members before it."""

from __future__ import annotations

import os
import stat
import sys
from typing import IO

from lamina.errors import InvalidDocument, InvalidLayer, LimitExceeded, NotFound
from lamina.host.files import CHUNK, READ_FLAGS, SharedRange, reported
from lamina.layer.archive_codec import archive_decoder, inflate_archive
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.layer.tarheader import BLOCK

_MAX_ARCHIVE = 256 << 30
_MAX_DOCUMENT = 64 << 20


class Members:
    """The regular files of a tar archive by normalised name. The last member of a name counts; links to other members
    are followed. ``path`` may be ``-`` for standard input."""

    def __init__(self, path: str) -> None:
        """Open and index the archive. Raises NotFound, InvalidDocument (not a tar archive), LimitExceeded,
        SystemFailure."""
        self.path = path
        self._file = _opened(path)
        try:
            self._index = self._parse()
        except InvalidLayer as error:
            self._file.close()
            raise InvalidDocument(
                f"{path} is not a tar archive: {error.message}", hint="check the file: it may be truncated"
            ) from None
        except BaseException:
            self._file.close()
            raise
        self._rows: dict[bytes, int] = {self._index.path(row): row for row in range(len(self._index))}

    def __contains__(self, name: str) -> bool:
        return self._row(name) is not None

    def names(self) -> list[str]:
        return [os.fsdecode(name) for name in self._rows]

    def size(self, name: str) -> int:
        """Return the size of a member in bytes. Raises KeyError."""
        row = self._row(name)
        if row is None:
            raise KeyError(name)
        size: int = self._index.size[row]
        return size

    def open(self, name: str, start: int = 0, end: int | None = None) -> SharedRange:
        """Open a member, or a range of it. Raises KeyError."""
        row = self._row(name)
        if row is None:
            raise KeyError(name)
        offset, size = self._index.offset[row], self._index.size[row]
        return SharedRange(
            self, self._file.fileno(), offset + start, offset + (size if end is None else min(end, size))
        )

    def read(self, name: str) -> bytes:
        """Read a small member completely. Raises KeyError, LimitExceeded."""
        if self.size(name) > _MAX_DOCUMENT:
            raise LimitExceeded(
                f"{self.path}: {name!r:.100} is too large: {self.size(name)} bytes",
                hint="check the file: it may not be an archive of images",
            )
        return self.open(name).read()

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _row(self, name: str) -> int | None:
        path = os.fsencode(name)
        for _ in range(8):
            row = self._rows.get(path)
            if row is None:
                return None
            kind = self._index.kind[row]
            if kind == Kind.FILE:
                return row
            if kind == Kind.HARDLINK:
                path = self._index.link(row)
            elif kind == Kind.SYMLINK:
                target = self._index.link(row)
                joined = target if target.startswith(b"/") else os.path.join(os.path.dirname(path), target)
                path = os.path.normpath(b"/" + joined).lstrip(b"/")
                if path not in self._rows:  # some tools write targets relative to the root of the archive
                    path = os.path.normpath(b"/" + target).lstrip(b"/")
            else:
                return None
        return None

    def _parse(self) -> LayerIndex:
        builder = IndexBuilder()
        parser = TarParser(builder)
        self._file.seek(0)
        with reported(self.path):
            while data := self._file.read(CHUNK):
                parser.feed(data)
                # skip content without reading it: only headers matter
                jump = parser.skippable() - parser.skippable() % CHUNK
                if jump:
                    self._file.seek(jump, os.SEEK_CUR)
                    parser.skipped(jump)
        size = self._file.seek(0, os.SEEK_END)
        if parser.position > size:
            raise InvalidLayer(
                f"it is truncated: it ends after {size} bytes, in the middle of a member",
                hint="get the archive again",
            )
        parser.finish()
        return builder.finish(parser.position)


def _opened(path: str) -> IO[bytes]:
    """Open the archive, uncompressed and seekable."""
    at_hand = _standard_input() if path == "-" else _regular(path)
    source: IO[bytes] = at_hand or sys.stdin.buffer
    start = source.read(BLOCK)
    inflate = archive_decoder(start)
    if inflate.compression == "none" and at_hand is not None:
        source.seek(0)
        return source
    try:
        # the reader of the archive closes it
        return inflate_archive(inflate, start, source, _name(path), _MAX_ARCHIVE)
    except LimitExceeded as error:
        raise LimitExceeded(f"{path}: {error.message}", hint=error.hint) from None
    except InvalidLayer as error:
        raise InvalidDocument(f"{path}: {error.message}", hint=error.hint) from None
    finally:
        if at_hand is not None:
            at_hand.close()


def _name(path: str) -> str:
    return "the archive on stdin" if path == "-" else path


def _standard_input() -> IO[bytes] | None:
    """Return standard input if it is a regular file at its start (`load < FILE` reads it in place), else None."""
    try:
        number = sys.stdin.fileno()
        if stat.S_ISREG(os.fstat(number).st_mode) and os.lseek(number, 0, os.SEEK_CUR) == 0:
            return os.fdopen(os.dup(number), "rb", buffering=0)
    except (OSError, ValueError, AttributeError):  # it is closed, or replaced by an object without a descriptor
        pass
    return None


def _regular(path: str) -> IO[bytes]:
    if not os.path.exists(path):
        raise NotFound(f"{path!r:.300} was not found", hint="check the path")
    with reported(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidDocument(
                f"{path!r:.300} is not a regular file", hint="name a tar archive, or `-` for standard input"
            )
        descriptor = os.open(path, READ_FLAGS & ~getattr(os, "O_NOFOLLOW", 0))
        return os.fdopen(descriptor, "rb", buffering=0)
