"""The tar parser exactly at its limits, and the checksums of headers."""

from __future__ import annotations

import tarfile

import pytest

from lamina.errors import InvalidLayer, LimitExceeded
from lamina.layer import tar
from lamina.layer.index import IndexBuilder
from lamina.layer.safe_path import normalise
from lamina.layer.tar import TarParser
from lamina.layer.tarheader import checksum_fits
from support import index_of, make_tar, pax_record, tar_extension, tar_header


def test_a_checksum_that_is_not_octal_never_matches() -> None:
    block = tar_header("f")
    assert checksum_fits(block, block[148:156])
    for stated in (b"", bytes(8), b" " * 8, b"nothing\0", b"-00001\0 ", b"000008\0 ", b"9999999\0"):
        broken = block[:148] + stated.ljust(8, b"\0") + block[156:]
        assert not checksum_fits(broken, broken[148:156])
        with pytest.raises(InvalidLayer, match="invalid tar header"):
            index_of(broken + bytes(1024))


def test_only_bytes_above_127_count_as_negative_in_a_signed_checksum() -> None:
    for name in ("\x7f", "\udc80", "\udcff", "\x7f\udc80\udcff"):
        block = tar_header(name, signed=True)
        assert checksum_fits(block, block[148:156])
        assert [entry.path for entry in index_of(block + bytes(1024))] == [name.encode("utf-8", "surrogateescape")]
        wrong = b"%06o\0 " % (int(block[148:154], 8) + 1)
        assert not checksum_fits(block[:148] + wrong + block[156:], wrong)


def test_a_checksum_may_be_as_large_as_a_header_can_make_it() -> None:
    """Above 65520 too, where adler32 begins again."""
    most = {"at0": b"\xff" * 100, "at157": b"\xff" * 100, "at265": b"\xff" * 32, "at345": b"\xff" * 155}
    block = tar_header("f", **most)
    assert int(block[148:154], 8) > 65521
    (entry,) = index_of(block + bytes(1024))
    assert entry.path == b"\xff" * 155 + b"/" + b"\xff" * 100
    signed = tar_header("f", signed=True, **most)
    assert signed != block
    for wrong in (int(block[148:154], 8) + 1, int(block[148:154], 8) - 1):
        assert not checksum_fits(block, b"%06o\0 " % wrong)


@pytest.mark.parametrize("cut", [512, 700, 1024])
def test_a_block_of_zeros_at_the_end_of_a_chunk_does_not_end_the_archive(cut: int) -> None:
    """What is fed after it is looked at, and at the end what is not whole is an error."""
    member = tar_header("a")
    parser = TarParser(IndexBuilder())
    parser.feed(member + bytes(512))
    with pytest.raises(InvalidLayer, match=r"invalid tar header|ends too early"):
        for at in range(0, len(member), cut):
            parser.feed(member[at : at + cut])
        parser.finish()
    parser = TarParser(IndexBuilder())
    parser.feed(member + bytes(512) + member[:100])
    with pytest.raises(InvalidLayer, match="ends too early"):
        parser.finish()
    parser = TarParser(IndexBuilder())
    for piece in (member, bytes(512), bytes(512), member, member[:100]):
        parser.feed(piece)
    parser.finish()
    assert (parser.position, len(parser.builder)) == (2148, 1)


def test_an_extension_header_may_have_one_mebibyte() -> None:
    empty = len(pax_record(b"comment", bytes(1_000_000))) - 1_000_000
    payload = pax_record(b"comment", b"c" * ((1 << 20) - empty))
    assert len(payload) == 1 << 20
    assert [entry.path for entry in index_of(tar_extension(b"x", payload) + tar_header("f") + bytes(1024))] == [b"f"]
    with pytest.raises(LimitExceeded, match="extension header has 1048577 bytes"):
        index_of(
            tar_extension(b"x", pax_record(b"comment", b"c" * ((1 << 20) - empty + 1)))
            + tar_header("f")
            + bytes(1024)
        )


def test_xattrs_may_have_64_kib_names_and_values_together() -> None:
    def xattrs(more: int) -> dict[str, str]:
        sizes = {"user." + "k" * 195: 40_000, "user." + "l" * 95: (64 << 10) - 40_000 - 300 + more}
        return {f"SCHILY.xattr.{name}": "v" * size for name, size in sizes.items()}

    (entry,) = index_of(make_tar([("f", b"", {"pax_headers": xattrs(0)})]))
    assert sum(len(name) + len(value) for name, value in entry.xattrs.items()) == 64 << 10
    with pytest.raises(LimitExceeded, match="more than 64 KiB of xattrs"):
        index_of(make_tar([("f", b"", {"pax_headers": xattrs(1)})]))


