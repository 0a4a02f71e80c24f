"""Archives that ADD unpacks: a tar, plain or compressed. They are known by their content, not by their name.

Nothing is unpacked to a disk: the archive is indexed, and its files become items of the layer. Paths are resolved
inside the target directory as if that were the root, as moby's archiver does it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

from lamina.build.files.copy_target import Path, Rule, Target
from lamina.build.patterns.trees import FileTree, described, hashed, read_exactly
from lamina.errors import InvalidLayer, LimitExceeded, UsageError
from lamina.host.files import CHUNK, SharedRange
from lamina.layer.archive_codec import archive_decoder, inflate_archive
from lamina.layer.entry import Entry, Kind
from lamina.layer.file_content import SMALL, FileContents, open_content
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tar import TarParser
from lamina.layer.tarheader import BLOCK, is_header

if TYPE_CHECKING:
    from lamina.build.protocols import Log
    from lamina.layer.tar_write import Content

MAX_ARCHIVE = 64 << 30  # bytes of an unpacked archive
_SMALLEST = 32  # bytes: no tar becomes so small by compression


class Archive:
    """An indexed tar in an open file."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        """Raises UsageError (damaged), LimitExceeded."""
        self._file = file
        self.what = what
        self.index = _indexed(file, what)
        self._contents = FileContents(self.index, self._range)

    def content(self, row: int) -> Content:
        index = self.index
        if index.size[row] <= SMALL and index.sparse(row) is None:
            with self._contents.open(row) as stream:
                return stream.read()
        return lambda: open_content(index, row, self._range)

    def close(self) -> None:
        self._file.close()

    def _range(self, start: int, end: int) -> SharedRange:
        return SharedRange(self, self._file.fileno(), start, end)


class ArchiveFiles:
    """The rows of an archive as nodes of a tree, for ``Target``."""

    keeps_owners = True
    root = 0

    def __init__(self, archive: Archive) -> None:
        self.what = archive.what
        self._archive = archive
        self._index = archive.index
        self._stated: dict[int, int] = {}

    def state(self, node: int, link: int) -> None:
        """A hard link states the attributes of its file again: archivers write them, and moby's applies them."""
        self._stated[node] = link

    def child(self, node: int, name: bytes) -> int | None:
        return None

    def children(self, node: int) -> Sequence[tuple[bytes, int]]:
        return ()

    def kind(self, node: int) -> Kind:
        return Kind(self._index.kind[node])

    def link(self, node: int) -> bytes:
        return self._index.link(node)

    def entry(self, node: int, path: bytes) -> Entry:
        entry = self._index.entry(node, path)
        link = self._stated.get(node)
        if link is None:
            return entry
        after = self._index.entry(link)
        return replace(entry, mode=after.mode, uid=after.uid, gid=after.gid, mtime=after.mtime)

    def content(self, node: int) -> Content:
        return self._archive.content(node)

    def inode(self, node: int) -> Hashable | None:
        return node  # each row is a file of its own; hard links are put with the row of their target

    def digest(self, node: int) -> bytes:
        return _digest(self._archive.content(node))

    def described(self, node: int) -> bytes:
        return described(self, node)


class ArchiveTree:
    """An archive as a tree: later members replace earlier ones, hard links are resolved. Names that would be
    whiteouts are left out. Owners are not kept: it is a context."""

    keeps_owners = False
    root = 0

    def __init__(self, archive: Archive) -> None:
        """Raises UsageError."""
        from lamina.union.merge import merge

        self.what = archive.what
        self._archive = archive
        try:
            self._tree = merge([archive.index])
        except InvalidLayer as error:
            raise UsageError(f"{archive.what}: {error.message}", hint="check the archive") from None

    def child(self, node: int, name: bytes) -> int | None:
        return self._tree.child(node, name)

    def children(self, node: int) -> Sequence[tuple[bytes, int]]:
        return sorted(self._tree.children(node).items())

    def kind(self, node: int) -> Kind:
        return self._tree.kind(node)

    def link(self, node: int) -> bytes:
        return self._tree.link_target(node)

    def entry(self, node: int, path: bytes) -> Entry:
        return replace(self._tree.entry(node), path=path, uid=0, gid=0, offset=0)

    def content(self, node: int) -> Content:
        return self._archive.content(self._tree.content(node)[1])

    def inode(self, node: int) -> Hashable | None:
        return self._tree.inode(node) if self._tree.links(node) > 1 else None

    def digest(self, node: int) -> bytes:
        return _digest(self.content(node))

    def described(self, node: int) -> bytes:
        return described(self, node)


