"""The streaming tar parser: it is fed bytes as they come, and adds entries to an ``IndexBuilder``.

It reads v7, ustar, PAX, GNU and star archives: long names, base-256 numbers, xattrs, sparse members of all four
formats. Types that have only a header (links, directories, devices, fifos) have no content whatever size they state,
as in Go's and Python's readers. Global PAX headers are ignored, as in every container engine. Bytes after the
end-of-archive blocks belong to the archive, but are not parsed.
"""

from __future__ import annotations

from lamina.errors import InvalidLayer, LaminaError, LimitExceeded
from lamina.host.privileges import MAX_ID
from lamina.layer import tarheader
from lamina.layer.entry import Kind
from lamina.layer.index import IndexBuilder
from lamina.layer.safe_path import normalise
from lamina.layer.tarheader import BLOCK, HEADER, MAX_NUMBER, MAX_PAX
from lamina.layer.whiteout import PREFIX, classify, is_aufs_link, is_aufs_own

_ZEROS = bytes(BLOCK)
_HINT = "fetch or build the layer again: it is malformed"
_FILE, _DIRECTORY = int(Kind.FILE), int(Kind.DIRECTORY)
_KINDS = {
    b"0": _FILE,
    b"\0": _FILE,
    b"7": _FILE,
    b"1": int(Kind.HARDLINK),
    b"2": int(Kind.SYMLINK),
    b"3": int(Kind.CHAR),
    b"4": int(Kind.BLOCK),
    b"5": _DIRECTORY,
    b"6": int(Kind.FIFO),
    b"S": _FILE,
    b"D": _DIRECTORY,  # GNU's directory with a list of names as content
}
_MAX_DEVICE = (1 << 32) - 1
_CACHE = 1 << 14
MAX_AUFS_LINKS = 100_000