def test_an_xattrs_name_may_have_255_bytes() -> None:
    (entry,) = index_of(make_tar([("f", b"", {"pax_headers": {"SCHILY.xattr." + "n" * 255: "v"}})]))
    assert entry.xattrs == {b"n" * 255: b"v"}
    for name in ("n" * 256, ""):
        with pytest.raises(InvalidLayer, match="invalid name"):
            index_of(make_tar([("f", b"", {"pax_headers": {f"SCHILY.xattr.{name}": "v"}})]))


@pytest.mark.parametrize("before", [b"", b"d/"])
def test_a_component_may_have_255_bytes(before: bytes) -> None:
    longest = before + b"n" * 255
    assert normalise(longest) == normalise(b"./" + longest + b"//") == longest
    for path in (longest + b"n", b"./" + longest + b"n", longest + b"n/f"):
        with pytest.raises(LimitExceeded, match="component 255"):
            normalise(path)


def test_a_path_may_have_4096_bytes() -> None:
    """Not counting what is not part of it."""
    for size in (4095, 4096):
        path = (b"y" * 99 + b"/") * 40 + b"z" * (size - 4000)
        assert len(path) == size
        assert normalise(path) == normalise(b"/" + path + b"/") == path
    with pytest.raises(LimitExceeded, match="a path has at most 4096 bytes"):
        normalise(path + b"z")


def test_a_symlinks_target_may_have_4095_bytes() -> None:
    (entry,) = index_of(make_tar([("l", "-> " + "t" * 4095)]))
    assert entry.link == b"t" * 4095
    for target in ("t" * 4096, ""):
        with pytest.raises(InvalidLayer, match="invalid target"):
            index_of(make_tar([("l", f"-> {target}")]))


def test_device_numbers_are_kept_in_their_order_and_only_0_0_is_overlays() -> None:
    for major, minor in ((0, 1), (1, 0), (7, 8), ((1 << 31), 3)):
        (entry,) = index_of(make_tar([("c", f"c {major} {minor}")], tarfile.GNU_FORMAT))
        assert entry.rdev == (major, minor)


def test_a_layer_keeps_its_first_hundred_warnings() -> None:
    builder = IndexBuilder()
    for number in [*range(101), 0]:
        builder.note(f"note {number}")
    assert builder.finish(0).warnings == tuple(f"note {number}" for number in range(100))


def old_sparse(blocks: int, last: int) -> bytes:
    """An old GNU sparse file without data: 4 pairs in its header, and 21 in each of so many blocks (``last`` in the
    last one)."""
    pair = b"%011o\0" % 0 * 2
    block = tar_header("s", b"S", at386=pair * 4, at482=b"\1" if blocks else b"\0", at483=b"%011o\0" % 9)
    for number in range(blocks, 0, -1):
        pairs = pair * (21 if number > 1 else last)
        block += pairs.ljust(504, b"\0") + (b"\1" if number > 1 else b"\0") + bytes(7)
    return block


def test_an_old_sparse_map_may_be_as_large_as_an_extension_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_PAX", (4 + 21 + 5) * 24)
    (entry,) = index_of(old_sparse(2, 5) + bytes(1024))
    assert (entry.path, entry.size, entry.sparse) == (b"s", 9, ())
    with pytest.raises(LimitExceeded, match="sparse map is larger than 1 MiB"):
        index_of(old_sparse(2, 6) + bytes(1024))


def text_sparse(text: bytes, stored: int) -> bytes:
    """A file with a sparse map of PAX 1.0, as long as ``stored`` says."""
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")]
    return tar_extension(b"x", b"".join(pax_record(*one) for one in records)) + tar_header("s", b"0", stored) + text


def test_a_sparse_map_of_text_may_be_as_large_as_an_extension_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_PAX", 1024)
    numbers = (b"200\n" + b"0\n0\n" * 200).ljust(1024, b"\0")
    (entry,) = index_of(text_sparse(numbers, 1024) + bytes(1024))
    assert (entry.size, entry.sparse) == (9, ())
    with pytest.raises(LimitExceeded, match="or longer than its member"):
        index_of(text_sparse((b"300\n" + b"0\n0\n" * 300).ljust(1536, b"\0"), 1536) + bytes(1024))
    with pytest.raises(LimitExceeded, match="or longer than its member"):
        index_of(text_sparse(numbers, 1023) + bytes(1024))


def test_a_sparse_map_of_text_with_more_entries_than_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_PAX", 1024)
    with pytest.raises(InvalidLayer, match="a sparse map has 1025 entries"):
        index_of(text_sparse(b"1025\n".ljust(512, b"\0"), 512) + bytes(1024))
    with pytest.raises(InvalidLayer, match="ends too early"):  # taken at its word
        index_of(text_sparse(b"1024\n".ljust(512, b"\0"), 512))
