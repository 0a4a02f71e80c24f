"""`cp` while a program in the container changes its files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lamina.errors import UsageError
from lamina.run import file_copy as cp
from lamina.run.file_copy import copy_in, open_file
from lamina.run.rootfs import Inside

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
