"""Durable files: which errors of a sync are ignored, and which are not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamina.host.files import sync_directory


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
