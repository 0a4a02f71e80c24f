"""The meaning of each header field, PAX record and sparse map, to the byte."""

from __future__ import annotations

import tarfile
from typing import Any

import pytest

from lamina.errors import InvalidLayer, LimitExceeded
from lamina.host.privileges import MAX_ID
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.layer.tarheader import (
    MAX_NUMBER,
    check_segments,
    checksum_fits,
    decimal,
    gnu_sparse_entries,
    number,
    pax_records,
    pax_time,
    xattrs_of,
)
from lamina.layer.whiteout import classify, opaque_path_for, path_for
from support import index_of, make_tar, pax_record, tar_extension, tar_header

END = bytes(1024)


def base256(value: int, size: int = 12) -> bytes:
    """A number of GNU's and star's: no byte of the field is a terminator."""
    if value < 0:
        return (value + (1 << 8 * size)).to_bytes(size, "big")
    return (value | 1 << (8 * size - 1)).to_bytes(size, "big")


def pax(*records: tuple[str | bytes, str | bytes]) -> bytes:
    """A PAX header with these records."""
    raw = [[part.encode() if isinstance(part, str) else part for part in one] for one in records]
    return tar_extension(b"x", b"".join(pax_record(key, value) for key, value in raw))


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def single(*parts: bytes) -> Entry:
    """The one entry of an archive."""
    (entry,) = index_of(b"".join(parts) + END)
    return entry


def rows(tar: bytes, chunk: int = 1 << 20) -> list[tuple[bytes, Kind, int]]:
    return [(entry.path, entry.kind, entry.size) for entry in index_of(tar, chunk)]


# numbers


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"0000644\0", 0o644),
        (b" 644 \0\0\0", 0o644),
        (b"00000644", 0o644),  # no terminator
        (b"7\0garbage", 7),
        (b"        ", 0),
        (bytes(8), 0),
        (b"", 0),
        (b"\x80\x40", 0x40),
        (b"\x81\x00", 0x100),
        (b"\xbf\xff", 0x3FFF),
        (b"\xc0\x00", -0x4000),
        (b"\xff\xbf", -0x41),
        (base256(-1), -1),
        (base256(1 << 40), 1 << 40),
    ],
)
def test_a_number_is_octal_or_base_256(field: bytes, expected: int) -> None:
    assert number(field, "size") == expected


@pytest.mark.parametrize("field", [b"8\0", b"12x", b"X7", b"7X\0", b"\t7\0", b"7\n", b"-1", b"0o7", b"1 2"])
def test_a_number_of_anything_else_is_refused(field: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"the size .* is not an octal number"):
        number(field, "size")


@pytest.mark.parametrize(
    ("value", "expected"), [(b"0", 0), (b"-7", -7), (b"0" * 19 + b"5", 5), (b"-" + b"0" * 19 + b"5", -5)]
)
def test_a_decimal_may_have_a_sign_and_20_digits(value: bytes, expected: int) -> None:
    assert decimal(value, "uid") == expected


@pytest.mark.parametrize("value", [b"", b"-", b"abc", b"+1", b"1_0", b" 1", b"--1", b"0" * 20 + b"5", b"1.5"])
def test_a_decimal_of_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"the uid .* is not a number"):
        decimal(value, "uid")


@pytest.mark.parametrize("extended", [False, True])
def test_a_size_that_no_archive_can_have_is_refused(extended: bool) -> None:
    """The content's end is a 64-bit number too."""
    before = pax(("SCHILY.xattr.user.k", "v")) if extended else b""
    for size in (MAX_NUMBER, MAX_NUMBER - 511 - len(before)):
        with pytest.raises(InvalidLayer, match="states the size"):
            index_of(before + tar_header("f", at124=base256(size)) + END)
    with pytest.raises(InvalidLayer, match="ends too early"):  # taken at its word
        index_of(before + tar_header("f", at124=base256(MAX_NUMBER - 512 - len(before))) + END)
    with pytest.raises(InvalidLayer, match="states the size -1"):
        index_of(before + tar_header("f", at124=base256(-1)) + END)


