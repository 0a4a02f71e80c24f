"""Files written around the page cache and through it: the same bytes, and zeros take no space."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import SystemFailure
from lamina.host.files import WRITE_FLAGS
from lamina.store.direct_io import BLOCK, Appender
from lamina.store.unfinished import DiskDelay
from support import require_root


@contextmanager
def appender(path: Path, *, cached: bool, at: int = 0, hasher: Any = None) -> Iterator[Appender]:
    descriptor = os.open(path, WRITE_FLAGS, 0o600)
    file = Appender(descriptor, cached=cached, at=at, hasher=hasher)
    try:
        yield file
    finally:
        file.close()
        os.close(descriptor)


SIZES = (0, 1, 511, 512, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 3 << 20)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("pieces", [SIZES, SIZES[::-1], (700_001,) * 9])
def test_the_bytes_are_those_that_were_written(tmp_path: Path, cached: bool, pieces: tuple[int, ...]) -> None:
    path, whole, at = tmp_path / "file", b"".join(os.urandom(size).replace(b"\0", b"x") for size in pieces), 0
    hasher = hashlib.sha256()
    with appender(path, cached=cached, hasher=hasher) as file:
        for size in pieces:
            file.write(whole[at : at + size])
            at += size
        file.finish()
        assert path.read_bytes() == whole
    assert file.written == len(whole)
    assert hasher.digest() == hashlib.sha256(whole).digest()


@pytest.mark.parametrize("cached", [True, False])
def test_bytes_are_appended_after_existing_bytes(tmp_path: Path, cached: bool) -> None:
    path, whole = tmp_path / "file", os.urandom((3 << 20) + 5)
    path.write_bytes(whole[: 5 * BLOCK])
    with appender(path, cached=cached, at=5 * BLOCK) as file:
        file.write(whole[5 * BLOCK :])
        file.finish()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("cached", [True, False])
def test_zeros_are_holes(tmp_path: Path, cached: bool) -> None:
    path, zeros = tmp_path / "file", bytes(1 << 20)
    with appender(path, cached=cached) as file:
        for data in (b"a" * (1 << 20), *[zeros] * 8, b"b" * 100):
            file.write(data)
        file.finish()
    assert path.read_bytes() == b"a" * (1 << 20) + zeros * 8 + b"b" * 100
    assert path.stat().st_blocks * 512 <= (1 << 20) + 65536
    assert file.written == (1 << 20) + 100


def test_after_close_the_descriptor_reads_without_o_direct(tmp_path: Path) -> None:
    """O_DIRECT is removed when it is no longer needed: then the descriptor allows reads of any size."""
    descriptor = os.open(tmp_path / "file", WRITE_FLAGS, 0o600)
    file = Appender(descriptor, cached=False)
    file.write(b"x" * 5000)
    file.finish()
    file.close()
    assert os.pread(descriptor, 7, 4999) == b"x"
    assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    os.close(descriptor)


def test_writes_that_the_disk_refuses_are_made_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with appender(path, cached=False) as file:
        file.write(whole)
        file.finish()
    assert refused == [0, 1 << 20]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(("cached", "hasher"), [(False, None), (True, None), (True, hashlib.sha256())])
def test_a_full_disk_is_an_error(tmp_path: Path, cached: bool, hasher: Any) -> None:
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)], check=True)
    try:
        with (
            appender(tmp_path / "file", cached=cached, hasher=hasher) as file,
            pytest.raises(OSError, match="No space"),
        ):
            for _ in range(16):
                file.write(os.urandom(1 << 20))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_is_written_if_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(SystemFailure, match="start new"), appender(tmp_path / "file", cached=False) as file:
        file.write(b"x" * (2 << 20))


class SlowDisk:
    """An ``os.pwrite`` that takes its time, by the clock that the appender reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, busy: float) -> None:
        self.now, self.seconds, self.busy, self.writes = 0.0, seconds, busy, 0
        self.hasher = hashlib.sha256()
        self.pwrite = os.pwrite
        monkeypatch.setattr("lamina.store.direct_io.time.monotonic", lambda: self.now)
        monkeypatch.setattr(os, "pwrite", self.write)
        # the next pieces wait whenever one is written
        monkeypatch.setattr("lamina.store.direct_io.queue.Queue.qsize", lambda _: 4)

    def update(self, data: bytes) -> None:
        self.now += self.busy
        self.hasher.update(data)

    def write(self, descriptor: int, data: Any, at: int) -> int:
        self.now += self.seconds
        self.writes += 1
        return self.pwrite(descriptor, data, at)


@pytest.mark.parametrize(
    ("lasting", "seconds", "busy", "around"),
    [
        (False, 0.02, 0.001, "some"),
        (True, 0.02, 0.001, "all"),
        (False, 0.001, 0.001, "all"),
        (False, 0.02, 0.02, "all"),  # the whole machine is slow: the disk is not to blame
    ],
)
def test_a_derived_file_does_not_wait_for_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool, seconds: float, busy: float, around: str
) -> None:
    """1 MiB in 20 ms is too slow: from then on this file and the next one are written through the cache."""
    disk: Any = SlowDisk(monkeypatch, seconds, busy)
    delay = DiskDelay()
    whole = os.urandom((40 << 20) + 77)
    descriptor = os.open(tmp_path / "file", WRITE_FLAGS, 0o600)
    file = Appender(descriptor, cached=False, lasting=lasting, delay=delay, hasher=disk)
    for at in range(0, len(whole), 700_000):
        file.write(whole[at : at + 700_000])
    file.finish()
    file.close()
    assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == whole
    assert disk.hasher.digest() == hashlib.sha256(whole).digest()
    assert delay.noticed == (around == "some")
    assert disk.writes == 41 if around == "all" else disk.writes == 3
    if around == "some":
        other = os.open(tmp_path / "other", WRITE_FLAGS, 0o600)
        assert not Appender(other, cached=False, lasting=False, delay=delay)._direct
        os.close(other)
