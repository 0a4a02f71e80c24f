"""Files written front to back, around the page cache and through it: the same bytes, and zeros take no space."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.store.append import Appender
from support import require_root

SIZES = (0, 1, 511, 512, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 3 << 20)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("pieces", [SIZES, SIZES[::-1], (700_001,) * 9])
def test_the_bytes_are_those_that_were_written(tmp_path: Path, cached: bool, pieces: tuple[int, ...]) -> None:
    path, whole = tmp_path / "file", b"".join(os.urandom(size) for size in pieces)
    file, at = Appender(str(path), cached=cached), 0
    for size in pieces:
        file.write(whole[at : at + size])
        at += size
    file.finish(0o444)
    assert path.read_bytes() == whole
    assert path.stat().st_mode & 0o777 == 0o444
    assert file.written == len(whole)


@pytest.mark.parametrize("cached", [True, False])
def test_zeros_are_holes(tmp_path: Path, cached: bool) -> None:
    path, zeros = tmp_path / "file", bytes(1 << 20)
    file = Appender(str(path), cached=cached)
    for data in (b"a" * (1 << 20), *[zeros] * 8, b"b" * 100):
        file.write(data)
    file.finish(0o600)
    assert path.read_bytes() == b"a" * (1 << 20) + zeros * 8 + b"b" * 100
    assert path.stat().st_blocks * 512 <= (1 << 20) + 65536
    assert file.written == (1 << 20) + 100


def test_what_the_disk_refuses_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.pwrite, []

    def refusing(descriptor: int, data: Any, at: int) -> int:
        if len(refused) < 2:
            refused.append(at)
            if len(refused) == 1:
                raise OSError(22, "Invalid argument")
            return real(descriptor, bytes(data)[:4096], at)
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)
    path, whole = tmp_path / "file", os.urandom((4 << 20) + 77)
    file = Appender(str(path), cached=False)
    file.write(whole)
    file.finish(0o600)
    assert refused == [0, 1 << 20]
    assert path.read_bytes() == whole


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)], check=True)
    file = Appender(str(tmp_path / "file"), cached=False)
    try:
        with pytest.raises(OSError, match="No space"):
            for _ in range(16):
                file.write(os.urandom(1 << 20))
    finally:
        file.close()
        subprocess.run(["umount", str(tmp_path)], check=True)
