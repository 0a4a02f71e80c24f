"""Disks of machines are read as the kernel reads them, also with what is only in the journal."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from lamina.layer.entry import Entry
from lamina.layer.tar_write import Item
from lamina.run.machine.upper import make_disk
from lamina.scan.ext4.files import DiskFiles
from lamina.scan.ext4.volume import Volume
from lamina.scan.overlay_upper import scan_upper, scan_upper_files
from support import require_root, require_tool

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHi", *one) for one in ((1, 6, -1), (2, 6, 5), (4, 4, -1), (16, 6, -1), (32, 4, -1))
)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A new disk, and where it is mounted."""
    require_root()
    require_tool("mke2fs", "mount")
    disk, place = tmp_path / "disk", tmp_path / "m"
    place.mkdir()
    make_disk(str(disk))
    done = subprocess.run(["mount", "-o", "loop", disk, place], capture_output=True, check=False)
    if done.returncode and not os.environ.get("LAMINA_TEST_REQUIRE"):
        pytest.skip(f"no loop devices: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr
    try:
        (place / "upper").mkdir()
        yield disk, place / "upper"
    finally:
        subprocess.run(["umount", place], check=True)


def fill(upper: Path) -> None:
    file = upper / "file"
    file.write_bytes(b"x" * 5000)
    os.link(file, upper / "hard")
    os.chown(file, 70_000, 80_001)
    file.chmod(0o4755)
    for name, value in (
        ("security.capability", CAPABILITY),
        ("user.big", b"z" * 3000),
        ("trusted.own", b"q"),
        ("system.posix_acl_access", ACL),
    ):
        os.setxattr(file, name, value)
    (upper / "opaque" / "below").mkdir(parents=True)
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "gone", stat.S_IFCHR | 0o600, 0)
    os.link(upper / "gone", upper / "gone too")
    os.mknod(upper / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(upper / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mkfifo(upper / "fifo")
    (upper / "short").symlink_to("file")
    (upper / "sixty").symlink_to("m" * 60)
    # a block in the journal that looks like one of the journal's own
    os.symlink(struct.pack(">I", 0xC03B3998) + b"m" * 3000, os.fsencode(upper / "long"))
    Path(os.fsdecode(os.fsencode(upper) + b'/odd\n\xff"')).touch()
    (upper / "many").mkdir()
    for number in range(1500):
        (upper / "many" / f"{'n' * 60}{number}").write_text(str(number))
    for number in range(0, 1500, 3):
        (upper / "many" / f"{'n' * 60}{number}").unlink()
    with (upper / "pieces").open("wb") as file_:
        for number in range(0, 1500, 2):
            file_.seek(number * 4096)
            file_.write(b"%d" % number)
    with (upper / "reserved").open("wb") as file_:
        os.posix_fallocate(file_.fileno(), 0, 1 << 20)
        os.pwrite(file_.fileno(), b"text", 8192)
    os.utime(upper / "short", ns=(1, -5_000_000_001), follow_symlinks=False)
    os.utime(upper / "pieces", ns=(1, (1 << 33) * 1_000_000_000 + 123_456_789))


def contents(items: Iterable[Item]) -> list[tuple[Entry, str]]:
    found = []
    for entry, content in items:
        summed = hashlib.sha256()
        if callable(content):
            file = content()
            while piece := file.read(1 << 20):
                summed.update(piece)
            file.close()
        found.append((entry, summed.hexdigest()))
    return found


def test_a_disk_that_was_not_unmounted(mounted: tuple[Path, Path], tmp_path: Path) -> None:
    disk, upper = mounted
    fill(upper)
    for number in range(2):  # what was freed is used again
        for path in sorted((upper / "many").iterdir())[number::5]:
            path.unlink()
        (upper / f"new{number}").mkdir()
        for name in range(200):
            (upper / f"new{number}" / str(name)).write_bytes(b"%d" % name * 3000)
        subprocess.run(["sync", "-f", upper], check=True)
    expected = contents(scan_upper(str(upper)))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    volume = Volume(str(copy), "the disk")
    assert volume._newer
    assert volume._escaped
    assert contents(scan_upper_files(DiskFiles(volume, b"upper"))) == expected
    assert len(expected) > 1000
