"""Writing of layers: the same entries give the same bytes on every machine.

It writes plain ustar headers where they suffice, and PAX records where not (long or non-UTF-8 names, large numbers,
fractions of seconds, xattrs, sparse files in GNU tar's format 1.0). There are no user names, host names or access
times. The archive ends with two zero blocks and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from zlib import adler32

from lamina.errors import InvalidLayer, UsageError
from lamina.host.files import CHUNK
from lamina.layer.entry import Entry, Kind
from lamina.layer.tarheader import BLOCK, SCHILY_XATTR
from lamina.layer.whiteout import opaque_path_for, path_for

_MOST_ID, _MOST = 0o7777777, 0o77777777777  # the largest values of header fields
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")
_FLAGS = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
    Kind.WHITEOUT: b"0",
    Kind.OPAQUE: b"0",
}


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


Content = bytes | Callable[[], Readable] | None
"""The content of a file: bytes, or a function that opens it (seekable for a sparse file); None for other entries."""
Item = tuple[Entry, Content]
Write = Callable[[bytes], object]


class LayerWriter:
    """Writes a tar: ``add`` entries in their final order, then ``close``. Modification times later than ``epoch``
    (seconds, SOURCE_DATE_EPOCH) are set to it; earlier ones are kept."""

    def __init__(self, write: Write, *, epoch: int | None = None) -> None:
        self._write = write
        self._epoch = epoch

    def add(self, entry: Entry, content: Content = None) -> None:
        """Write one entry. Raises UsageError if the content is not ``entry.size`` bytes long, or the entry can't be
        written."""
        kind = entry.kind
        if kind in (Kind.WHITEOUT, Kind.OPAQUE):
            path = path_for(entry.path) if kind == Kind.WHITEOUT else opaque_path_for(entry.path)
            self._header(Entry(path, Kind.FILE, mode=0), 0)
            return
        if kind != Kind.FILE:
            self._header(entry, 0)
            return
        if entry.sparse is not None and callable(content):
            self._sparse(entry, entry.sparse, content)
            return
        self._header(entry, entry.size)
        if isinstance(content, bytes):
            if len(content) != entry.size:
                raise UsageError(
                    f"{entry.path!r:.200} should have {entry.size} bytes, but has {len(content)}",
                    hint="give content of the stated size",
                )
            self._write(content)
        elif entry.size or content is not None:
            self._copy(entry, content)
        self._write(bytes(-entry.size % BLOCK))

    def close(self) -> None:
        self._write(bytes(2 * BLOCK))

    def _copy(self, entry: Entry, content: Callable[[], Readable] | None) -> None:
        if content is None:
            raise UsageError(
                f"{entry.path!r:.200} should have {entry.size} bytes, but has no content",
                hint="give content of the stated size",
            )
        left, stream = entry.size, content()
        try:
            while left > 0:
                data = stream.read(min(left, CHUNK))
                if not data:
                    break
                self._write(data)
                left -= len(data)
            if left or stream.read(1):
                raise UsageError(
                    f"{entry.path!r:.200} changed while it was read", hint="try again when nothing writes to it"
                )
        finally:
            stream.close()

    def _sparse(self, entry: Entry, segments: tuple[tuple[int, int], ...], content: Callable[[], Readable]) -> None:
        """Write a sparse file: the map as text in the first blocks of the member, then only the data segments."""
        lines = [len(segments), *(number for segment in segments for number in segment)]
        table = b"".join(b"%d\n" % number for number in lines)
        table += bytes(-len(table) % BLOCK)
        stored = len(table) + sum(length for _, length in segments)
        self._header(entry, stored, sparse=True)
        self._write(table)
        stream = content()
        try:
            seek = getattr(stream, "seek", None)
            if seek is None:
                raise UsageError(
                    f"{entry.path!r:.200} is sparse, but its content is not seekable", hint="give a seekable stream"
                )
            for start, left in segments:
                seek(start)
                while left > 0:
                    data = stream.read(min(left, CHUNK))
                    if not data:
                        raise UsageError(
                            f"{entry.path!r:.200} changed while it was read",
                            hint="try again when nothing writes to it",
                        )
                    self._write(data)
                    left -= len(data)
        finally:
            stream.close()
        self._write(bytes(-stored % BLOCK))

    def _header(self, entry: Entry, size: int, *, sparse: bool = False) -> None:
        if not sparse and self._plain_header(entry, size):
            return
        kind = entry.kind
        name = entry.path + b"/" if kind == Kind.DIRECTORY and entry.path else entry.path or b"./"
        seconds, nanoseconds = divmod(entry.mtime, 1_000_000_000)
        if self._epoch is not None and seconds >= self._epoch:
            seconds, nanoseconds = self._epoch, 0
        records: list[tuple[bytes, bytes]] = []
        split = _split_name(name)
        if sparse:
            records += [
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", name),
                (b"GNU.sparse.realsize", b"%d" % entry.size),
            ]
        if split is None:
            records.append((b"path", name))
            split = name[:100], b""
        link = entry.link if kind in (Kind.SYMLINK, Kind.HARDLINK) else b""
        if len(link) > 100:
            records.append((b"linkpath", link))
        uid, gid = entry.uid, entry.gid
        if not 0 <= uid <= _MOST_ID:
            records.append((b"uid", b"%d" % uid))
            uid = 0
        if not 0 <= gid <= _MOST_ID:
            records.append((b"gid", b"%d" % gid))
            gid = 0
        if not 0 <= size <= _MOST:
            records.append((b"size", b"%d" % size))
            size = 0
        if nanoseconds or not 0 <= seconds <= _MOST:
            records.append((b"mtime", _pax_time(seconds, nanoseconds)))
            seconds = 0
        if entry.xattrs:
            records += [(SCHILY_XATTR + key, value) for key, value in sorted(entry.xattrs.items())]
        if records:
            if any(not _is_utf8(value) for key, value in records if key in _NAMES):
                records.insert(0, (b"hdrcharset", b"BINARY"))
            body = b"".join(_record(key, value) for key, value in records)
            self._write(
                _block(b"PaxHeaders/" + name[-80:].strip(b"/"), b"", b"x", b"", 0o644, 0, 0, len(body), 0, (0, 0))
            )
            self._write(body + bytes(-len(body) % BLOCK))
        device = entry.rdev if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0)
        if max(device) > _MOST_ID:
            raise UsageError(
                f"{entry.path!r:.200}: the device number {device} does not fit into a tar",
                hint="leave the device out",
            )
        self._write(_block(*split, _FLAGS[kind], link[:100], entry.mode & 0o7777, uid, gid, size, seconds, device))

    def _plain_header(self, entry: Entry, size: int) -> bool:
        """Write the header of a file or directory if it is one block, as nearly all are: the same bytes as
        ``_header`` writes, sooner. Returns False if it is not."""
        kind = entry.kind
        if kind is Kind.FILE:
            name, tail, tail_sum = entry.path, _FILE_TAIL, _FILE_SUM
        elif kind is Kind.DIRECTORY:
            name, tail, tail_sum = entry.path + b"/", _DIRECTORY_TAIL, _DIRECTORY_SUM
        else:
            return False
        uid, gid, mtime = entry.uid, entry.gid, entry.mtime
        seconds = mtime // 1_000_000_000
        if self._epoch is not None and seconds >= self._epoch:
            seconds = mtime = self._epoch
        elif mtime % 1_000_000_000:
            return False
        if (
            len(name) > 100
            or len(name) < 2
            or entry.xattrs
            or not 0 <= uid <= _MOST_ID
            or not 0 <= gid <= _MOST_ID
            or not 0 <= size <= _MOST
            or not 0 <= seconds <= _MOST
        ):
            return False
        head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
            name.ljust(100, b"\0"), entry.mode & 0o7777, uid, gid, size, seconds,
        )  # fmt: skip
        checksum = (adler32(head) & 0xFFFF) - 1 + tail_sum + 8 * 32
        self._write(head + b"%06o\0 " % checksum + tail)
        return True


def write_layer(items: Iterable[Item], write: Write, *, epoch: int | None = None, ordered: bool = False) -> None:
    """Write a whole layer in a fixed order: by path, whiteouts before their siblings, the target of a hard link
    before the link. ``ordered``: the items come in this order, each path once, and are written as they come. Raises
    InvalidLayer if a path occurs twice."""
    writer = LayerWriter(write, epoch=epoch)
    for entry, content in items if ordered else _ordered(list(items)):
        writer.add(entry, content)
    writer.close()


def _ordered(items: list[Item]) -> Iterator[Item]:
    items.sort(key=_order)
    seen: set[bytes] = set()
    for entry, _ in items:
        if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE):
            if entry.path in seen:
                raise InvalidLayer(f"{entry.path!r:.200} occurs twice in the layer", hint="add each path only once")
            seen.add(entry.path)
    later: list[Item] = []
    written: set[bytes] = set()
    targets = {entry.link for entry, _ in items if entry.kind == Kind.HARDLINK}
    for entry, content in items:
        if entry.kind == Kind.HARDLINK and entry.link in seen and entry.link not in written:
            later.append((entry, content))
            continue
        yield entry, content
        if entry.path in targets:
            written.add(entry.path)
    yield from later  # hard links whose target sorts after them


def _order(item: Item) -> bytes:
    """Return the sort key: the path's components, then the position among entries of one path. No name contains a
    zero byte, so a path with zeros instead of slashes sorts by component."""
    entry = item[0]
    parts = entry.path.replace(b"/", b"\0")
    if entry.kind == Kind.WHITEOUT:
        parts, _, name = parts.rpartition(b"\0")
        return parts + b"\0\0\1" + name
    if entry.kind == Kind.OPAQUE:
        return parts + b"\0\0\1"
    # a path sorts after its parent, and after the whiteouts of its siblings
    return parts + (b"\0\0\0" if entry.kind == Kind.DIRECTORY else b"\0\0\2")


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a name into (name, prefix) for ustar; None if it does not fit."""
    if len(name) <= 100:
        return name, b""
    cut = name.find(b"/", max(0, len(name) - 101), len(name) - 1)
    if cut < 1 or cut > 155:
        return None
    return name[cut + 1 :], name[:cut]


