"""Durable files: which errors of a sync are ignored, and which are not."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from lamina.errors import Conflict
from lamina.host.files import check_replaceable, sync_directory, whole_file, write_named
from support import require_root


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no directories")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOENT, errno.EIO])
def test_a_directory_that_cannot_be_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*words: object, **more: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_directory(str(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no directories")
@pytest.mark.parametrize(
    ("number", "told"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False), (errno.ENOTSUP, False)]
)
def test_a_file_system_that_can_not_sync_directories_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if told:
        with pytest.raises(OSError, match=os.strerror(number)):
            sync_directory(str(tmp_path))
    else:
        sync_directory(str(tmp_path))


def test_a_directory_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        synced.append((state.st_dev, state.st_ino))

    monkeypatch.setattr(os, "fsync", fsync)
    sync_directory(str(tmp_path))
    state = tmp_path.stat()
    assert synced == ([] if os.name == "nt" else [(state.st_dev, state.st_ino)])


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A null device of our own: the tests must never write to the names in /dev."""
    require_root()
    path = tmp_path / "null"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    try:
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices on this file system")
    return path


def test_a_device_is_never_replaced_by_a_file(device: Path) -> None:
    with pytest.raises(Conflict, match="not a regular file"), whole_file(str(device)):
        pass
    write_named(str(device), b"content")
    assert stat.S_ISCHR(device.lstat().st_mode)
    link = device.parent / "link"
    link.symlink_to(device)
    with pytest.raises(Conflict), whole_file(str(link)):
        pass
    write_named(str(link), b"content")
    assert link.is_symlink()
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert sorted(os.listdir(device.parent)) == ["link", "null"]


def test_a_small_file_is_written_into_a_pipe(tmp_path: Path) -> None:
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_named(str(path), b"content")
    reader.join()
    assert got == [b"content"]
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_regular_file_is_replaced_and_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old and longer")
    write_named(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    with pytest.raises(Conflict):
        write_named(str(tmp_path), b"new")
    with whole_file(str(tmp_path / "other")) as file:
        file.write(b"whole")
    assert (tmp_path / "other").read_bytes() == b"whole"


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/dev/new", "/proc/self/fd/1", "/sys/new"])
def test_nothing_is_put_among_the_devices_of_the_host(path: str) -> None:
    with pytest.raises(Conflict):
        check_replaceable(path)


def test_ordinary_directories_below_dev_take_files() -> None:
    check_replaceable("/dev/shm/new")
    check_replaceable("new")
