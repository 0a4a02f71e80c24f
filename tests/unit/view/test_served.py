"""The answers of a FUSE mount, without a mount."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lamina.host.files import FileRange
from lamina.layer.index import LayerIndex
from lamina.union.merge import merge
from lamina.view.fuse.operations import ServedUnion, Tars
from support import index_of, make_tar


class FileLayer:
    """A layer whose tar is a file, as in the store."""

    def __init__(self, path: Path, tar: bytes) -> None:
        path.write_bytes(tar)
        self.path, self.made, self.opened = path, index_of(tar), 0

    def index(self) -> LayerIndex:
        return self.made

    def open(self, start: int = 0, end: int | None = None) -> Any:
        self.opened += 1
        return FileRange(str(self.path), start, end)


class StreamLayer(FileLayer):
    """A layer that can only be read piece by piece."""

    def open(self, start: int = 0, end: int | None = None) -> Any:
        self.opened += 1
        return io.BytesIO(self.path.read_bytes()[start:end])


def served(layers: list[Any]) -> ServedUnion:
    return ServedUnion(merge([layer.index() for layer in layers]), layers)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", [FileLayer, StreamLayer])
def test_reading_by_position(tmp_path: Path, kind: type[FileLayer]) -> None:
    data = bytes(range(256)) * 300
    union = served([kind(tmp_path / "t", make_tar([("d/f", data), ("empty", b"")]))])
    handle = union.open("/d/f", 0)
    for offset, size in ((0, 10), (70_000, 10_000), (5, 0), (80_000, 5), (10, 76_800)):
        assert union.read(None, size, offset, handle) == data[offset : offset + size]
    assert union.getattr(None, handle)["st_size"] == len(data)
    assert union.read(None, 10, 0, union.open("/empty", 0)) == b""
    union.release(None, handle)


def test_the_number_of_open_tars_is_limited(tmp_path: Path) -> None:
    layers = [FileLayer(tmp_path / f"{n}", make_tar([(f"f{n}", b"%d" % n * 100)])) for n in range(20)]
    union = ServedUnion(merge([layer.index() for layer in layers]), layers)  # type: ignore[arg-type]
    union._tars = Tars(layers, limit=4)  # type: ignore[arg-type]
    before = descriptors()
    handles = [union.open(f"/f{n}", 0) for n in range(20)]
    for _ in range(2):
        for number, handle in enumerate(handles):
            assert union.read(None, 100, 0, handle) == (b"%d" % number * 100)[:100]
            assert descriptors() <= before + 4
    assert len(union._tars) == 4
    assert sum(layer.opened for layer in layers) == 40
    for _ in range(3):
        union.read(None, 1, 0, handles[-1])
    assert sum(layer.opened for layer in layers) == 40


def test_threads_read_right_while_tars_come_and_go(tmp_path: Path) -> None:
    contents = [os.urandom(20_000) for _ in range(8)]
    layers = [FileLayer(tmp_path / f"{n}", make_tar([(f"f{n}", data)])) for n, data in enumerate(contents)]
    union = ServedUnion(merge([layer.index() for layer in layers]), layers)  # type: ignore[arg-type]
    union._tars = Tars(layers, limit=2)  # type: ignore[arg-type]
    handles = [union.open(f"/f{n}", 0) for n in range(8)]
    wrong: list[int] = []

    def read() -> None:
        for turn in range(300):
            number, offset = turn % 8, turn * 61 % 20_000
            if union.read(None, 500, offset, handles[number]) != contents[number][offset : offset + 500]:
                wrong.append(turn)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_attributes(tmp_path: Path) -> None:
    members = [
        ("f", b"12345", {"mode": 0o4755, "uid": 7, "gid": 8, "pax_headers": {"mtime": "5.000000007"}}),
        ("g", "= f"),
        ("s", "-> f"),
        ("c", "c 5 1"),
        ("d/x", b""),
    ]
    union = served([FileLayer(tmp_path / "t", make_tar(members))])
    file, link = union.getattr("/f"), union.getattr("/g")
    assert file == link
    assert (file["st_mode"], file["st_nlink"], file["st_size"], file["st_uid"]) == (0o104755, 2, 5, 7)
    assert file["st_mtime"] == 5_000_000_007
    assert union.getattr("/s")["st_size"] == 1
    assert union.readlink("/s") == "f"
    assert union.getattr("/c")["st_rdev"] == os.makedev(5, 1)
    assert union.getattr("/")["st_mode"] == 0o40755
    listing = {name: state["st_ino"] for name, state, _ in union.readdir(None, union.opendir("/"))}
    assert set(listing) == {".", "..", "f", "g", "s", "c", "d"}
    assert listing["f"] == listing["g"] == file["st_ino"]
    assert listing["d"] == union.getattr("/d")["st_ino"]


def test_names_are_bytes(tmp_path: Path) -> None:
    union = served([FileLayer(tmp_path / "t", make_tar([("d/\udce9\udcff \u20ac", b"x")]))])
    (name,) = [name for name, _, _ in union.readdir(None, union.opendir("/d")) if not name.startswith(".")]
    assert name.encode("latin-1") == b"\xe9\xff \xe2\x82\xac"
    assert union.getattr(f"/d/{name}")["st_size"] == 1


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (lambda union: union.getattr("/no"), errno.ENOENT),
        (lambda union: union.getattr("/f/no"), errno.ENOENT),
        (lambda union: union.opendir("/f"), errno.ENOTDIR),
        (lambda union: union.readlink("/f"), errno.EINVAL),
        (lambda union: union.open("/d", 0), errno.EINVAL),
        (lambda union: union.getxattr("/f", "user.no"), errno.ENODATA),
    ],
)
def test_refusals(tmp_path: Path, what: Any, code: int) -> None:
    with pytest.raises(OSError) as caught:
        what(served([FileLayer(tmp_path / "t", make_tar([("f", b"1"), ("d/x", b"")]))]))
    assert caught.value.errno == code


def test_trusted_xattrs_are_listed_only_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pax = {"SCHILY.xattr.trusted.t": "1", "SCHILY.xattr.user.u": "2"}
    layer = FileLayer(tmp_path / "t", make_tar([("f", b"", {"pax_headers": pax})]))
    for user, names in ((0, ["trusted.t", "user.u"]), (1000, ["user.u"])):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert sorted(served([layer]).listxattr("/f")) == names
    assert served([layer]).getxattr("/f", "user.u") == b"2"
