"""What a machine starts: a busybox with all that its scripts call, and programs that mounts have."""

from __future__ import annotations

import re
import struct
from importlib import resources
from pathlib import Path

import pytest

from lamina.run.machine import guest
from lamina.run.options import Mount


def test_the_applets_are_those_that_the_scripts_call() -> None:
    scripts = [one for one in resources.files("lamina.run.machine").iterdir() if one.name.endswith(".sh")]
    called = {name for one in scripts for name in re.findall(r"\$b ([a-z]+)", one.read_text())}
    # the scripts find these by another name, or initramfs.py calls them
    assert set(guest.APPLETS) == called | {"reboot", "env", "setsid"}


@pytest.mark.parametrize("lacking", ["", "unshare", "setsid"])
def test_a_smaller_busybox_starts_no_machine(lacking: str) -> None:
    head = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)
    names = [name for name in guest.APPLETS if name != lacking]
    data = head + b"\0" + b"\0".join(name.encode() for name in names) + b"\0"
    assert guest._starts_machines(data, "amd64") is (not lacking)
    assert not guest._starts_machines(data, "arm64")


@pytest.mark.parametrize(
    ("path", "named", "found"),
    [
        ("/src/run.sh", True, True),
        ("/src/run.sh", False, True),
        ("/src/../src/run.sh", True, True),
        ("/src/none", True, False),
        ("/srcrun.sh", True, False),
        ("/one", True, True),
        ("/data/x", True, True),
        ("/data/x", False, False),
        ("/src/data/x", True, True),
        ("/tmp/x", True, False),
        ("/bin/sh", True, False),
    ],
)
def test_programs_in_mounts(tmp_path: Path, path: str, named: bool, found: bool) -> None:
    (tmp_path / "run.sh").write_text("")
    mounts = [
        Mount("bind", str(tmp_path), "/src/"),
        Mount("bind", str(tmp_path / "run.sh"), "/one"),
        Mount("volume", "vol", "/data"),
        Mount("volume", "vol", "/src/data"),
        Mount("tmpfs", "", "/tmp"),
    ]
    assert guest._is_mounted(path, mounts, named=named) is found