@pytest.mark.parametrize("extended", [False, True])
def test_a_time_is_a_signed_64_bit_number_of_seconds(extended: bool) -> None:
    before = pax(("SCHILY.xattr.user.k", "v")) if extended else b""
    for time in (MAX_NUMBER, -MAX_NUMBER, -1, 0):
        assert single(before, tar_header("f", at136=base256(time))).mtime == time * 10**9
    for time in (MAX_NUMBER + 1, -MAX_NUMBER - 1):
        with pytest.raises(InvalidLayer, match="states the time"):
            index_of(before + tar_header("f", at136=base256(time)) + END)


@pytest.mark.parametrize("extended", [False, True])
def test_an_id_goes_up_to_the_limit_of_linux(extended: bool) -> None:
    before = pax(("SCHILY.xattr.user.k", "v")) if extended else b""
    for uid, gid in ((MAX_ID, 0), (0, MAX_ID), (0, 0)):
        entry = single(before, tar_header("f", at108=base256(uid, 8), at116=base256(gid, 8)))
        assert (entry.uid, entry.gid) == (uid, gid)
    for uid, gid in ((MAX_ID + 1, 0), (0, MAX_ID + 1), (-1, 0), (0, -1)):
        with pytest.raises(InvalidLayer, match=f"b'f' has the invalid owner {uid}:{gid}"):
            index_of(before + tar_header("f", at108=base256(uid, 8), at116=base256(gid, 8)) + END)


@pytest.mark.parametrize("extended", [False, True])
def test_a_mode_is_its_twelve_lowest_bits(extended: bool) -> None:
    before = pax(("SCHILY.xattr.user.k", "v")) if extended else b""
    for stated, mode in ((b"0100644\0", 0o644), (b"0047755\0", 0o7755), (b"0000000\0", 0), (b"0177777\0", 0o7777)):
        assert single(before, tar_header("f", at100=stated)).mode == mode


# blocks and chunks


def archive() -> bytes:
    """Something of everything whose bytes a chunk may end in."""
    old = tar_header("old", b"S", 4, at386=base256(0) + base256(4), at482=b"\1", at483=base256(9)) + bytes(512)
    return b"".join(
        [
            make_tar([("f", b"content"), ("n" * 150, b"x" * 512)], tarfile.GNU_FORMAT)[: 512 * 6],
            old + padded(b"data"),
            pax(("path", "p/" * 300)) + tar_header("short", b"0", 3) + padded(b"abc"),
            tar_header("last"),
        ]
    )


@pytest.mark.parametrize("end", [b"", bytes(1024)])
def test_an_archive_may_be_cut_anywhere_into_chunks(end: bytes) -> None:
    """Also one that stops behind its last header."""
    tar = archive()
    whole = rows(tar)
    assert [path[:5] for path, _, _ in whole] == [b"f", b"nnnnn", b"old", b"p/p/p", b"last"]
    for chunk in (1, 7, 100, 256, 300, 511, 512, 513, 1000, 1024):
        assert rows(tar + end, chunk) == whole


@pytest.mark.parametrize("chunk", [100, 512, 1 << 20])
def test_an_archive_may_stop_behind_a_whole_extension_or_sparse_map(chunk: int) -> None:
    comment = tar_extension(b"g", pax_record(b"comment", b"c" * 600))
    assert rows(tar_header("f") + comment, chunk) == [(b"f", Kind.FILE, 0)]
    sparse = tar_header("s", b"S", 0, at386=base256(5) + base256(0), at482=b"\1", at483=base256(5)) + bytes(512)
    assert rows(sparse, chunk) == [(b"s", Kind.FILE, 5)]


