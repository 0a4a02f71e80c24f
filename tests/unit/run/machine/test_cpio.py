"""cpio archives: the same bytes each time, as cpio(1) reads them."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from lamina.errors import UsageError
from lamina.run.machine.cpio import Member, archive, character_device, directory, file, symlink
from support import require_root, require_tool

MEMBERS = [
    directory("a"),
    directory("a/b", 0o700),
    file("a/b/empty", b""),
    file("a/odd", b"12345", 0o755),
    symlink("a/link", "b/empty"),
    character_device("null", 1, 3, 0o666),
]


def test_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    require_root()
    require_tool("busybox")
    data = b"".join(archive(MEMBERS))
    subprocess.run(["busybox", "cpio", "-i", "-d"], input=data, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/odd").read_bytes() == b"12345"
    assert stat.S_IMODE((tmp_path / "a/odd").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700
    assert (tmp_path / "a/b/empty").read_bytes() == b""
    assert (tmp_path / "a/link").readlink() == Path("b/empty")
    device = (tmp_path / "null").lstat()
    assert (stat.S_ISCHR(device.st_mode), device.st_rdev) == (True, 0x103)


def test_the_same_members_give_the_same_bytes() -> None:
    assert b"".join(archive(MEMBERS)) == b"".join(archive(MEMBERS))


def test_each_part_begins_at_a_multiple_of_four() -> None:
    for size in range(5):
        assert len(b"".join(archive([file("n" * (size + 1), b"x" * size)]))) % 4 == 0


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(UsageError):
        b"".join(archive([Member(b"a\0b", stat.S_IFREG)]))