class TarParser:
    """The parser: ``feed`` it the uncompressed archive in chunks of any size, then call ``finish``."""

    def __init__(self, builder: IndexBuilder) -> None:
        self.builder = builder
        self.position = 0
        """Bytes fed so far."""
        self._carry = bytearray()  # the beginning of an incomplete block or extension
        self._skip = 0  # bytes of content and padding that are still to come
        self._padding = 0  # padding among these bytes, which a truncated archive may lack
        # type and size of an extension header whose payload was not read yet
        self._payload: tuple[bytes, int] | None = None
        self._records: list[tuple[bytes, bytes]] = []
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._sparse: _SparseMember | None = None
        self._aufs_links: dict[bytes, _AufsLink] = {}
        self._zero_blocks = 0
        self._numbers: dict[bytes, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Parse a chunk. After an error (InvalidLayer, LimitExceeded) the parser can't be used any more."""
        start = self.position - len(self._carry)  # archive offset of data[0]
        self.position += len(chunk)
        if self._zero_blocks >= 2:
            return
        skip = self._skip
        if skip >= len(chunk) and not self._carry:
            self._skip = skip - len(chunk)
            return
        data = chunk
        if self._carry:
            self._carry += chunk
            if len(self._carry) < self._wanted():
                return  # wait until it is complete: tiny chunks must not cost a copy each
            data = bytes(self._carry)
        try:
            used = self._parse(data, start)
        except LaminaError as error:
            error.message = f"{error.message}, at or after byte {max(start, 0)} of the archive"
            raise
        self._carry = bytearray(data[used:])

    def _wanted(self) -> int:
        """Return how many bytes the next step needs: the whole payload of an extension, else a block."""
        if self._payload is None:
            return BLOCK
        size = self._payload[1]
        return size + (-size % BLOCK)

    def skippable(self) -> int:
        """Return how many of the next bytes are content that need not be fed: a reader that can seek may skip them
        and call ``skipped``."""
        return 0 if self._carry else self._skip

    def skipped(self, count: int) -> None:
        """Note that ``count`` bytes of content, at most ``skippable()``, were not fed."""
        self._skip -= count
        self.position += count

    def finish(self) -> None:
        """Check the end of the archive. Raises InvalidLayer if it is truncated."""
        if self._zero_blocks >= 2:
            return
        in_header = self._carry.strip(b"\0") if self._zero_blocks else self._carry
        waiting = self._payload or self._records or self._long_name is not None or self._long_link is not None
        if self._skip > self._padding or in_header or waiting or self._sparse:
            raise InvalidLayer(
                f"the archive ends too early, after {self.position} bytes", hint="fetch the layer again"
            )

    def _parse(self, data: bytes, start: int) -> int:
        """Parse everything that is complete in ``data``; return how much of it was used."""
        at, end = 0, len(data)
        unpack, cached, add = HEADER.unpack_from, self._number, self.builder.add
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                at += step
                self._skip -= step
                if self._skip:
                    return at
            if self._payload is not None:
                kind, size = self._payload
                padded = self._wanted()
                if end - at < padded:
                    return at
                self._payload = None
                self._extension(kind, data[at : at + size])
                at += padded
                continue
            if self._sparse is not None:
                if end - at < BLOCK:
                    return at
                self._continue_sparse(data[at : at + BLOCK], start + at)
                at += BLOCK
                continue
            if end - at < BLOCK:
                return at
            header = data[at : at + BLOCK]
            if header == _ZEROS:
                self._zero_blocks += 1
                at += BLOCK
                if self._zero_blocks == 2:
                    self._no_dangling_extension()
                    return end
                continue
            fields = unpack(header)
            name, mode, uid, gid, size_field, mtime, checksum, flag, _, magic, _, _, prefix = fields
            if self._zero_blocks or not tarheader.checksum_fits(header, checksum):
                raise InvalidLayer(
                    "invalid tar header (wrong checksum)", hint="fetch the layer again: it is damaged, or not a tar"
                )
            size = cached(size_field, "size")
            if size < 0:
                raise InvalidLayer(f"a member states the size {size}", hint=_HINT)
            at += BLOCK
            if flag in b"xgLKX" and flag != b"":
                self._begin_extension(flag, size)
                continue
            kind_number = _KINDS.get(flag)
            if kind_number is None:
                self._unknown(flag, name, size)
                continue
            name = name.partition(b"\0")[0]
            if magic == b"ustar\x0000" and prefix[0]:
                name = prefix.partition(b"\0")[0] + b"/" + name
            if (
                self._records
                or self._long_name is not None
                or self._long_link is not None
                or flag == b"S"
                or (kind_number != _FILE and kind_number != _DIRECTORY)
                or PREFIX in name
            ):
                self._member(fields, header, name, kind_number, size, start + at)
                continue
            # the common case: a file or directory described by its header alone
            if kind_number == _DIRECTORY or (flag == b"\0" and name.endswith(b"/")):
                kind_number = _DIRECTORY
                if flag != b"D":
                    size = 0
            user, group = cached(uid, "uid"), cached(gid, "gid")
            if user < 0 or group < 0 or user > MAX_ID or group > MAX_ID:
                raise _bad_ids(name, user, group)
            path = normalise(name)
            if not path and kind_number != _DIRECTORY:
                raise InvalidLayer(f"the root directory is stated as a file ({name!r:.100})", hint=_HINT)
            add(
                path,
                kind_number,
                cached(mode, "mode") & 0o7777,
                user,
                group,
                size if kind_number == _FILE else 0,
                start + at,
                self._seconds(cached(mtime, "time")),
            )
            self._content(size, start + at)

    def _number(self, field: bytes, what: str) -> int:
        value = self._numbers.get(field)
        if value is None:
            value = tarheader.number(field, what)
            if len(self._numbers) >= _CACHE:
                self._numbers.clear()
            self._numbers[field] = value
        return value

    def _content(self, size: int, offset: int) -> None:
        if offset + size > MAX_NUMBER:
            raise InvalidLayer(f"a member states the size {size}", hint=_HINT)
        self._padding = -size % BLOCK
        self._skip = size + self._padding

    def _seconds(self, value: int) -> int:
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise InvalidLayer(f"a member states the time {value}", hint=_HINT)
        return value

    def _begin_extension(self, flag: bytes, size: int) -> None:
        if size > MAX_PAX:
            raise LimitExceeded(f"an extension header has {size} bytes", hint="rebuild the layer: the limit is 1 MiB")
        self._payload = (flag, size)

    def _extension(self, flag: bytes, payload: bytes) -> None:
        if flag in b"xX":
            self._records = tarheader.pax_records(payload)
        elif flag == b"L":
            self._long_name = payload.partition(b"\0")[0]
        elif flag == b"K":
            self._long_link = payload.partition(b"\0")[0]
        elif any(key != b"comment" for key, _ in tarheader.pax_records(payload)):
            self.builder.note("a global PAX header is ignored, as other engines do")

    def _no_dangling_extension(self) -> None:
        if self._records or self._long_name is not None or self._long_link is not None:
            raise InvalidLayer("an extension header has no member after it", hint=_HINT)

    def _unknown(self, flag: bytes, name: bytes, size: int) -> None:
        self.builder.note(f"members of type {flag!r} are skipped ({name.partition(bytes(1))[0]!r:.100})")
        self._records, self._long_name, self._long_link = [], None, None
        self._content(size, self.position)

    def _member(
        self, fields: tuple[bytes, ...], header: bytes, name: bytes, kind: int, size: int, offset: int
    ) -> None:
        """Parse a member in full: extensions, links, devices, whiteouts, sparse maps."""
        _, mode_field, uid_field, gid_field, _, mtime_field, _, flag, link, _, major, minor, _ = fields
        records, self._records = self._records, []
        target = link.partition(b"\0")[0] if self._long_link is None else self._long_link
        if self._long_name is not None:
            name = self._long_name
        self._long_name = self._long_link = None
        uid, gid = self._number(uid_field, "uid"), self._number(gid_field, "gid")
        seconds, nanoseconds = self._number(mtime_field, "time"), 0
        pax: dict[bytes, bytes] = {}
        xattrs: dict[bytes, bytes] = {}
        if records:
            pax = {key: value for key, value in records if value}
            name, target = pax.get(b"path", name), pax.get(b"linkpath", target)
            uid = tarheader.decimal(pax[b"uid"], "uid") if b"uid" in pax else uid
            gid = tarheader.decimal(pax[b"gid"], "gid") if b"gid" in pax else gid
            size = tarheader.decimal(pax[b"size"], "size") if b"size" in pax else size
            if b"mtime" in pax:
                seconds, nanoseconds = tarheader.pax_time(pax[b"mtime"])
            if any(tarheader.is_xattr(key) for key, _ in records):
                xattrs = self._clean_xattrs(tarheader.xattrs_of(records), name)
        if size < 0:
            raise InvalidLayer(f"{name!r:.200} states the size {size}", hint=_HINT)
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            raise _bad_ids(name, uid, gid)
        member = _Member(
            name=pax.get(b"GNU.sparse.name", name),
            kind=kind,
            mode=self._number(mode_field, "mode") & 0o7777,
            uid=uid,
            gid=gid,
            seconds=self._seconds(seconds),
            nanoseconds=nanoseconds,
            target=target,
            xattrs=xattrs,
        )
        if kind == _FILE and flag == b"S":
            pairs = tarheader.gnu_sparse_entries(header[386:482], 4)
            real = self._number(header[483:495], "real size")
            self._sparse = _SparseMember(member, size, real, pairs, old=True)
            if not header[482]:
                self._finish_sparse(offset)
            return
        if kind == _FILE and any(key.startswith(b"GNU.sparse.") for key in pax):
            self._pax_sparse(member, pax, records, size, offset)
            return
        if kind in (Kind.CHAR, Kind.BLOCK):
            member.device = (self._number(major, "major number"), self._number(minor, "minor number"))
        if kind != _FILE and flag != b"D":
            size = 0
        if flag == b"\0" and name.endswith(b"/"):
            member.kind, size = _DIRECTORY, 0
        self._emit(member, size, offset)
        self._content(size, offset)

    def _emit(
        self, member: _Member, size: int, offset: int, sparse: tuple[tuple[int, int], ...] | None = None
    ) -> None:
        path, kind, add = normalise(member.name), member.kind, self.builder.add
        if not path and kind != _DIRECTORY:
            raise InvalidLayer(
                f"the root directory is stated as something other than a directory ({member.name!r:.100})", hint=_HINT
            )
        parent, slash, name = path.rpartition(b"/")
        if is_aufs_own(path):
            if kind == _FILE and is_aufs_link(path):
                self._keep_aufs_link(path, _AufsLink(member, size, offset, sparse))
            return
        if PREFIX in parent and any(part.startswith(PREFIX) for part in parent.split(b"/")):
            self.builder.note(f"{path!r:.200} is below a whiteout name and is skipped")
            return
        whiteout = classify(name)
        if whiteout is not None:
            what, hidden = whiteout
            if what == Kind.OPAQUE:
                add(parent, int(Kind.OPAQUE), 0, 0, 0, 0, 0, member.seconds, member.nanoseconds)
            elif hidden:
                hidden_path = parent + slash + hidden
                add(hidden_path, int(Kind.WHITEOUT), 0, 0, 0, 0, 0, member.seconds, member.nanoseconds)
            return
        link = b""
        if kind == Kind.HARDLINK:
            link = normalise(member.target)
            if not link:
                raise InvalidLayer(f"the hard link {path!r:.200} has no target", hint=_HINT)
            held = self._aufs_links.get(link)
            if held is not None and held.shown:
                link = held.shown
            elif held is not None:
                held.shown, member, kind, link = path, held.member, _FILE, b""
                size, offset, sparse = held.size, held.offset, held.sparse
        elif kind == Kind.SYMLINK:
            link = member.target
            if not link or b"\0" in link or len(link) > 4095:
                raise InvalidLayer(f"the symlink {path!r:.200} has an invalid target", hint=_HINT)
        elif kind in (Kind.CHAR, Kind.BLOCK):
            major, minor = member.device
            if not (0 <= major <= _MAX_DEVICE and 0 <= minor <= _MAX_DEVICE):
                raise InvalidLayer(f"{path!r:.200} has the invalid device number {major}, {minor}", hint=_HINT)
            if kind == Kind.CHAR and major == minor == 0:
                self.builder.note(f"the 0/0 character device {path!r:.200} is overlayfs's whiteout and is dropped")
                return
            offset = major << 32 | minor
        add(
            path,
            kind,
            member.mode,
            member.uid,
            member.gid,
            size if kind == _FILE else 0,
            offset,
            member.seconds,
            member.nanoseconds,
            link,
            member.xattrs,
            sparse,
        )

    def _keep_aufs_link(self, path: bytes, file: _AufsLink) -> None:
        """Keep a file that only AUFS could see: its first hard link becomes the file, the others become links to
        that."""
        if len(self._aufs_links) >= MAX_AUFS_LINKS:
            raise LimitExceeded(
                f"more than {MAX_AUFS_LINKS} files in .wh..wh.plnk", hint="report it to the publisher of the image"
            )
        self._aufs_links[path] = file

    def _clean_xattrs(self, xattrs: dict[bytes, bytes], name: bytes) -> dict[bytes, bytes]:
        kept = {key: value for key, value in xattrs.items() if not key.startswith(tarheader.OVERLAY_XATTRS)}
        if len(kept) < len(xattrs):
            self.builder.note(f"overlayfs's own xattrs on {name!r:.200} are dropped")
        return kept

    def _pax_sparse(
        self, member: _Member, pax: dict[bytes, bytes], records: list[tuple[bytes, bytes]], size: int, offset: int
    ) -> None:
        if pax.get(b"GNU.sparse.major") == b"1":
            real = tarheader.decimal(pax.get(b"GNU.sparse.realsize", b""), "real size")
            self._sparse = _SparseMember(member, size, real, [], old=False)
            return
        if b"GNU.sparse.map" in pax:
            numbers = [tarheader.decimal(text, "sparse map") for text in pax[b"GNU.sparse.map"].split(b",")]
        else:
            wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            numbers = [tarheader.decimal(value, "sparse map") for key, value in records if key in wanted]
        if len(numbers) % 2:
            raise InvalidLayer(f"the sparse map of {member.name!r:.200} has an odd number of values", hint=_HINT)
        real = tarheader.decimal(
            pax.get(b"GNU.sparse.size", b"") or pax.get(b"GNU.sparse.realsize", b""), "real size"
        )
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        self._sparse = _SparseMember(member, size, real, pairs, old=True)
        self._finish_sparse(offset)

    def _continue_sparse(self, block: bytes, offset: int) -> None:
        """Parse a block of the sparse map after the header: old GNU's, or the text of PAX 1.0."""
        sparse = self._sparse
        assert sparse is not None
        if sparse.old:
            sparse.pairs += tarheader.gnu_sparse_entries(block, 21)
            if len(sparse.pairs) * 24 > MAX_PAX:
                raise LimitExceeded(
                    "a sparse map is larger than 1 MiB", hint="report it to the publisher of the image"
                )
            if not block[504]:
                self._finish_sparse(offset + BLOCK)
            return
        sparse.stored -= BLOCK  # the map is part of the member's content
        sparse.text += block
        if len(sparse.text) > MAX_PAX or sparse.stored < 0:
            raise LimitExceeded(
                "a sparse map is larger than 1 MiB, or longer than its member",
                hint="report it to the publisher of the image",
            )
        sparse.lines += block.count(b"\n")
        if sparse.count < 0 and sparse.lines:
            sparse.count = tarheader.decimal(bytes(sparse.text.partition(b"\n")[0]), "sparse map")
            if not 0 <= sparse.count <= MAX_PAX:
                raise InvalidLayer(f"a sparse map has {sparse.count} entries", hint=_HINT)
        count = sparse.count
        if count < 0 or sparse.lines < 2 * count + 1:
            return
        lines = bytes(sparse.text).split(b"\n")
        numbers = [tarheader.decimal(text, "sparse map") for text in lines[1 : 2 * count + 1]]
        sparse.pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        self._finish_sparse(offset + BLOCK)

    def _finish_sparse(self, offset: int) -> None:
        sparse, self._sparse = self._sparse, None
        assert sparse is not None
        if not 0 <= sparse.real <= MAX_NUMBER:
            raise InvalidLayer(f"a sparse file states the size {sparse.real}", hint=_HINT)
        segments = tarheader.check_segments(sparse.pairs, sparse.real, sparse.stored)
        self._emit(sparse.member, sparse.real, offset, segments)
        self._content(sparse.stored, offset)


class _Member:
    """The properties of one member, from its header and extensions."""

    __slots__ = ("device", "gid", "kind", "mode", "name", "nanoseconds", "seconds", "target", "uid", "xattrs")

    def __init__(
        self,
        *,
        name: bytes,
        kind: int,
        mode: int,
        uid: int,
        gid: int,
        seconds: int,
        nanoseconds: int,
        target: bytes,
        xattrs: dict[bytes, bytes],
    ) -> None:
        self.name, self.kind, self.mode, self.uid, self.gid = name, kind, mode, uid, gid
        self.seconds, self.nanoseconds, self.target, self.xattrs = seconds, nanoseconds, target, xattrs
        self.device = (0, 0)


class _AufsLink:
    """A file in ``.wh..wh.plnk``. ``shown`` is its first name elsewhere, once it has one."""

    __slots__ = ("member", "offset", "shown", "size", "sparse")

    def __init__(self, member: _Member, size: int, offset: int, sparse: tuple[tuple[int, int], ...] | None) -> None:
        self.member, self.size, self.offset, self.sparse, self.shown = member, size, offset, sparse, b""


class _SparseMember:
    """A sparse member whose map is not complete yet."""

    __slots__ = ("count", "lines", "member", "old", "pairs", "real", "stored", "text")

    def __init__(self, member: _Member, stored: int, real: int, pairs: list[tuple[int, int]], *, old: bool) -> None:
        self.member, self.stored, self.real, self.pairs, self.old = member, stored, real, pairs, old
        # of a PAX 1.0 map; below, the number of complete lines, and of the pairs that it announces
        self.text = bytearray()
        self.lines, self.count = 0, -1


def _bad_ids(name: bytes, uid: int, gid: int) -> InvalidLayer:
    return InvalidLayer(f"{name!r:.200} has the invalid owner {uid}:{gid}", hint=f"use ids from 0 to {MAX_ID}")