@pytest.mark.parametrize("size", [0, 5, 511, 512, 513])
@pytest.mark.parametrize("chunk", [100, 512, 1 << 20])
def test_only_padding_may_be_missing_at_the_end(size: int, chunk: int) -> None:
    tar = tar_header("f", b"0", size) + b"c" * size
    for more in range(0, -size % 512 + 1, 73):
        assert rows(tar + bytes(more), chunk) == [(b"f", Kind.FILE, size)]
    with pytest.raises(InvalidLayer, match="ends too early"):
        index_of(tar[:-1], chunk)


def test_bytes_after_the_last_whole_block_must_be_zeros() -> None:
    one = tar_header("f")
    for tail in (bytes(512), bytes(612), bytes(1023)):
        assert rows(one + tail) == [(b"f", Kind.FILE, 0)]
    for tail in (bytes(100), bytes(512) + b"X" * 10, bytes(512) + b" \n", b"X"):
        with pytest.raises(InvalidLayer, match="ends too early"):
            index_of(one + tail)


def test_an_error_says_where_the_archive_is_broken() -> None:
    with pytest.raises(
        InvalidLayer, match=r"invalid tar header \(wrong checksum\), at or after byte 0 of the archive"
    ):
        index_of(b"x" * 512)
    with pytest.raises(InvalidLayer, match=r"after byte 512 of the archive"):
        index_of(tar_header("f") + b"x" * 512, 512)


def test_a_checksum_has_nothing_around_it_but_spaces_and_zeros() -> None:
    block = bytearray(tar_header("f"))
    for form in (b"%06o\0 ", b" %06o\0", b"\0%06o ", b" %06o "):
        block[148:156] = b" " * 8
        block[148:156] = form % sum(block)
        assert checksum_fits(bytes(block), bytes(block[148:156]))
    for form in (b"X%06oX", b"%06oX ", b"\t%06o\0"):
        block[148:156] = b" " * 8
        block[148:156] = form % sum(block)
        assert not checksum_fits(bytes(block), bytes(block[148:156]))


# names


@pytest.mark.parametrize("prefix", [b"p", b"some/where", b"p" * 155])
def test_a_prefix_may_have_one_byte_or_155(prefix: bytes) -> None:
    assert single(tar_header("name", at345=prefix)).path == prefix + b"/name"


@pytest.mark.parametrize("junk", [b"", b"\0", b"\0junk\0", b"\0\0"])
def test_a_long_name_ends_at_its_first_zero_byte(junk: bytes) -> None:
    name, link = b"n" * 200, b"l" * 200
    entry = single(tar_extension(b"L", name + junk), tar_extension(b"K", link + junk), tar_header("short", b"2"))
    assert (entry.path, entry.link) == (name, link)


@pytest.mark.parametrize("flag", [b"x", b"X"])
def test_a_pax_header_of_solaris_is_read_like_one_of_posix(flag: bytes) -> None:
    entry = single(tar_extension(flag, pax_record(b"path", b"meant")), tar_header("stated"))
    assert entry.path == b"meant"