def _pax_time(seconds: int, nanoseconds: int) -> bytes:
    if seconds < 0 and nanoseconds:
        seconds, nanoseconds = seconds + 1, 1_000_000_000 - nanoseconds
        sign = b"-" if seconds == 0 else b""
    else:
        sign = b""
    fraction = (b".%09d" % nanoseconds).rstrip(b"0") if nanoseconds else b""
    return sign + b"%d" % seconds + fraction


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return b"%d" % length + body


def _block(
    name: bytes, prefix: bytes, flag: bytes, link: bytes, mode: int, uid: int, gid: int, size: int, mtime: int,
    device: tuple[int, int],
) -> bytes:  # fmt: skip
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    tail = b"%b%bustar\00000%b%07o\0%07o\0%b" % (
        flag, link.ljust(100, b"\0"), bytes(64), device[0], device[1], prefix.ljust(155, b"\0"),
    )  # fmt: skip
    # the lower half of adler32 is the sum of the bytes plus one, as long as the sum is below 65521
    sums = (adler32(head) & 0xFFFF) + (adler32(tail[:178]) & 0xFFFF) + (adler32(tail[178:]) & 0xFFFF)
    checksum = sums - 3 + 8 * 32
    return (head + b"%06o\0 " % checksum + tail).ljust(BLOCK, b"\0")


_TAIL = 156  # where the fields after the checksum begin
_FILE_TAIL, _DIRECTORY_TAIL = (
    _block(b"", b"", _FLAGS[kind], b"", 0, 0, 0, 0, 0, (0, 0))[_TAIL:] for kind in (Kind.FILE, Kind.DIRECTORY)
)
_FILE_SUM, _DIRECTORY_SUM = sum(_FILE_TAIL), sum(_DIRECTORY_TAIL)
