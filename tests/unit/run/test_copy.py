"""`cp` while a program in the container changes its files."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from lamina.errors import UsageError
from lamina.run import file_copy as cp
from lamina.run.file_copy import copy_in, copy_out, open_file
from lamina.run.rootfs import Inside
from support import require_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")


@pytest.mark.parametrize("kind", ["link", "name", "fifo"])
def test_a_file_that_appears_at_the_target_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The file may be a device of the host: `cp` of root would write to the disk."""
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.write_text("other")
    (tmp_path / "file").write_text("new")
    make = {
        "link": lambda path: path.symlink_to(other),
        "name": lambda path: path.hardlink_to(other),
        "fifo": os.mkfifo,
    }[kind]
    left = [root / "target"]
    clear = cp.clear

    def racing(target: int, name: str) -> None:
        clear(target, name)
        if left:
            make(left.pop())

    monkeypatch.setattr(cp, "clear", racing)
    with Inside(str(root)) as inside:
        copy_in(str(tmp_path / "file"), inside, "/target", owner=(os.getuid(), os.getgid()))
    assert (root / "target").read_text() == "new"
    assert other.read_text() == "other"
    assert not (root / "target").is_symlink()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_source_that_is_no_longer_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    {"link": lambda: path.symlink_to("/etc/passwd"), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}[kind]()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(UsageError, match="is not a file any more"):
            open_file("it", directory)
    finally:
        os.close(directory)


MOMENT = 1_000_000_000


def filled(tmp_path: Path, **more: bool) -> Path:
    """A new volume with the files of ``tmp_path / "image"``."""
    volume = tmp_path / "volume"
    volume.mkdir()
    with Inside(str(tmp_path)) as inside:
        copy_out(inside, "/image", str(volume), content_only=True, **more)
    return volume


def test_a_volume_starts_with_the_fifos_sockets_and_devices_of_the_image(tmp_path: Path) -> None:
    require_root()
    image = tmp_path / "image"
    image.mkdir()
    os.mkfifo(image / "fifo")
    os.mknod(image / "null", stat.S_IFCHR, os.makedev(1, 3))
    (image / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(image / "socket"))
    for name in ("fifo", "null", "socket"):
        os.chmod(image / name, 0o622)
    for name in os.listdir(image):
        os.chown(image / name, 5, 6, follow_symlinks=False)
        os.utime(image / name, ns=(MOMENT, MOMENT), follow_symlinks=False)
    volume = filled(tmp_path)
    for name in ("fifo", "null", "socket", "link"):
        before, after = os.lstat(image / name), os.lstat(volume / name)
        for field in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns"):
            assert getattr(before, field) == getattr(after, field), (name, field)


def test_devices_are_left_out_of_a_new_volume_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    (tmp_path / "image").mkdir()
    os.mknod(tmp_path / "image/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "image/zz").write_text("later")

    def refused(*words: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refused)
    assert os.listdir(filled(tmp_path)) == ["zz"]


def test_zeros_take_no_space_in_a_new_volume(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    with open(tmp_path / "image/sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
        file.truncate((64 << 20) + 5)
    copy = filled(tmp_path) / "sparse"
    assert copy.stat().st_size == (64 << 20) + 5
    assert copy.stat().st_blocks * 512 <= 4 << 20
    with open(copy, "rb") as file:
        file.seek(32 << 20)
        assert file.read(4) == b"data"


def test_many_files_of_a_new_volume_are_synced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").mkdir()
    for number in range(1001):
        (tmp_path / f"image/{number}").touch()
    synced = []
    monkeypatch.setattr(cp, "sync_files", synced.append)
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("a file was synced alone"))
    assert synced == [str(filled(tmp_path, lasting=True))]