@pytest.mark.parametrize(
    ("name", "flag", "kind", "size"),
    [
        ("d", b"\0", Kind.FILE, 3),
        ("d/", b"\0", Kind.DIRECTORY, 0),
        ("d/", b"0", Kind.FILE, 3),
        ("d/", b"7", Kind.FILE, 3),
        ("d", b"5", Kind.DIRECTORY, 0),
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_a_slash_makes_a_directory_of_an_ancient_member_only(
    name: str, flag: bytes, kind: Kind, size: int, extended: bool
) -> None:
    before = pax(("SCHILY.xattr.user.k", "v")) if extended else b""
    content = padded(b"abc") if size else b""
    found = rows(before + tar_header(name, flag, 3) + content + tar_header("behind") + END)
    assert found == [(b"d", kind, size), (b"behind", Kind.FILE, 0)]


def test_the_root_is_a_directory_whatever_else_is_stated_of_it() -> None:
    for before in (b"", pax(("SCHILY.xattr.user.k", "v"))):
        assert single(before, tar_header("./", b"5")).path == b""
        for flag in (b"0", b"2", b"6"):
            with pytest.raises(InvalidLayer, match="the root directory is stated as"):
                index_of(before + tar_header(".", flag, at157=b"target") + END)


def test_a_symlinks_target_has_no_zero_byte() -> None:
    with pytest.raises(InvalidLayer, match="invalid target"):
        index_of(pax(("linkpath", "a\0b")) + tar_header("l", b"2") + END)


# whiteouts


def columns(index: LayerIndex, row: int) -> tuple[int, ...]:
    """All of a row but its name."""
    fixed = (index.mode, index.uid, index.gid, index.size, index.offset, index.mtime, index.nsec)
    return tuple(column[row] for column in fixed)


@pytest.mark.parametrize(
    ("name", "kind", "path"), [("d/.wh..wh..opq", Kind.OPAQUE, b"d"), ("d/.wh.x", Kind.WHITEOUT, b"d/x")]
)
def test_a_mark_has_the_time_of_its_file_and_nothing_else(name: str, kind: Kind, path: bytes) -> None:
    header = {"mode": 0o644, "uid": 3, "gid": 4, "mtime": 1_700_000_000.25}
    index = index_of(make_tar([(name, b"content", header)]))
    assert columns(index, 0) == (0, 0, 0, 0, 0, 1_700_000_000, 250_000_000)
    (entry,) = index
    assert (entry.kind, entry.path, entry.mtime) == (kind, path, 1_700_000_000_250_000_000)


def test_only_a_component_that_begins_as_a_whiteout_hides_what_is_below_it() -> None:
    index = index_of(make_tar([("a.wh.b/f", b""), ("a/.wh.b/f", b""), ("a/b.wh.", b"")]))
    assert [entry.path for entry in index] == [b"a.wh.b/f", b"a/b.wh."]
    assert len(index.warnings) == 1


@pytest.mark.parametrize("hidden", [b"", b".", b".."])
def test_a_whiteout_of_nothing_is_refused(hidden: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"invalid whiteout: it hides "):
        classify(b".wh." + hidden)


def test_an_opaque_mark_applies_to_its_own_directory() -> None:
    assert (opaque_path_for(b""), opaque_path_for(b"a/b")) == (b".wh..wh..opq", b"a/b/.wh..wh..opq")
    assert (path_for(b"x"), path_for(b"a/x")) == (b".wh.x", b"a/.wh.x")


SPARSE = {"at386": base256(3) + base256(4), "at483": base256(9)}


@pytest.mark.parametrize(
    ("flag", "fields", "size", "sparse"), [(b"0", {}, 4, None), (b"S", SPARSE, 9, ((3, 4),))], ids=["whole", "sparse"]
)
def test_the_first_link_to_an_aufs_file_is_that_file(
    flag: bytes, fields: dict[str, bytes], size: int, sparse: tuple[tuple[int, int], ...] | None
) -> None:
    links = [tar_header(name, b"1", at157=b".wh..wh.plnk/1.2") for name in ("a", "b")]
    file = tar_header(".wh..wh.plnk/1.2", flag, 4, **fields) + padded(b"data")
    index = index_of(file + b"".join(links) + END)
    first, second = index
    assert (first.path, first.kind, index.link(0)) == (b"a", Kind.FILE, b"")
    assert (first.size, first.offset, first.sparse) == (size, 512, sparse)
    assert (second.path, second.kind, second.link) == (b"b", Kind.HARDLINK, b"a")


# PAX records


def test_records_are_read_by_their_length() -> None:
    records = [(b"a", b"1"), (b"b", b"x\ny=z\0"), (b"c", b""), (b"d" * 300, b"v" * 1000)]
    raw = b"".join(pax_record(*one) for one in records)
    assert pax_records(raw) == pax_records(raw + bytes(7)) == records
    assert pax_records(b"") == pax_records(bytes(3)) == []
    assert pax_records(b"0000000000000000026 key=v\n") == [(b"key", b"v")]  # 19 digits


@pytest.mark.parametrize(
    "data",
    [
        b"x",  # no length at all
        b"12",
        b" a=b\n",
        b"x a=b\n",
        b"-6 a=b\n",
        b"00000000000000000027 key=v\n",  # 20 digits
        b"\0x",  # padding that is none
        b"\1",
        b"\1\1",
        b"0 a=b\n",  # a length that is too small
        b"1 a=b\n",
        b"2 a=b\n",
        b"3 \n",
        b"7 a=b\n",  # or too large
        b"99 a=b\n",
        b"5 a=b\n",  # or not up to the end of the line
        b"6 a=bc",
        b"6 a=b\0",
        b"6 abc\n",  # no key, or no value
        b"5 =v\n",
    ],
)
def test_a_malformed_record_is_refused(data: bytes) -> None:
    for before in (b"", pax_record(b"good", b"one")):
        with pytest.raises(InvalidLayer, match="a PAX record"):
            pax_records(before + data)


@pytest.mark.parametrize("stated", [0, 3, 700, 5000])
def test_a_size_in_a_pax_record_replaces_that_of_the_header(stated: int) -> None:
    tar = pax(("size", "600")) + tar_header("f", b"0", stated) + padded(b"c" * 600) + tar_header("behind") + END
    assert rows(tar) == [(b"f", Kind.FILE, 600), (b"behind", Kind.FILE, 0)]
    empty = pax(("size", "0")) + tar_header("f", b"0", stated) + tar_header("behind") + END
    assert rows(empty) == [(b"f", Kind.FILE, 0), (b"behind", Kind.FILE, 0)]
    with pytest.raises(InvalidLayer, match="states the size -1"):
        index_of(pax(("size", "-1")) + tar_header("f", b"0", stated) + END)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"5", (5, 0)),
        (b"5.", (5, 0)),
        (b"5.0", (5, 0)),
        (b"5.25", (5, 250_000_000)),
        (b"5.000000001", (5, 1)),
        (b"1.1234567891", (1, 123_456_789)),
        (b"1.9999999999", (1, 999_999_999)),
        (b".5", (0, 500_000_000)),
        (b"", (0, 0)),
        (b"-5", (-5, 0)),
        (b"-5.25", (-6, 750_000_000)),
        (b"-.5", (-1, 500_000_000)),
        (b"-0.5", (-1, 500_000_000)),
        (b"-", (0, 0)),
    ],
)
def test_a_time_is_cut_to_nanoseconds_after_its_second(text: bytes, expected: tuple[int, int]) -> None:
    assert pax_time(text) == expected


