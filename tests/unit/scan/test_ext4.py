"""Disks with ext4, which may be hostile, read without a mount."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from lamina.errors import InvalidContent, LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.layer.tar_write import Item
from lamina.scan.ext4.files import DiskFiles
from lamina.scan.ext4.journal import BadJournal, Newer, newer_blocks
from lamina.scan.ext4.volume import Volume
from lamina.scan.overlay_upper import scan_upper, scan_upper_files
from support import require_tool

MAGIC = 0xC03B3998
LONG = "l" * 900


def tree(top: Path) -> Path:
    """A directory ``upper`` with files of many kinds; its parent is returned."""
    upper = top / "from" / "upper"
    upper.mkdir(parents=True)
    (upper / "file").write_bytes(b"text\n" * 2000)
    os.link(upper / "file", upper / "hard link")
    (upper / "short").symlink_to("file")
    (upper / "long").symlink_to(LONG)
    Path(os.fsdecode(os.fsencode(upper) + b"/odd\n\xff")).write_bytes(b"")
    with (upper / "sparse").open("wb") as file:
        file.seek(300_000)
        file.write(b"end")
    for number in range(200):
        (upper / "many").mkdir(exist_ok=True)
        (upper / "many" / f"{'n' * 60}{number}").write_text(str(number))
    os.chmod(upper / "file", 0o4751)
    os.utime(upper / "short", (0, -5), follow_symlinks=False)
    os.mkfifo(upper / "fifo")
    return upper.parent


def disk(top: Path, *words: str) -> Path:
    require_tool("mke2fs")
    path = top / "disk"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", *words, "-d", str(tree(top)), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def contents(items: Iterable[Item]) -> list[tuple[Entry, bytes]]:
    """The entries with their contents; times in whole seconds, which is what mke2fs writes."""
    found = []
    for entry, content in items:
        data = b""
        if callable(content):
            file = content()
            while len(data) < 1_000_000 and (piece := file.read(1 << 20)):
                data += piece
            file.close()
        found.append((replace(entry, mtime=entry.mtime // 1_000_000_000), data))
    return found


def read(path: Path) -> list[tuple[Entry, bytes]]:
    return contents(scan_upper_files(DiskFiles(Volume(str(path), "the disk"), b"upper")))


@pytest.mark.parametrize("words", [(), ("-b", "4096"), ("-b", "1024", "-I", "128"), ("-O", "^64bit,^has_journal")])
def test_a_disk_has_the_files_of_the_directory(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = read(disk(tmp_path, *words))
    expected = contents(scan_upper(str(tmp_path / "from" / "upper")))
    assert found == expected
    assert len(found) > 200


def test_a_disk_on_which_errors_were_noted(tmp_path: Path) -> None:
    path = disk(tmp_path)
    assert not Volume(str(path), "the disk").has_errors
    with path.open("r+b") as file:
        file.seek(1024 + 0x3A)
        file.write(b"\2")
    assert Volume(str(path), "the disk").has_errors


def test_a_disk_without_the_directory(tmp_path: Path) -> None:
    volume = Volume(str(disk(tmp_path)), "the disk")
    with pytest.raises(LaminaError, match="no directory b'other'"):
        DiskFiles(volume, b"other")


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(100_000)])
def test_what_is_no_disk(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(InvalidContent, match="the disk can't be read"):
        Volume(str(tmp_path / "disk"), "the disk")


def test_a_symlink_in_the_place_of_a_disk(tmp_path: Path) -> None:
    disk(tmp_path)
    (tmp_path / "link").symlink_to("disk")
    with pytest.raises(LaminaError, match="symlink"):
        Volume(str(tmp_path / "link"), "the disk")


def test_damaged_disks_are_refused_or_read(tmp_path: Path) -> None:
    """No byte of the disk leads to another exception, or to a loop."""
    path = disk(tmp_path, "-b", "1024")
    good = path.read_bytes()
    used = [at for at in range(0, len(good), 1024) if any(good[at : at + 1024])]
    chosen = random.Random(7)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(chosen.choice((1, 4, 40))):
            at = chosen.choice(used) + chosen.randrange(1024)
            data[at] = chosen.choice((0, 1, 0x7F, 0xFF, chosen.randrange(256)))
        path.write_bytes(data)
        try:
            read(path)
        except LaminaError:
            refused += 1
    assert 5 < refused < 60


def test_a_directory_in_itself(tmp_path: Path) -> None:
    path = disk(tmp_path)
    volume = Volume(str(path), "the disk")
    top = dict(volume.entries(volume.inode(2)))[b"upper"]
    many = dict(volume.entries(volume.inode(top)))[b"many"]
    data = path.read_bytes()
    name = struct.pack("<IHBB", many, 12, 4, 2) + b"many"  # the entry of `many` in `upper`
    at = data.find(struct.pack("<I", many) + data[data.find(b"many") - 4 : data.find(b"many")] + b"many")
    assert at > 0, name
    path.write_bytes(data[:at] + struct.pack("<I", top) + data[at + 4 :])
    with pytest.raises(InvalidContent, match="in itself"):
        read(path)


def journal(*blocks: bytes, start: int = 1, sequence: int = 5, features: int = 1) -> list[bytes]:
    """Blocks of 1024 bytes; the superblock comes first."""
    head = struct.pack(">12I", MAGIC, 4, 0, 1024, len(blocks) + 1, 1, sequence, start, 0, 0, features, 0)
    return [one.ljust(1024, b"\0") for one in (head, *blocks)]


def descriptor(sequence: int, *numbers: int, flags: int = 0) -> bytes:
    tags = [(number, 2 | flags | (8 if number == numbers[-1] else 0)) for number in numbers]
    tags[0] = (tags[0][0], tags[0][1] & ~2)
    rows = [struct.pack(">IHH", number, 0, flag) + (b"" if flag & 2 else bytes(16)) for number, flag in tags]
    return struct.pack(">III", MAGIC, 1, sequence) + b"".join(rows)


def commit(sequence: int) -> bytes:
    return struct.pack(">III", MAGIC, 2, sequence)


def revoke(sequence: int, *numbers: int) -> bytes:
    return struct.pack(f">IIII{len(numbers)}I", MAGIC, 5, sequence, 16 + 4 * len(numbers), *numbers)


DATA = b"data"


@pytest.mark.parametrize(
    ("blocks", "newer"),
    [
        (journal(start=0), {}),
        (journal(descriptor(5, 70, 71), DATA, DATA, commit(5)), {70: Newer(2, False), 71: Newer(3, False)}),
        (journal(descriptor(5, 70), DATA), {}),  # not committed
        (journal(descriptor(5, 70), DATA, commit(4)), {}),  # of an earlier round
        (journal(descriptor(5, 70, flags=1), DATA, commit(5)), {70: Newer(2, True)}),
        (  # the last version counts
            journal(descriptor(5, 70), DATA, commit(5), descriptor(6, 70), DATA, commit(6)),
            {70: Newer(5, False)},
        ),
        (journal(descriptor(5, 70), DATA, commit(5), revoke(6, 70), commit(6)), {}),
        (  # written again after it was freed
            journal(revoke(5, 70), commit(5), descriptor(6, 70), DATA, commit(6)),
            {70: Newer(4, False)},
        ),
        (journal(commit(5), descriptor(4, 70), DATA, commit(4), start=2, sequence=4), {70: Newer(3, False)}),
    ],
)
def test_the_journal(blocks: list[bytes], newer: dict[int, Newer]) -> None:
    assert newer_blocks(blocks.__getitem__, 1024) == newer


@pytest.mark.parametrize(
    "blocks",
    [
        [bytes(1024)],
        journal(start=9),
        journal(features=0x20),
        journal(descriptor(5, *range(70, 90)), DATA),
        journal(struct.pack(">IIII", MAGIC, 5, 5, 9999)),
    ],
)
def test_a_damaged_journal(blocks: list[bytes]) -> None:
    with pytest.raises(BadJournal):
        newer_blocks(blocks.__getitem__, 1024)


def test_access_control_lists_and_attributes(tmp_path: Path) -> None:
    path = disk(tmp_path)
    acl = struct.pack("<IHHHHIHHHHHH", 1, 1, 6, 2, 6, 5, 4, 4, 16, 6, 32, 4)
    (tmp_path / "acl").write_bytes(acl)
    (tmp_path / "wide").write_bytes(b"v" * 900)
    changes = (
        f"cd upper\nea_set -f {tmp_path}/wide file user.wide\nea_set many trusted.overlay.opaque y\n"
        "mknod gone c 0 0\n"
    )
    require_tool("debugfs")
    subprocess.run(["debugfs", "-w", "-f", "-", str(path)], input=changes.encode(), check=True, capture_output=True)
    volume = Volume(str(path), "the disk")
    assert volume._acl(acl, volume.inode(2)) == struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", *one) for one in ((1, 6, -1), (2, 6, 5), (4, 4, -1), (16, 6, -1), (32, 4, -1))
    )
    found = {(entry.path, entry.kind): entry for entry, _ in read(path)}
    assert found[b"file", Kind.FILE].xattrs == {b"user.wide": b"v" * 900}
    assert (b"many", Kind.OPAQUE) in found
    assert found[b"many", Kind.DIRECTORY].xattrs == {}
    assert (b"gone", Kind.WHITEOUT) in found
