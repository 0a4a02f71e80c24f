"""The library as people script it: lamina.open, image.fs, layers, blame; and pack's closure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pytest

import lamina
from lamina.edit.elf import closure, read_elf
from lamina.edit.pack import pack_items
from lamina.errors import LaminaError, NotFound, PathNotFound, UsageError
from lamina.layer.entry import Kind
from support import lamina as cli
from support import make_tar, opened_from, require_root, running, write_layout

BASE = [
    ("etc/", None),
    ("etc/conf", b"one\n"),
    ("link", "-> /etc/conf"),
    ("dangling", "-> nowhere"),
    ("fifo", "fifo"),
]
TOP = [("etc/conf", b"0123456789" * 1000), ("data/", None), ("data/t.csv", b"a,b\n1,2\n"), ("hard", "= data/t.csv")]


@pytest.fixture(params=["store", "layout"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> lamina.Image:
    return opened_from(request.param, tmp_path, [BASE, TOP])


def test_an_image_is_a_value_over_its_stack(image: lamina.Image) -> None:
    assert image.listdir("/") == ["dangling", "data", "etc", "fifo", "hard", "link"]
    assert image.read_bytes("/link") == b"0123456789" * 1000
    assert image[:1].read_bytes("link") == b"one\n"
    assert len(image) == 2
    assert image.stat("/hard").kind == Kind.FILE
    assert [layer.number for layer in image.layers] == [1, 2]
    assert [layer.number for layer in image[1:].layers] == [2]
    assert [len(layer) for layer in image.layers] == [5, 4]
    assert image[1:].listdir("/") == ["data", "etc", "hard"]
    assert [state.layer for state in image.blame("/etc/conf").states] == [2, 1]
    for path in ("/nope", "/etc/conf/x", "/dangling"):
        with pytest.raises(PathNotFound):
            image.read_bytes(path)
    with pytest.raises(UsageError):
        image.read_bytes("/etc")
    with pytest.raises(UsageError):
        image.listdir("/fifo")


def test_fs_reads_ranges_follows_links_and_never_writes(image: lamina.Image) -> None:
    fs = image.fs
    assert fs.ls("/etc", detail=False) == ["/etc/conf"]
    assert fs.cat_file("/link", 5, 15) == b"5678901234"
    assert fs.cat_file("/link", -3) == b"789"
    with fs.open("/etc/conf") as file:
        file.seek(9995)
        assert file.read() == b"56789"
    info = fs.info("/link")
    assert (info["type"], info["islink"], info["size"], info["layer"]) == ("file", True, 10_000, 2)
    assert fs.info("/dangling")["type"] == "link"
    assert fs.info("/hard")["nlink"] == 2
    assert fs.exists("/data/t.csv")
    assert not fs.exists("/data/u.csv")
    assert sorted(fs.find("/data")) == ["/data/t.csv"]
    assert fs.glob("/*/*.csv") == ["/data/t.csv"]
    assert fs.du("/data") == 8
    assert fs.read_text("data/t.csv").startswith("a,b")
    with pytest.raises(FileNotFoundError):
        fs.open("/none")
    with pytest.raises(IsADirectoryError):
        fs.open("/etc")
    with pytest.raises(OSError, match="read-only"):
        fs.open("/x", "wb")


def test_fsspec_finds_lamina_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layout(tmp_path / "l", "app", [BASE, TOP])
    assert cli("load", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "s"))
    with fsspec.open("lamina://app:latest//data/t.csv", "rt") as file:
        assert file.read() == "a,b\n1,2\n"
    with fsspec.open("lamina://app~1//etc/conf", "rb") as file:
        assert file.read() == b"one\n"


def test_layers_of_a_layout_are_verified_when_read(tmp_path: Path) -> None:
    descriptor = write_layout(tmp_path / "l", "app", [make_tar(BASE)], compress=False)
    image = lamina.open(f"oci:{tmp_path}/l", root=tmp_path / "none")
    blob = tmp_path / "l/blobs/sha256" / image.manifest.layers[0].digest.encoded
    blob.write_bytes(blob.read_bytes().replace(b"one\n", b"two\n"))
    with pytest.raises(LaminaError, match="does not match its digest"):
        image.listdir("/")
    assert descriptor.digest == image.digest


def test_closure_is_what_the_loader_would_take() -> None:
    shell = shutil.which("sh")
    assert shell
    elf = read_elf(os.path.realpath(shell))
    assert elf is not None
    found = closure([shell])
    assert elf.interpreter in found
    for name in elf.needed:
        assert any(os.path.basename(path) == name for path in found)
    told = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    wanted = {os.path.realpath(word) for line in told.splitlines() for word in line.split() if word.startswith("/")}
    assert wanted == {os.path.realpath(path) for path in found}


def test_pack_names_the_library_that_is_missing(tmp_path: Path) -> None:
    program = tmp_path / "p"
    raw = Path(os.path.realpath(shutil.which("sh") or "")).read_bytes()
    assert b"libc.so.6\0" in raw
    program.write_bytes(raw.replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(NotFound, match=r"libq\.so\.6"):
        pack_items([str(program)])


def test_packed_python_runs_with_its_standard_library(tmp_path: Path) -> None:
    require_root()
    python = os.path.realpath(sys.executable)
    assert cli("pack", python, "-t", "py", root=tmp_path / "s").returncode == 0
    assert cli("unpack", "py", str(tmp_path / "root"), root=tmp_path / "s").returncode == 0
    code = "import json, hashlib, zlib; print(hashlib.sha256(b'').hexdigest()[:4])"
    done = subprocess.run(["chroot", str(tmp_path / "root"), python, "-c", code], capture_output=True, check=False)
    assert done.stdout == b"e3b0\n", done.stderr


def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with running("load", root=tmp_path / "s", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(make_tar([("big", bytes(4 << 20))]))  # more than a pipe holds: it is reading
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert errors.strip().endswith(b"lamina: interrupted")
    assert not (tmp_path / "s").exists()


def test_append_is_a_new_image_and_the_same_one_again(image: lamina.Image, tmp_path: Path) -> None:
    (tmp_path / "site/deep").mkdir(parents=True)
    (tmp_path / "site/deep/page").write_text("p")
    files = {"/srv/site": tmp_path / "site", "/etc/one": str(tmp_path / "site/deep/page")}
    if not image.name.startswith("app"):
        with pytest.raises(NotFound, match="not in the store"):
            image.append(files)
        return
    made = image.append(files, remove=["/link"], step="the site", name="site", epoch=0, cmd=["serve"])
    assert made.path("/srv/site/deep/page").read_text() == made.path("/etc/one").read_text() == "p"
    assert not made.path("/link").exists()
    assert image.path("/link").exists()
    assert (made.config.cmd, len(made)) == (("serve",), 3)
    assert made[:2] != image
    assert made.layers[:2][1].digest == image.layers[1].digest
    assert made.layers[2].step.created_by == "the site"
    assert (made.stat("/srv/site").uid, made.stat("/srv").mode) == (0, 0o755)
    assert image.append(files, remove=["/link"], step="the site", epoch=0, cmd=["serve"]).digest == made.digest
    assert lamina.open("site", root=tmp_path / "s") == made
    assert len(image.append(labels={"a": "b"})) == 2
    with pytest.raises(NotFound, match="was not found"):
        image.append({"/x": tmp_path / "none"})
    with pytest.raises(PathNotFound, match="nothing to remove"):
        image.append(remove=["/none"])


def test_a_wrong_type_in_the_place_of_a_path_is_named(image: lamina.Image) -> None:
    wrong: Any = ["/etc/conf"]
    calls: list[Callable[[], object]] = [
        lambda: image.erase(wrong),
        lambda: image.append(remove=[wrong]),
        lambda: image.append({wrong[0]: "/x", None: "/y"}),  # type: ignore[dict-item]
        lambda: image.listdir(wrong),
        lambda: image.stat(wrong),
        lambda: image.blame(wrong),
        lambda: image.diff(image, wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"a path is str, bytes or os\.PathLike, not (list|NoneType)"):
            call()
    with pytest.raises(UsageError, match="remove is a string, not a list: '/etc/conf'"):
        image.append(remove="/etc/conf")
    with pytest.raises(UsageError, match="ignore is a string, not a list: 'time'"):
        image.diff(image, ignore="time")
    if image.name.startswith("app"):
        erased: Any = PurePosixPath("/etc/conf")
        assert not image.erase(erased).path("/etc/conf").exists()