@pytest.mark.parametrize("text", [b"x", b"5.x", b"5.-1", b"1.2.3", b"5,5", b"XXXX", b"1e9"])
def test_a_time_of_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"the time .* is not a number"):
        pax_time(text)


@pytest.mark.parametrize("length", range(12))
def test_base64_of_an_xattr_may_lack_its_padding(length: int) -> None:
    import base64

    value = bytes(range(250, 250 - length, -1))
    text = base64.b64encode(value)
    for form in (text, text.rstrip(b"=")):
        assert xattrs_of([(b"LIBARCHIVE.xattr.user.k", form)]) == {b"user.k": value}


def test_an_xattr_that_is_not_base64_is_refused() -> None:
    with pytest.raises(InvalidLayer, match="not base64"):
        xattrs_of([(b"LIBARCHIVE.xattr.user.k", b"a")])


@pytest.mark.parametrize("key", [b"LIBARCHIVE.xattr.user%00k", b"SCHILY.xattr.user\0k", b"LIBARCHIVE.xattr."])
def test_an_xattrs_name_has_no_zero_byte(key: bytes) -> None:
    with pytest.raises(InvalidLayer, match="invalid name"):
        xattrs_of([(key, b"")])


def test_only_overlay_xattrs_are_dropped_with_a_note() -> None:
    index = index_of(pax(("SCHILY.xattr.user.k", "v")) + tar_header("f") + END)
    assert (next(iter(index)).xattrs, index.warnings) == ({b"user.k": b"v"}, ())
    both = pax(("SCHILY.xattr.user.k", "v"), ("SCHILY.xattr.trusted.overlay.opaque", "y"))
    index = index_of(both + tar_header("f") + END)
    assert next(iter(index)).xattrs == {b"user.k": b"v"}
    assert [text for text in index.warnings if "overlayfs's" in text] == list(index.warnings) != []


