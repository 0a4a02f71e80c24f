"""Archives that are decompressed to a temporary file: limits of disk and memory, and cleanup."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.archive.detect import open_any
from lamina.archive.tar_members import Members
from lamina.edit.rootfs import archive_items
from lamina.errors import DiskFull, LimitExceeded
from lamina.host import spool
from support import lamina, make_tar, require_root, write_layout

TAR = make_tar([(f"f{number}", os.urandom(1000) * 1000) for number in range(3)])


class Room:
    """A disk with so many bytes free, of which lamina must leave a megabyte."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        monkeypatch.setattr(spool, "CHECK_EVERY", 1 << 20)
        monkeypatch.setattr(spool, "_free", lambda path: (self.free, 1 << 20))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_that_fills_the_disk_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.tar").write_bytes(pack(TAR))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = len(os.listdir("/proc/self/fd"))
    for free in (0, 1 << 20):
        Room(monkeypatch, free)
        with pytest.raises(DiskFull) as raised:
            Members(str(tmp_path / "a.tar"))
        assert raised.value.message.startswith(f"{tmp_path}/a.tar does not fit into {tmp_path} uncompressed: ")
        assert "1.05MB are reserved" in raised.value.message
        assert raised.value.hint == "set TMPDIR to a directory with more space, or free some there"
    assert len(os.listdir("/proc/self/fd")) == opened
    assert os.listdir(tmp_path) == ["a.tar"]
    monkeypatch.undo()
    assert len(Members(str(tmp_path / "a.tar")).names()) == 3


def test_free_space_is_checked_again_while_an_archive_is_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, 10 << 20)
    file = spool.Spool("it")
    with file.file:
        file.write(bytes(100))
        room.free = 0  # others write too
        file.write(bytes(1000))
        with pytest.raises(DiskFull, match=r"after the first 1\.1kB"):
            file.write(bytes(1 << 20))


def test_import_checks_free_space_while_it_decompresses(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    Room(monkeypatch, 1 << 20)
    with (
        pytest.raises(DiskFull, match=r"rootfs\.tar\.xz does not fit"),
        archive_items(io.BytesIO(lzma.compress(TAR)), "rootfs.tar.xz"),
    ):
        raise AssertionError("it fits")


@pytest.mark.parametrize("call", ["write", "flush"])
def test_a_write_that_fails_on_a_full_disk_gives_the_same_error(call: str) -> None:
    """Others have filled it since, or a quota ends."""

    class Full:
        def __getattr__(self, name: str) -> Any:
            if name == call:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return lambda *_: None

    file = spool.Spool("it")
    with file.file:
        file.file = Full()  # type: ignore[assignment]
        with pytest.raises(DiskFull, match="it does not fit into"):
            file.write(b"x")
            file.finish()


def test_a_small_disk_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    require_root()
    write_layout(tmp_path / "l", "big", [[("big", os.urandom(20 << 20))]])
    assert lamina("load", "-q", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    assert lamina("save", "-q", "-o", str(tmp_path / "big.tar"), "big", root=tmp_path / "s").returncode == 0
    (tmp_path / "big.tar.gz").write_bytes(gzip.compress((tmp_path / "big.tar").read_bytes(), 1))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "none", str(small)], check=True)
    try:
        done = lamina("load", "-q", "-i", str(tmp_path / "big.tar.gz"), root=tmp_path / "t", TMPDIR=str(small))
        assert (done.returncode, done.stdout) == (6, b"")
        (line,) = done.stderr.decode().splitlines()
        assert f"{tmp_path}/big.tar.gz does not fit into {small}" in line
        assert "set TMPDIR" in line
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert lamina("images", "-q", root=tmp_path / "t").stdout == b""


@pytest.mark.parametrize(("start", "spooled"), [(0, False), (512, True)])
def test_a_file_on_standard_input_is_read_in_place(tmp_path: Path, start: int, spooled: bool) -> None:
    """The bytes before the archive belong to another reader."""
    write_layout(tmp_path / "l", "app", [[("f", b"f")]])
    assert lamina("load", "-q", "-i", str(tmp_path / "l"), root=tmp_path / "s").returncode == 0
    assert lamina("save", "-q", "-o", str(tmp_path / "a.tar"), "app", root=tmp_path / "s").returncode == 0
    (tmp_path / "b.tar").write_bytes(bytes(start) + (tmp_path / "a.tar").read_bytes())
    code = "import os, lamina.layer.archive_codec as m; os.lseek(0, int(os.environ['START']), 0)\n"
    code += "class No:\n    def __init__(self, what): raise SystemExit(9)\n"
    code += "m.Spool = No\nfrom lamina.cli import main\nmain()"
    words = [sys.executable, "-c", code, "--root", str(tmp_path / "t"), "load", "-q"]
    with open(tmp_path / "b.tar", "rb") as file:
        done = subprocess.run(
            words, stdin=file, capture_output=True, check=False, env={**os.environ, "START": str(start)}
        )
    assert (done.returncode == 9) == spooled
    if not spooled:
        assert done.stdout == b"loaded docker.io/library/app:latest\n", done.stderr


@pytest.mark.parametrize(("dictionary", "taken"), [(64 << 20, True), (256 << 20, True), (512 << 20, False)])
def test_xz_may_need_as_much_memory_as_common_packers_use(tmp_path: Path, dictionary: int, taken: bool) -> None:
    """`xz -9` has a dictionary of 64 MiB, 7-Zip's highest level one of 256 MiB. The header is changed, not made: no
    encoder has to fill it."""
    packed = bytearray(lzma.compress(TAR, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    at = 12  # the block's header: size, flags, filter LZMA2 (0x21), one property, the dictionary, zeros, CRC-32
    assert packed[at + 2 : at + 4] == b"\x21\x01"
    packed[at + 4] = 2 * (dictionary.bit_length() - 12) - 2
    import zlib

    size = (packed[at] + 1) * 4 - 4
    packed[at + size : at + size + 4] = zlib.crc32(packed[at : at + size]).to_bytes(4, "little")
    (tmp_path / "a.tar.xz").write_bytes(packed)
    if taken:
        assert len(Members(str(tmp_path / "a.tar.xz")).names()) == 3
        return
    with pytest.raises(LimitExceeded, match=r"a\.tar\.xz: its xz data needs more than 320 MiB of memory"):
        open_any(str(tmp_path / "a.tar.xz"))
