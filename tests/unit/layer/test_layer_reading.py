"""The tar parser against other writers, against truncation, mutation and bombs."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidLayer, LaminaError, LimitExceeded
from lamina.layer import index as index_module
from lamina.layer.codec import check_inflated, encoder
from lamina.layer.decode import LayerReader
from lamina.layer.entry import Kind
from lamina.layer.file_content import open_content
from lamina.layer.index import LayerIndex
from lamina.layer.safe_path import normalise
from support import index_of, make_tar, rounds, tar_header

MEMBERS = [
    ("./", None),
    ("dir/", None, {"mode": 0o1777}),
    ("dir/file", b"hello" * 300, {"uid": 1000, "gid": 70000, "mtime": 1.25}),
    ("dir/" + "n" * 150, b"long"),
    ("link", "-> " + "t" * 120),
    ("hard", "= dir/file"),
    ("null", "c 1 3"),
    ("fifo", "fifo"),
    ("big", b"", {"uid": 1 << 31, "mtime": 1 << 34}),
    ("h\u00e9", b"x", {"pax_headers": {"SCHILY.xattr.user.k": "v=\n1"}}),
]


def test_reads_what_python_writes_in_every_format() -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for chunk in (1 << 20, 512, 700, 1):
            index = index_of(make_tar(MEMBERS, form), chunk)
            entries = {e.path: e for e in index}
            assert entries[b"dir"].mode == 0o1777
            assert entries[b"dir/file"].size == 1500
            assert (entries[b"dir/file"].uid, entries[b"dir/file"].gid) == (1000, 70000)
            assert entries[b"dir/" + b"n" * 150].size == 4
            assert entries[b"link"].link == b"t" * 120
            assert (entries[b"hard"].kind, entries[b"hard"].link) == (Kind.HARDLINK, b"dir/file")
            assert entries[b"null"].rdev == (1, 3)
            assert entries[b"fifo"].kind == Kind.FIFO
            assert entries[b"big"].uid == 1 << 31
            assert entries[b"big"].mtime == (1 << 34) * 10**9
            assert b"" in entries
    assert {e.path: e for e in index_of(make_tar(MEMBERS))}[b"dir/file"].mtime == 1_250_000_000
    assert {e.path: e for e in index_of(make_tar(MEMBERS))}["hé".encode()].xattrs == {b"user.k": b"v=\n1"}


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_reads_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"abc")
    os.link(tmp_path / "d/f", tmp_path / "d/g")
    os.symlink("f", tmp_path / "d/s")
    done = subprocess.run(
        ["tar", f"--format={form}", "--sort=name", "-C", str(tmp_path), "-cf", "-", "d"],
        capture_output=True,
        check=True,
    )
    found = [(e.path, e.kind, e.size, e.link) for e in index_of(done.stdout)]
    assert found == [
        (b"d", Kind.DIRECTORY, 0, b""),
        (b"d/f", Kind.FILE, 3, b""),
        (b"d/g", Kind.HARDLINK, 0, b"d/f"),
        (b"d/s", Kind.SYMLINK, 0, b"f"),
    ]


@pytest.mark.parametrize(
    "flags",
    [["--format=gnu"], ["--format=pax", "--sparse-version=0.0"], ["--format=pax", "--sparse-version=0.1"],
     ["--format=pax", "--sparse-version=1.0"]],
)  # fmt: skip
def test_sparse_files_of_every_kind_read_whole(tmp_path: Path, flags: list[str]) -> None:
    with open(tmp_path / "s", "wb") as file:
        for number in range(30):
            file.seek(number * 100_000)
            file.write(b"data %d" % number)
        file.truncate(4_000_000)
    command = ["tar", "-S", *flags, "-C", str(tmp_path), "-cf", "-", "s"]
    tar = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(tar) < 1_000_000
    index = index_of(tar, 777)
    assert index.size[0] == 4_000_000
    with open_content(index, 0, lambda start, end: io.BytesIO(tar[start:end])) as stream:
        assert stream.read() == (tmp_path / "s").read_bytes()
        stream.seek(100_001)
        assert stream.read(4) == b"ata "


@pytest.mark.parametrize("wrap", [bytes, lambda raw: gzip.compress(raw, mtime=0)])
def test_a_truncated_archive_is_an_error_or_complete(wrap: object) -> None:
    tar = make_tar(MEMBERS)
    blob = wrap(tar)  # type: ignore[operator]
    compression = "none" if wrap is bytes else "gzip"
    for cut in range(0, len(blob), 97 if wrap is bytes else 3):
        reader = LayerReader(compression)
        try:
            for _ in reader.feed(blob[:cut]):
                pass
            summary = reader.finish()
        except LaminaError:
            continue
        assert compression == "none"
        assert summary.tar_size == cut


@settings(max_examples=rounds(400), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_mutated_archives_raise_only_our_errors(changes: list[tuple[int, int]], fix_checksum: bool) -> None:
    tar = bytearray(make_tar(MEMBERS, tarfile.PAX_FORMAT))
    for at, value in changes:
        tar[at % len(tar)] = value
        block = at % len(tar) // 512 * 512
        if fix_checksum and tar[block + 257 : block + 262] == b"ustar":
            tar[block + 148 : block + 156] = b" " * 8
            tar[block + 148 : block + 155] = b"%06o\0" % sum(tar[block : block + 512])
    try:
        for entry in index_of(bytes(tar)):
            assert not entry.path.startswith(b"/")
            assert b".." not in entry.path.split(b"/")
    except LaminaError:
        pass


def entries(archive: bytes) -> list[tuple[bytes, Kind, int]]:
    return [(entry.path, entry.kind, entry.size) for entry in index_of(archive + bytes(1024))]


def test_one_block_of_zeros_does_not_end_the_archive() -> None:
    one = make_tar([("a", b"1")])[:1024]
    for chunk in (1 << 20, 512, 100):
        with pytest.raises(InvalidLayer, match="invalid tar header"):
            index_of(one + bytes(512) + one + bytes(1024), chunk)
        with pytest.raises(InvalidLayer, match="ends too early"):
            index_of(one + bytes(512) + one[:300], chunk)
    for end in (b"", bytes(512), bytes(1024), bytes(1024) + one, bytes(1024) + b"garbage"):
        assert [entry.path for entry in index_of(one + end)] == [b"a"]


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6", b"0/", b"\0/"])
@pytest.mark.parametrize("extended", [False, True])
def test_directories_and_links_have_no_content_whatever_size_they_state(flag: bytes, extended: bool) -> None:
    """The next header stands right behind it."""
    slash = flag.endswith(b"/")
    if flag == b"0/":
        flag = b"5"
    name = "d/" if slash else "d"
    record = b"21 SCHILY.xattr.k=12\n"
    before = tar_header("x", b"x", len(record)) + record.ljust(512, b"\0") if extended else b""
    more = {"at157": b"target"} if flag in b"12" else {"at329": b"0000001\0"} if flag in b"34" else {}
    found = entries(
        tar_header("target") + before + tar_header(name, flag[:1], 5000, **more) + tar_header("behind", size=0)
    )
    assert [(path, size) for path, _, size in found] == [(b"target", 0), (b"d", 0), (b"behind", 0)]
    assert found[1][1] != Kind.FILE


@pytest.mark.parametrize("extended", [False, True])
def test_a_dumpdir_of_gnu_tar_is_skipped_as_content_of_its_directory(extended: bool) -> None:
    record = b"21 SCHILY.xattr.k=12\n"
    before = tar_header("x", b"x", len(record)) + record.ljust(512, b"\0") if extended else b""
    names = (b"Ya\0Yb\0\0").ljust(512, b"\0")
    found = entries(before + tar_header("d", b"D", 7) + names + tar_header("behind"))
    assert found == [(b"d", Kind.DIRECTORY, 0), (b"behind", Kind.FILE, 0)]


@pytest.mark.parametrize(
    ("flag", "payload"), [(b"x", b"21 SCHILY.xattr.k=12\n"), (b"L", b"name\0"), (b"K", b"link\0")]
)
def test_an_extension_header_without_a_member_is_refused(flag: bytes, payload: bytes) -> None:
    whole = tar_header("member") + tar_header("x", flag, len(payload)) + payload.ljust(512, b"\0")
    for end in (b"", bytes(512), bytes(1024)):
        with pytest.raises(InvalidLayer, match=r"ends too early|no member after it"):
            index_of(whole + end)
    with pytest.raises(InvalidLayer, match="ends too early"):
        index_of(whole[:-512])
    assert len(entries(whole + tar_header("f"))) == 2


def test_a_prefix_is_part_of_the_name_in_ustar_only() -> None:
    """Old GNU tar keeps times there."""
    times = b"14524536212\x0014524536212\0"
    assert entries(tar_header("name", at345=b"some/where")) == [(b"some/where/name", Kind.FILE, 0)]
    assert entries(tar_header("name", form=tarfile.GNU_FORMAT, at345=times)) == [(b"name", Kind.FILE, 0)]


def test_a_checksum_may_be_of_signed_bytes() -> None:
    plain, signed = tar_header("n\udcff\udc80me"), tar_header("n\udcff\udc80me", signed=True)
    assert plain != signed
    assert entries(plain) == entries(signed) == [(b"n\xff\x80me", Kind.FILE, 0)]
    for at in (0, 3, 151):  # neither sum
        broken = bytearray(signed)
        broken[at] ^= 1
        with pytest.raises(InvalidLayer, match="invalid tar header"):
            index_of(bytes(broken) + bytes(1024))


@pytest.mark.parametrize("order", [1, -1])
def test_schily_xattrs_take_precedence_over_those_of_libarchive(order: int) -> None:
    records = {"LIBARCHIVE.xattr.user.%61": "b25l", "SCHILY.xattr.user.a": "two", "LIBARCHIVE.xattr.user.b": "Yg"}
    headers = dict(list(records.items())[::order])
    (entry,) = index_of(make_tar([("f", b"", {"pax_headers": headers})]))
    assert entry.xattrs == {b"user.a": b"two", b"user.b": b"b"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", ".."])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(InvalidLayer, match="leads out"):
        index_of(make_tar([(name, b"")]))
    with pytest.raises(InvalidLayer, match="leads out"):
        index_of(make_tar([("ok", f"= {name}")]))


def test_names_are_relative_and_bounded() -> None:
    assert normalise(b"/nix//store/./x/") == b"nix/store/x"
    assert normalise(b"./") == b""
    with pytest.raises(LimitExceeded):
        normalise(b"x" * 256)
    with pytest.raises(LimitExceeded):
        normalise(b"/".join([b"y" * 100] * 41))


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = gzip.compress(bytes(64 << 20), 9)
    reader = LayerReader("gzip", max_layer=1 << 20)
    with pytest.raises(LimitExceeded, match="bomb"):
        for _ in reader.feed(zeros):
            pass
    monkeypatch.setattr(index_module, "MAX_ENTRIES", 5000)
    many = make_tar([(f"f{n}", b"") for n in range(9000)])
    with pytest.raises(LimitExceeded, match="5000 entries"):
        index_of(many)
    monkeypatch.setattr(index_module, "MAX_PATHS", 100_000)
    deep = make_tar([(f"{n}/" + "d/" * 200 + "f", b"") for n in range(9)])  # each makes directories of 40 KB of paths
    with pytest.raises(LimitExceeded, match="paths are longer than 100000 bytes"):
        index_of(deep)
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = b"x", 1 << 40
    with pytest.raises(LimitExceeded, match="extension header"):
        index_of(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


@pytest.mark.parametrize(("compression", "honest"), [("gzip", False), ("none", False), ("zstd", True)])
def test_only_zstd_may_give_more_than_1032_bytes_for_one(compression: str, honest: bool) -> None:
    check_inflated(compression, 1032 * 100 + (1 << 20), 100, 1 << 30)
    if honest:
        check_inflated(compression, 1 << 30, 100, 1 << 30)
    else:
        with pytest.raises(LimitExceeded, match="decompress to more"):
            check_inflated(compression, 1032 * 100 + (1 << 20) + 1, 100, 1 << 30)
    with pytest.raises(LimitExceeded):
        check_inflated(compression, (1 << 30) + 1, 1 << 30, 1 << 30)


def test_a_zstd_layer_of_zeros_is_read_up_to_max_layer() -> None:
    tar = make_tar([("zeros", bytes(32 << 20))])
    packed = encoder("zstd")
    blob = packed.compress(tar) + packed.flush()
    assert len(tar) > 2 * 1032 * len(blob)
    reader = LayerReader("zstd", max_layer=len(tar))
    assert sum(map(len, reader.feed(blob))) == len(tar)
    assert reader.finish().tar_size == len(tar)
    with pytest.raises(LimitExceeded, match="decompress to more"):
        list(LayerReader("zstd", max_layer=len(tar) - 1).feed(blob))


def test_an_index_is_small_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    index = index_of(make_tar([(f"some/where/file-{n:05}", b"") for n in range(20_000)]))
    assert len(index.buffer) / len(index) < 100
    path = tmp_path / "index"
    path.write_bytes(bytes(index.buffer))
    assert [e.path for e in LayerIndex.load(str(path))][:2] == [b"some/where/file-00000", b"some/where/file-00001"]
    for cut, flip in ((10, None), (len(index.buffer) - 1, None), (None, 500)):
        data = bytearray(index.buffer)[:cut]
        if flip:
            data[flip] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(LaminaError, match="not a complete index"):
            LayerIndex.load(str(path))