# sparse maps


PAIRS = [(number * 300, number + 1) for number in range(50)]
REAL, STORED = 20_000, {count: sum(length for _, length in PAIRS[:count]) for count in range(51)}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 25, 26, 46, 47, 50])
def test_an_old_sparse_header_has_its_fields_at_their_places(count: int) -> None:
    """4 pairs from 386, the sign of more at 482, the real size at 483; 21 pairs in each block behind, its sign at
    504. Numbers of base 256 fill their fields: a wrong offset of one byte would give other numbers."""
    fields = [base256(offset) + base256(length) for offset, length in PAIRS[:count]]
    block = tar_header(
        "s", b"S", STORED[count], at386=b"".join(fields[:4]), at482=bytes([count > 4]), at483=base256(REAL) + b"\7"
    )
    for at in range(4, count, 21):
        more = bytes([at + 21 < count])
        block += b"".join(fields[at : at + 21]).ljust(504, b"\0") + more + b"\7" * 7
    index = index_of(block + padded(b"c" * STORED[count]) + tar_header("behind") + END, 700)
    entry, behind = index
    assert (entry.path, entry.size, entry.sparse) == (b"s", REAL, tuple(PAIRS[:count]))
    assert (entry.offset, behind.path) == (len(block), b"behind")


def test_a_pair_of_an_old_sparse_map_ends_it_only_where_both_numbers_are_empty() -> None:
    octal, empty = b"%011o\0" % 5, bytes(12)
    pairs = octal + octal + empty + octal + empty + base256(7) + octal + empty + empty + empty + octal + octal
    assert gnu_sparse_entries(pairs, 6) == [(5, 5), (0, 5), (0, 7), (5, 0)]
    assert gnu_sparse_entries(pairs, 2) == [(5, 5), (0, 5)]
    assert gnu_sparse_entries(octal + octal, 1) == [(5, 5)]


@pytest.mark.parametrize(
    ("segments", "size", "stored"),
    [
        ([(0, 5), (4, 5)], 100, 10),  # overlaps
        ([(5, 5), (0, 5)], 100, 10),  # goes back
        ([(0, 5), (9, 2)], 10, 7),  # leaves the file
        ([(11, 0)], 10, 0),
        ([(5, -1)], 10, -1),
        ([(5, -1), (4, 1)], 10, 0),
        ([(-1, 2)], 10, 2),
        ([(0, 5)], 10, 4),  # another size is stored
        ([(0, 5)], 10, 6),
        ([], 10, 1),
    ],
)
def test_a_sparse_map_that_no_file_can_have_is_refused(
    segments: list[tuple[int, int]], size: int, stored: int
) -> None:
    with pytest.raises(InvalidLayer, match="a sparse file's map"):
        check_segments(segments, size, stored)


def test_a_sparse_map_is_in_order_inside_the_file_and_keeps_what_is_not_empty() -> None:
    assert check_segments([(0, 5), (5, 0), (5, 3), (9, 1), (10, 0)], 10, 9) == ((0, 5), (5, 3), (9, 1))
    assert check_segments([], 0, 0) == ()


MAP_0_0 = [("GNU.sparse.offset", "1"), ("GNU.sparse.numbytes", "2"), ("GNU.sparse.offset", "5"),
           ("GNU.sparse.numbytes", "2")]  # fmt: skip