def opened(tree: FileTree[Any], node: Any, name: bytes) -> Archive | None:
    """Open a regular file as an archive; None if it is none. ``name``: what messages call it. Raises UsageError
    (damaged), LimitExceeded."""
    entry = tree.entry(node, b"")
    if entry.size < _SMALLEST:
        return None
    content = tree.content(node)
    what = f"the archive {name.decode('utf-8', 'backslashreplace')!r:.200}"
    return opened_content(content, what)


def opened_content(content: Content, what: str) -> Archive | None:
    """As ``opened``, for content."""
    stream: Any = BytesIO(content) if isinstance(content, bytes) else content() if content is not None else BytesIO()
    try:
        return opened_stream(stream, read_exactly(stream, CHUNK), what)
    finally:
        stream.close()


def opened_stream(stream: Any, start: bytes, what: str) -> Archive | None:
    """As ``opened``, for a stream of which ``start`` was read already."""
    if not is_tar(start):
        return None
    file = _inflated(stream, start, what)
    try:
        return Archive(file, what)
    except BaseException:
        file.close()
        raise


def unpack(archive: Archive, target: Target, top: Path, rule: Rule, log: Log) -> None:
    """Write the files of an archive into the directory ``top``. Raises UsageError."""
    index, files = archive.index, ArchiveFiles(archive)
    skipped = 0
    for row in range(len(index)):
        kind = index.kind[row]
        path = index.path(row)
        if kind in (Kind.WHITEOUT, Kind.OPAQUE):
            skipped += 1
            continue
        above, _, name = path.rpartition(b"/")
        if not name:
            continue  # the directory itself: it keeps its attributes
        parent = _directory(target, top, above)
        if kind == Kind.DIRECTORY:
            target.put_directory(parent, name, files, row, rule, force=True)
        elif kind == Kind.HARDLINK:
            link = index.link(row)
            found, missing = target.resolve(link.rpartition(b"/")[0], within=top)
            place = None if missing else target.child(found, link.rpartition(b"/")[2])
            if place is None or place.is_directory:
                raise UsageError(
                    f"{archive.what}: {path!r:.200} is a hard link to {link!r:.200}, which is not there",
                    hint="check the archive",
                )
            if place.tree is files:
                files.state(place.node, row)
            target.put_link(parent, name, [*found, (link.rpartition(b"/")[2], place)])
        else:
            target.put(parent, name, files, row, rule, force=True)
    if skipped:
        log(f"{archive.what}: {skipped} names that begin with .wh. are left out\n".encode())


def _directory(target: Target, top: Path, path: bytes) -> Path:
    found, missing = target.resolve(path, within=top)
    return target.directories(found, missing, 0o755, (0, 0), 0)


def is_tar(start: bytes) -> bool:
    """Whether a file that begins like this is a tar, plain or compressed (pure)."""
    if _begins_tar(start):
        return True
    decoder = archive_decoder(start[:BLOCK])
    if decoder.compression == "none":
        return False
    head = b""
    try:
        for piece in decoder.feed(start):
            head += piece
            if len(head) >= BLOCK:
                break
    except InvalidLayer:
        return False
    return _begins_tar(head)


def _begins_tar(start: bytes) -> bool:
    """Whether a member begins here; the zeros of an empty archive do not count."""
    return len(start) >= BLOCK and any(start[:BLOCK]) and is_header(start[:BLOCK])


def _digest(content: Content) -> bytes:
    return hashed(content) if callable(content) else hashlib.sha256(content or b"").digest()


def _inflated(stream: Any, start: bytes, what: str) -> IO[bytes]:
    """The plain tar in a temporary file."""
    try:
        return inflate_archive(archive_decoder(start[:BLOCK]), start, stream, what, MAX_ARCHIVE)
    except LimitExceeded as error:
        raise LimitExceeded(f"{what}: {error.message}", hint=error.hint) from None
    except InvalidLayer as error:
        raise UsageError(f"{what}: {error.message}", hint="check whether it is complete") from None


def _indexed(file: IO[bytes], what: str) -> LayerIndex:
    builder = IndexBuilder()
    parser = TarParser(builder)
    file.seek(0)
    try:
        while data := file.read(CHUNK):
            parser.feed(data)
        parser.finish()
    except InvalidLayer as error:
        raise UsageError(f"{what}: {error.message}", hint="check the archive") from None
    return builder.finish(parser.position)