@pytest.mark.parametrize("size", ["GNU.sparse.size", "GNU.sparse.realsize"])
@pytest.mark.parametrize("records", [MAP_0_0, [("GNU.sparse.map", "1,2,5,2")]])
def test_a_sparse_map_of_pax_0_may_state_its_size_by_either_name(records: list[Any], size: str) -> None:
    before = pax(*records, ("GNU.sparse.name", "meant"), (size, "9"))
    entry = single(before, tar_header("stated", b"0", 4), padded(b"data"))
    assert (entry.path, entry.size, entry.sparse) == (b"meant", 9, ((1, 2), (5, 2)))
    assert entry.offset == len(before) + 512


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (MAP_0_0, "the real size b'' is not a number"),
        ([("GNU.sparse.map", "1,2")], "the real size b'' is not a number"),
        ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], "the real size b'' is not a number"),
        ([*MAP_0_0[:3], ("GNU.sparse.size", "9")], "has an odd number of values"),
        ([("GNU.sparse.map", "1,2,5"), ("GNU.sparse.size", "9")], "has an odd number of values"),
        ([("GNU.sparse.map", "1,x"), ("GNU.sparse.size", "9")], "the sparse map b'x' is not a number"),
        ([("GNU.sparse.map", "1,2"), ("GNU.sparse.size", "-1")], "states the size -1"),
    ],
)
def test_a_malformed_sparse_map_of_pax_is_refused(records: list[Any], message: str) -> None:
    with pytest.raises(InvalidLayer, match=message):
        index_of(pax(*records) + tar_header("s", b"0", 4) + padded(b"data") + END)


def text_sparse(text: bytes, stored: int, real: int = REAL) -> bytes:
    """A member with a sparse map of PAX 1.0 before so many bytes of data."""
    records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", str(real))]
    size = len(padded(text)) + stored
    before = pax(*records, ("GNU.sparse.name", "meant"))
    return before + tar_header("stated", b"0", size) + padded(text) + padded(b"c" * stored)


@pytest.mark.parametrize("zeros", range(14))
def test_a_sparse_map_of_text_may_be_cut_anywhere_into_blocks(zeros: int) -> None:
    """A map of such a length that a block ends before, in and after its last number, and exactly at its end."""
    lines = [b"%09d" % value for pair in PAIRS[:25] for value in pair]
    text = b"0" * zeros + b"25\n" + b"\n".join(lines) + b"\n"
    assert len(text) == 503 + zeros
    tar = text_sparse(text, STORED[25])
    entry, behind = index_of(tar + tar_header("behind") + END)
    assert (entry.path, entry.size, entry.sparse) == (b"meant", REAL, tuple(PAIRS[:25]))
    assert (entry.offset, behind.path) == (len(tar) - len(padded(b"c" * STORED[25])), b"behind")


def test_a_sparse_map_of_text_may_be_empty() -> None:
    for real in (0, 9, MAX_NUMBER):
        entry = single(text_sparse(b"0\n", 0, real))
        assert (entry.path, entry.size, entry.sparse) == (b"meant", real, ())
    with pytest.raises(InvalidLayer, match="a sparse file states the size"):
        index_of(text_sparse(b"0\n", 0, MAX_NUMBER + 1) + END)


@pytest.mark.parametrize("text", [b"1\n 0\n4\n", b"1\n0 4\n", b"1\n\n0\n4\n", b"1\nx\n4\n", b"x\n", b"\n"])
def test_a_sparse_map_of_text_has_one_number_a_line(text: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"the sparse map .* is not a number"):
        index_of(text_sparse(text + b"0\n" * 3, 4) + END)
    with pytest.raises(InvalidLayer, match="a sparse map has -1 entries"):
        index_of(text_sparse(b"-1\n", 4) + END)
    with pytest.raises(LimitExceeded, match="longer than its member"):
        index_of(text_sparse(b"1\n0\n", 0) + bytes(512) + END)
